"""fairseq's optimiser: Adam with decoupled decay, linear warm-up, linear decay to zero."""

import jax
import jax.numpy as jnp
import optax

from voc2vec_jax.config import OptimConfig


def learning_rate(config: OptimConfig, num_steps: int) -> optax.Schedule:
    """Learning rate by number of updates already done; the first update therefore has rate 0."""
    peak, warmup = config.learning_rate, config.warmup_steps
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0 if warmup else peak, peak, max(warmup, 1)),
            optax.linear_schedule(peak, 0.0, num_steps - warmup),
        ],
        [warmup],
    )


def optimizer(config: OptimConfig, num_steps: int) -> optax.GradientTransformation:
    """The whole update rule; weight decay applies to every parameter, as in fairseq."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        scale_by_fairseq_adam(config.beta1, config.beta2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay),
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
