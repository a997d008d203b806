"""The hand-written backward pass against automatic differentiation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from voc2vec_jax.models import positional_conv
from voc2vec_jax.models.positional_conv import grouped_conv


def plain_conv(x: jax.Array, w: jax.Array, groups: int) -> jax.Array:
    taps = w.shape[0]
    padded = jnp.pad(x, ((0, 0), (taps // 2, taps - 1 - taps // 2), (0, 0)))
    return jax.lax.conv_general_dilated(
        padded,
        w,
        (1,),
        "VALID",
        dimension_numbers=positional_conv.DIMENSIONS,
        feature_group_count=groups,
    )


@pytest.mark.parametrize("frames", [1, 9, 49, 250])
@pytest.mark.parametrize(("taps", "groups"), [(128, 4), (16, 1), (12, 3), (7, 2), (1, 4)])
def test_gradients_equal_autodiff(frames: int, taps: int, groups: int) -> None:
    channels = 12
    keys = jax.random.split(jax.random.key(frames), 3)
    x = jax.random.normal(keys[0], (2, frames, channels))
    w = jax.random.normal(keys[1], (taps, channels // groups, channels))
    ours, our_vjp = jax.vjp(lambda x, w: grouped_conv(x, w, groups), x, w)
    oracle, oracle_vjp = jax.vjp(lambda x, w: plain_conv(x, w, groups), x, w)
    np.testing.assert_allclose(ours, oracle, atol=1e-5)
    seed = jax.random.normal(keys[2], ours.shape)
    for gradient, expected in zip(our_vjp(seed), oracle_vjp(seed), strict=True):
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * max(scale, 1))


def test_the_fast_backward_pass_is_what_runs_on_a_cpu() -> None:
    """The weight gradient of XLA's own pass is a convolution; ours is a matrix product."""
    x, w = jnp.ones((1, 5, 4)), jnp.ones((4, 2, 4))

    def lowered(backward: Callable[..., tuple[jax.Array, jax.Array]]) -> str:
        return str(jax.jit(lambda x, w, g: backward(2, (x, w), g)).lower(x, w, x).as_text())

    def xla(groups: int, residuals: tuple[jax.Array, jax.Array], grad: jax.Array) -> Any:
        return positional_conv._backward_by_xla(*residuals, grad, groups=groups)

    assert "dot_general" not in lowered(xla)
    assert "dot_general" in lowered(positional_conv._backward)
    assert lowered(positional_conv._backward).count("stablehlo.convolution") == 1
