"""Hand-written derivatives and forms for the CPU against the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx

from voc2vec_jax.models.layers import encoder_linear, gelu
from voc2vec_jax.ops.normalised_convolution import (
    norm_over_time,
    normalised_conv,
    plain_conv,
    strided_conv,
)


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


@pytest.mark.parametrize("samples", [9, 10, 11, 40])
@pytest.mark.parametrize(("taps", "stride"), [(3, 2), (2, 2), (10, 5), (4, 3), (1, 2), (3, 1)])
def test_gradients_of_strided_convolutions(samples: int, taps: int, stride: int) -> None:
    keys = jax.random.split(jax.random.key(samples), 3)
    x = jax.random.normal(keys[0], (2, max(samples, taps), 6))
    w = jax.random.normal(keys[1], (taps, 6, 5))
    ours, our_vjp = jax.vjp(lambda x, w: strided_conv(x, w, stride), x, w)
    plain, plain_vjp = jax.vjp(lambda x, w: plain_conv(x, w, stride), x, w)
    np.testing.assert_array_equal(ours, plain)
    seed = jax.random.normal(keys[2], ours.shape)
    for gradient, expected in zip(our_vjp(seed), plain_vjp(seed), strict=True):
        np.testing.assert_allclose(gradient, expected, atol=2e-5)


def test_the_weight_gradient_on_a_cpu_is_a_product() -> None:
    x, w = jnp.ones((1, 9, 4)), jnp.ones((3, 4, 5))
    grad = jax.jit(jax.grad(lambda w: strided_conv(x, w, 2).sum()))
    assert "dot_general" in grad.lower(w).as_text()


@pytest.mark.parametrize("lengths", [None, (57, 200, 100)])
def test_the_norm_folded_into_the_first_convolution(lengths: tuple[int, ...] | None) -> None:
    keys = jax.random.split(jax.random.key(0), 5)
    # An offset and a quiet clip: what a variance that cancels would get wrong.
    loudness = jnp.array([1.0, 1e-3, 10.0]).reshape(3, 1, 1)
    x = loudness * (jax.random.normal(keys[0], (3, 203, 1)) + 0.5)
    w = jax.random.normal(keys[1], (10, 1, 7))
    scale, bias = jax.random.normal(keys[2], (7,)), jax.random.normal(keys[3], (7,))
    frames = (203 - 10) // 5 + 1
    mask = None
    if lengths is not None:
        mask = jnp.arange(frames)[None] < (jnp.array(lengths)[:, None] - 10) // 5 + 1

    def folded(x: jax.Array, w: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return normalised_conv(x, w, 5, mask, scale, bias, 1e-5)

    def plain(x: jax.Array, w: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return norm_over_time(plain_conv(x, w, 5), mask, scale, bias, 1e-5)

    ours, our_vjp = jax.vjp(folded, x, w, scale, bias)
    expected, expected_vjp = jax.vjp(plain, x, w, scale, bias)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    seed = jax.random.normal(keys[4], ours.shape)
    for gradient, other in zip(our_vjp(seed), expected_vjp(seed), strict=True):
        size = float(jnp.linalg.norm(other))
        assert float(jnp.linalg.norm(gradient - other)) <= 2e-5 * size


@pytest.mark.parametrize("kind", ["random", "no mean", "difference"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_folded_norm_of_smooth_signals_and_high_pass_filters(kind: str, padded: bool) -> None:
    """Voices are smooth: what a difference of neighbours leaves of them is a thousandth."""
    random = np.random.default_rng(0)
    samples, taps = 16_000, 10
    time = np.arange(samples) / 16_000
    x = (np.sin(2 * np.pi * 150 * time) + 0.01 * random.standard_normal(samples)).astype(np.float32)
    if padded:
        x[4_000:] = 0
    w = random.standard_normal((taps, 64)).astype(np.float32)
    if kind == "no mean":
        w -= w.mean(axis=0)
    elif kind == "difference":
        w[:] = 0
        w[4], w[5] = -1, 1
    frames = (samples - taps) // 5 + 1
    seen = np.stack([x[i : i + 5 * frames : 5][:frames] for i in range(taps)], axis=-1)
    out = seen.astype(np.float64) @ w
    expected = (out - out.mean(axis=0)) / np.sqrt(out.var(axis=0) + 1e-5)
    ones, none = jnp.ones(64), jnp.zeros(64)
    ours = normalised_conv(x[None, :, None], w[:, None], 5, None, ones, none, 1e-5)[0]
    # The largest values, those of the padded signal, are about 30.
    np.testing.assert_allclose(ours, expected, atol=5e-5 if padded else 2e-5)


def test_the_folded_norm_is_what_runs_on_a_cpu() -> None:
    x, w, one = jnp.ones((1, 40, 1)), jnp.ones((10, 1, 4)), jnp.ones(4)
    run = jax.jit(lambda x: normalised_conv(x, w, 5, None, one, one, 1e-5))
    assert "convolution" not in run.lower(x).as_text()


def test_a_linear_layer_over_any_leading_axes() -> None:
    layer = encoder_linear(6, 5, nnx.Rngs(0))
    for shape in ((6,), (3, 6), (2, 3, 6), (2, 0, 6)):
        x = jax.random.normal(jax.random.key(1), shape)
        expected = np.asarray(x) @ np.asarray(layer.kernel[...])
        np.testing.assert_allclose(layer(x), expected, atol=1e-6)
