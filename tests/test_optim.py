"""The update rule against fairseq's arithmetic written out in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from voc2vec_jax.config import OptimConfig
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.training.optimizer import learning_rate, optimizer, trained_paths, values_by_path

CONFIG = OptimConfig(learning_rate=0.02, warmup_steps=3, epsilon=1e-3, weight_decay=0.1)


def fairseq_rate(done: int, config: OptimConfig, total: int) -> float:
    warmup = config.warmup_steps
    if done <= warmup and warmup:
        return config.learning_rate * done / warmup
    return config.learning_rate * (1 - (done - warmup) / (total - warmup))


@pytest.mark.parametrize("warmup", [0, 3])
def test_learning_rate_by_updates_done(warmup: int) -> None:
    config = OptimConfig(learning_rate=0.02, warmup_steps=warmup)
    schedule = learning_rate(config, 10)
    rates = [float(schedule(done)) for done in range(11)]
    np.testing.assert_allclose(rates, [fairseq_rate(d, config, 10) for d in range(11)], atol=1e-9)
    assert rates[0] == pytest.approx(0.0 if warmup else 0.02)
    assert rates[10] == 0.0


def test_a_share_of_warm_up_follows_the_length_of_the_run() -> None:
    """Rounded up, also where the length is an input of a compiled program."""
    share = OptimConfig(learning_rate=0.02, warmup_share=0.25)
    steps = OptimConfig(learning_rate=0.02, warmup_steps=3)
    compiled = jax.jit(lambda done, total: learning_rate(share, total)(done))
    for done in range(11):
        expected = float(learning_rate(steps, 10)(done))
        assert float(learning_rate(share, 10)(done)) == pytest.approx(expected, abs=1e-9)
        assert float(compiled(done, 10)) == pytest.approx(expected, abs=1e-9)


def test_a_run_may_end_before_its_peak() -> None:
    """As short runs of the voc2vec repository's recipe do, with their 500 updates of warm-up."""
    schedule = learning_rate(OptimConfig(learning_rate=0.02, warmup_steps=500), 100)
    assert [float(schedule(done)) for done in (0, 50, 99)] == pytest.approx([0, 0.002, 0.00396])


