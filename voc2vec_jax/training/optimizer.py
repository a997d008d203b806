"""fairseq's optimiser: Adam with decoupled decay, linear warm-up, linear decay to zero.

Parameters are a flat dict by dotted path, so that what is decayed, how fast, and what is frozen is
chosen by regular expressions on paths.
"""

import re
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import optax

from voc2vec_jax.config import ModelConfig, OptimConfig
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.models.parameters import Params


def learning_rate(config: OptimConfig, num_steps: int | jax.Array) -> optax.Schedule:
    """Learning rate by number of updates already done; the first update therefore has rate 0.

    Without warm-up it has the peak rate. `num_steps` may be an input of a compiled program, so that
    runs of different lengths share it (optax's own schedules want a constant).
    """
    peak = config.learning_rate
    rise = warmup(config, num_steps)
    decay = jnp.maximum(num_steps - rise, 1)

    def rate(done: jax.Array) -> jax.Array:
        rising = peak - peak * (1 - jnp.clip(done, 0, rise) / jnp.maximum(rise, 1))
        falling = peak * (1 - jnp.clip(done - rise, 0, decay) / decay)
        return jnp.where(done < rise, rising, falling)

    return rate


def warmup(config: OptimConfig, num_steps: int | jax.Array) -> int | jax.Array:
    """Updates until the learning rate has its peak, in a run of `num_steps`."""
    if config.warmup_share is None:
        return config.warmup_steps
    return jnp.ceil(config.warmup_share * num_steps).astype(jnp.int32)


def trained_paths(config: OptimConfig, paths: Collection[str]) -> list[str]:
    """Those of `paths` that `optim.frozen` leaves to be trained.

    Raises:
        ConfigError: An expression matches no path, or none is left.
    """
    matches = {pattern: re.compile(pattern).fullmatch for pattern in config.frozen}
    for pattern, match in matches.items():
        if not any(map(match, paths)):
            raise ConfigError(f"optim.frozen={pattern!r}: matches no parameter{_like(paths)}")
    trained = [path for path in paths if not any(match(path) for match in matches.values())]
    if not trained:
        raise ConfigError(f"optim.frozen={config.frozen}: no parameter is left to train")
    return trained


def values_by_path(
    rules: Sequence[tuple[str, float]], paths: Collection[str], field: str
) -> dict[str, float]:
    """The value that the first matching rule gives to each path.

    Args:
        rules: Regular expressions, which must match a whole path, with values; in order.
        paths: Dotted paths of all parameters.
        field: Name of the field that holds the rules, for errors.

    Raises:
        ConfigError: Paths that no rule covers, all of them listed, or a rule that decides nothing.
    """
    values: dict[str, float] = {}
    for pattern, value in rules:
        matched = [path for path in paths if re.fullmatch(pattern, path)]
        decided = [path for path in matched if path not in values]
        if not matched:
            raise ConfigError(f"{field}: {pattern!r} matches no parameter{_like(paths)}")
        if not decided:
            raise ConfigError(
                f"{field}: {pattern!r} decides nothing, as rules before it match all of its "
                "parameters; the first match decides, so put it before them"
            )
        values.update(dict.fromkeys(decided, value))
    uncovered = [path for path in paths if path not in values]
    if uncovered:
        raise ConfigError(
            f"{field}: no rule for {len(uncovered)} parameters; add one, such as ('.*', 1.0) at "
            "the end:\n  " + "\n  ".join(uncovered)
        )
    return values


def layer_wise_rates(model: ModelConfig, decay: float) -> tuple[tuple[str, float], ...]:
    """Rules for `optim.learning_rate_by_path`: the deeper a layer lies, the slower it learns.

    The classifier has factor 1, the last of L transformer layers `decay`, the first decay^L, and
    all that lies before it decay^(L + 1). The norm behind the last layer of a pre-norm model goes
    with that layer.

    Args:
        model: A classifier's.
        decay: Between a layer and the one below it, in (0, 1].
    """
    encoder, layers = re.escape(model.model_type), model.num_hidden_layers
    rules = [
        (rf"{encoder}\.encoder\.layers\.{layer}\..*", decay ** (layers - layer))
        for layer in range(layers)
    ]
    if model.do_stable_layer_norm:
        rules.append((rf"{encoder}\.encoder\.layer_norm\..*", decay))
    return (*rules, (rf"{encoder}\..*", decay ** (layers + 1)), (".*", 1.0))


def _like(paths: Collection[str]) -> str:
    return f"; a path as a whole must match, such as {min(paths)} or {max(paths)}"


def optimizer(
    config: OptimConfig, num_steps: int | jax.Array, paths: Collection[str]
) -> optax.GradientTransformation:
    """The whole update rule, for the parameters that are trained; the schedule comes last in it.

    Args:
        config: Its numbers, and its rules by path.
        num_steps: Updates of the run; see `learning_rate`.
        paths: Dotted paths of all parameters, frozen ones included.

    Raises:
        ConfigError: Rules that do not cover the parameters, or that match none.
    """
    decay = {
        path: config.weight_decay * factor
        for path, factor in values_by_path(
            config.weight_decay_by_path, paths, "optim.weight_decay_by_path"
        ).items()
    }
    rate = values_by_path(config.learning_rate_by_path, paths, "optim.learning_rate_by_path")

    def decay_and_scale(updates: Params, params: Params) -> Params:
        return {p: rate[p] * (update + decay[p] * params[p]) for p, update in updates.items()}

    adam = optax.scale_by_adam if config.epsilon_placement == "torch" else scale_by_fairseq_adam
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        adam(config.beta1, config.beta2, config.epsilon),
        optax.stateless(decay_and_scale),
        optax.scale_by_learning_rate(learning_rate(config, num_steps)),
    )


def scale_by_fairseq_adam(
    beta1: float, beta2: float, epsilon: float
) -> optax.GradientTransformation:
    """Adam whose epsilon joins √v before the bias correction.

    `optax.scale_by_adam` and PyTorch add it after the correction. The difference is an epsilon
    that is 1/√(1-β2ᵗ) times larger, which matters in the first updates and for tiny gradients.
    """

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(
            count=jnp.zeros((), jnp.int32), mu=zeros, nu=jax.tree.map(jnp.zeros_like, params)
        )

    def update(
        updates: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, beta1, 1)
        nu = optax.tree.update_moment(updates, state.nu, beta2, 2)
        step_size = jnp.sqrt(1 - beta2**count) / (1 - beta1**count)
        scaled = jax.tree.map(lambda m, v: step_size * m / (jnp.sqrt(v) + epsilon), mu, nu)
        return scaled, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)
