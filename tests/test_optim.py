"""The update rule against fairseq's arithmetic written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from voc2vec_jax.config import OptimConfig
from voc2vec_jax.optim import learning_rate, optimizer

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


def test_updates_equal_fairseqs_adam() -> None:
    rng = np.random.default_rng(0)
    p = rng.standard_normal(5)
    params = {"w": jnp.asarray(p, jnp.float32)}
    rule = optimizer(CONFIG, 10)
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
    ours = optimizer(CONFIG, 10)
    adamw = optax.scale_by_adam(0.9, 0.98, eps=1e-3)
    state, reference = ours.init(params), adamw.init(params)
    for _ in range(2):
        update, state = ours.update(gradient, state, params)
        plain, reference = adamw.update(gradient, reference, params)
    rate = fairseq_rate(1, CONFIG, 10)
    undecayed = -update["w"] / rate - 0.1
    assert float(jnp.abs(undecayed - plain["w"]).max()) > 0.1


def test_clipping_bounds_the_gradient_norm() -> None:
    config = OptimConfig(warmup_steps=0, clip_norm=1.0, weight_decay=0.0)
    params = {"w": jnp.zeros(2)}
    rule = optimizer(config, 10)
    _, state = rule.update({"w": jnp.array([30.0, 40.0])}, rule.init(params), params)
    np.testing.assert_allclose(state[1].mu["w"], [0.06, 0.08], rtol=1e-5)