def test_updates_equal_fairseqs_adam() -> None:
    rng = np.random.default_rng(0)
    p = rng.standard_normal(5)
    params = {"w": jnp.asarray(p, jnp.float32)}
    rule = optimizer(CONFIG, 10, params)
    state = rule.init(params)
    m = v = np.zeros(5)
    for done in range(6):
        g = rng.standard_normal(5) * 10.0 ** -rng.integers(0, 5)
        updates, state = jax.jit(rule.update)({"w": jnp.asarray(g, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)

        m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g**2
        rate = fairseq_rate(done, CONFIG, 10)
        step_size = rate * np.sqrt(1 - 0.98 ** (done + 1)) / (1 - 0.9 ** (done + 1))
        p = p - rate * 0.1 * p - step_size * m / (np.sqrt(v) + 1e-3)
        np.testing.assert_allclose(params["w"], p, rtol=2e-6, atol=1e-6)


def test_epsilon_placement_differs_from_adamw() -> None:
    params, gradient = {"w": jnp.ones(3)}, {"w": jnp.full(3, 1e-3)}
    ours = optimizer(CONFIG, 10, params)
    adamw = optax.scale_by_adam(0.9, 0.98, eps=1e-3)
    state, reference = ours.init(params), adamw.init(params)
    for _ in range(2):
        update, state = ours.update(gradient, state, params)
        plain, reference = adamw.update(gradient, reference, params)
    rate = fairseq_rate(1, CONFIG, 10)
    undecayed = -update["w"] / rate - 0.1
    assert float(jnp.abs(undecayed - plain["w"]).max()) > 0.1


def test_torch_placement_of_epsilon_is_that_of_torch() -> None:
    config = OptimConfig(
        learning_rate=0.02,
        warmup_steps=0,
        epsilon=1e-3,
        weight_decay=0.1,
        epsilon_placement="torch",
    )
    rng = np.random.default_rng(0)
    start = rng.standard_normal(5).astype(np.float32)
    params = {"w": jnp.asarray(start)}
    theirs = torch.nn.Parameter(torch.tensor(start))
    rule = optimizer(config, 10, params)
    state = rule.init(params)
    for done in range(6):
        g = (rng.standard_normal(5) * 10.0 ** -rng.integers(0, 5)).astype(np.float32)
        updates, state = rule.update({"w": jnp.asarray(g)}, state, params)
        params = optax.apply_updates(params, updates)
        theirs.grad = torch.tensor(g)
        rate = fairseq_rate(done, config, 10)
        if done == 0:
            adamw = torch.optim.AdamW([theirs], betas=(0.9, 0.98), eps=1e-3, weight_decay=0.1)
        adamw.param_groups[0]["lr"] = rate
        adamw.step()
        np.testing.assert_allclose(params["w"], theirs.detach(), rtol=2e-6, atol=1e-6)


PATHS = ("conv.kernel", "conv.bias", "norm.scale", "head.kernel", "head.bias")


def test_the_first_rule_that_matches_decides() -> None:
    rules = ((r".*\.(bias|scale)", 0.0), ("head.*", 2.0), (".*", 1.0))
    values = values_by_path(rules, PATHS, "optim.weight_decay_by_path")
    assert values == dict(zip(PATHS, (1.0, 0.0, 0.0, 2.0, 0.0), strict=True))


WRONG_RULES = [
    ((("head.*", 1.0),), "no rule for 3 parameters.*\n  conv.kernel\n  conv.bias\n  norm.scale$"),
    ((("decoder.*", 1.0), (".*", 1.0)), "'decoder.*' matches no parameter.*such as conv.bias"),
    ((("bias", 1.0), (".*", 1.0)), "'bias' matches no parameter; a path as a whole must match"),
    (((".*", 1.0), (".*bias", 0.5)), "'.*bias' decides nothing.*put it before"),
    ((), "no rule for 5 parameters"),
]


@pytest.mark.parametrize(("rules", "message"), WRONG_RULES)
@pytest.mark.parametrize("field", ["weight_decay_by_path", "learning_rate_by_path"])
def test_rules_must_cover_every_parameter_and_each_must_decide(
    field: str, rules: tuple[tuple[str, float], ...], message: str
) -> None:
    config = OptimConfig(**{field: rules})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"(?s)^optim\.{field}: {message}"):
        optimizer(config, 10**6, PATHS)


def test_frozen_parameters_are_chosen_by_path() -> None:
    config = OptimConfig(frozen=("conv.*", r".*\.bias"))
    assert trained_paths(config, PATHS) == ["norm.scale", "head.kernel"]
    assert trained_paths(OptimConfig(), PATHS) == list(PATHS)
    with pytest.raises(ConfigError, match=r"optim\.frozen='decoder': matches no parameter"):
        trained_paths(OptimConfig(frozen=("decoder",)), PATHS)
    with pytest.raises(ConfigError, match="no parameter is left to train"):
        trained_paths(OptimConfig(frozen=(".*",)), PATHS)


def test_decay_and_learning_rate_by_path() -> None:
    """Doubling a factor on the rate doubles the update, decay included; no decay is no decay."""
    params = {path: jnp.full(3, 2.0) for path in PATHS}
    gradients = {path: jnp.array([1.0, -0.5, 0.25]) for path in PATHS}
    base = dataclasses.replace(CONFIG, warmup_steps=0)
    rules = dataclasses.replace(
        base,
        weight_decay_by_path=((r".*\.bias", 0.0), (".*", 1.0)),
        learning_rate_by_path=(("head.*", 4.0), (".*", 1.0)),
    )
    none = dataclasses.replace(base, weight_decay=0.0)

    def updates(config: OptimConfig) -> dict[str, jax.Array]:
        rule = optimizer(config, 10, PATHS)
        return rule.update(gradients, rule.init(params), params)[0]

    plain, chosen, undecayed = updates(base), updates(rules), updates(none)
    for path, factor in zip(PATHS, (1, 1, 1, 4, 4), strict=True):
        expected = undecayed if path.endswith("bias") else plain
        np.testing.assert_array_equal(chosen[path], factor * expected[path])
    assert (undecayed["conv.kernel"] != plain["conv.kernel"]).all()


def test_clipping_bounds_the_gradient_norm() -> None:
    config = OptimConfig(warmup_steps=0, clip_norm=1.0, weight_decay=0.0)
    params = {"w": jnp.zeros(2)}
    rule = optimizer(config, 10, params)
    _, state = rule.update({"w": jnp.array([30.0, 40.0])}, rule.init(params), params)
    np.testing.assert_allclose(state[1].mu["w"], [0.06, 0.08], rtol=1e-5)
