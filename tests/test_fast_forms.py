"""Hand-written derivatives and forms for the CPU against the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from voc2vec_jax.models.layers import gelu


def test_gelu_and_its_derivative_are_exact() -> None:
    x = np.linspace(-12, 12, 24_001, dtype=np.float32)
    wide = x.astype(np.float64)
    distribution = scipy.special.ndtr(wide)
    np.testing.assert_allclose(gelu(jnp.asarray(x)), wide * distribution, atol=1e-6, rtol=3e-7)
    derivative = distribution + wide * np.exp(-(wide**2) / 2) / np.sqrt(2 * np.pi)
    _, vjp = jax.vjp(gelu, jnp.asarray(x))
    (ours,) = vjp(2 * jnp.ones_like(x))
    np.testing.assert_allclose(ours, 2 * derivative, atol=1e-6)
    assert np.isfinite(jax.grad(lambda x: gelu(x))(jnp.float32(1e30)))


def test_gelu_keeps_nothing_but_its_input() -> None:
    x = jnp.ones((3, 5))
    _, vjp = jax.vjp(gelu, x)
    kept = [leaf for leaf in jax.tree.leaves(vjp) if getattr(leaf, "size", 0) > 1]
    assert len(kept) == 1


def test_gelu_keeps_half_precision() -> None:
    x = jnp.linspace(-3, 3, 7, dtype=jnp.bfloat16)
    assert gelu(x).dtype == jax.grad(lambda x: gelu(x).sum())(x).dtype == jnp.bfloat16
