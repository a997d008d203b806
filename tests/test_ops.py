"""Every fast form against its plain one, and the switch between them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx

from tests.conftest import NO_DROPOUT
from voc2vec_jax import ops
from voc2vec_jax.checkpoints.pretrained import Preprocessor, PretrainedModel
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.models import Wav2Vec2Model
from voc2vec_jax.models.layers import dropout, encoder_linear
from voc2vec_jax.models.parameters import Params, merge, split
from voc2vec_jax.models.wav2vec2 import Padding

BOUNDS = {jnp.float32: 1e-5, jnp.bfloat16: 1e-2}
"""On ‖Δ‖ / ‖plain‖, of values and gradients; bfloat16 resolves 4e-3."""
DTYPES = pytest.mark.parametrize("dtype", list(BOUNDS), ids=lambda dtype: dtype.__name__)
NEITHER = ("custom_vjp", "platform_index", "optimization_barrier")
"""What no plain form has."""

Operation = Callable[..., jax.Array]


def normal(seed: int, *shape: int, dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def agree(
    fast: Operation, plain: Operation, *arrays: jax.Array, bound: float | None = None
) -> None:
    """In values, dtypes, and gradients by all of `arrays` along a random direction."""

    def values_and_gradients(form: Operation) -> Callable[..., tuple[jax.Array, ...]]:
        def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
            out, vjp = jax.vjp(form, *arrays)
            return out, *vjp(normal(99, *out.shape, dtype=out.dtype))

        return run

    bound = BOUNDS[arrays[0].dtype.type] if bound is None else bound
    fast, plain = values_and_gradients(fast), values_and_gradients(plain)
    traced = str(jax.make_jaxpr(plain)(*arrays))
    assert not any(name in traced for name in NEITHER)
    pairs = zip(jax.jit(fast)(*arrays), jax.jit(plain)(*arrays), strict=True)
    for number, (ours, expected) in enumerate(pairs):
        assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
        wide = np.asarray(expected, np.float64)
        difference = np.linalg.norm(np.asarray(ours, np.float64) - wide)
        assert difference <= bound * max(np.linalg.norm(wide), 1), number


@DTYPES
@pytest.mark.parametrize(("masked", "rate"), [(False, 0.0), (True, 0.0), (False, 0.4), (True, 0.4)])
@pytest.mark.parametrize(("frames", "heads", "width"), [(1, 1, 1), (7, 3, 5), (49, 4, 16)])
def test_attention(
    frames: int, heads: int, width: int, masked: bool, rate: float, dtype: Any
) -> None:
    query, keys, values = (normal(n, 3, frames, heads, width, dtype=dtype) for n in range(3))
    lengths = jnp.array([frames, frames // 2, 0])  # the last clip has nothing to attend to
    mask = jnp.arange(frames)[None] < lengths[:, None] if masked else None

    def drop(weights: jax.Array) -> jax.Array:
        return dropout(weights, rate, jax.random.key(7))

    def fast(*qkv: jax.Array) -> jax.Array:
        return ops.attention(*qkv, mask, drop)

    def plain(*qkv: jax.Array) -> jax.Array:
        return ops.plain_attention(*qkv, mask, drop)

    agree(fast, plain, query, keys, values)


def test_attention_does_not_overflow() -> None:
    query, keys, values = (30 * normal(n, 2, 9, 2, 8) for n in range(3))
    ours, vjp = jax.vjp(ops.attention, query, keys, values)
    np.testing.assert_allclose(ours, ops.plain_attention(query, keys, values), rtol=1e-5)
    assert all(bool(jnp.isfinite(gradient).all()) for gradient in vjp(ours))


def test_gelu_and_its_derivative_are_exact() -> None:
    x = np.linspace(-12, 12, 24_001, dtype=np.float32)
    wide = x.astype(np.float64)
    distribution = scipy.special.ndtr(wide)
    np.testing.assert_allclose(ops.gelu(jnp.asarray(x)), wide * distribution, atol=1e-6, rtol=3e-7)
    derivative = distribution + wide * np.exp(-(wide**2) / 2) / np.sqrt(2 * np.pi)
    _, vjp = jax.vjp(ops.gelu, jnp.asarray(x))
    (ours,) = vjp(2 * jnp.ones_like(x))
    np.testing.assert_allclose(ours, 2 * derivative, atol=1e-6)
    assert np.isfinite(jax.grad(lambda x: ops.gelu(x))(jnp.float32(1e30)))


@DTYPES
@pytest.mark.parametrize("shape", [(), (7,), (3, 1, 5)])
def test_gelu(shape: tuple[int, ...], dtype: Any) -> None:
    agree(ops.gelu, ops.plain_gelu, 3 * normal(0, *shape, dtype=dtype))


def test_gelu_keeps_nothing_but_its_input() -> None:
    x = jnp.ones((3, 5))
    _, vjp = jax.vjp(ops.gelu, x)
    kept = [leaf for leaf in jax.tree.leaves(vjp) if getattr(leaf, "size", 0) > 1]
    assert len(kept) == 1


@DTYPES
@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (2, 5, 48)])
def test_layer_norm(shape: tuple[int, ...], dtype: Any) -> None:
    x = normal(0, *shape, dtype=dtype) + 3
    scale, bias = normal(1, shape[-1]), normal(2, shape[-1])

    def form(norm: Operation) -> Operation:
        return lambda x, scale, bias: norm(x, scale, bias, 1e-5)

    agree(form(ops.layer_norm), form(ops.plain_layer_norm), x, scale, bias)


LEADING = pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (2, 0, 6)])


@DTYPES
@LEADING
def test_linear_product(shape: tuple[int, ...], dtype: Any) -> None:
    def fast(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return ops.linear_product(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))

    x, kernel = normal(0, *shape, dtype=dtype), normal(1, 6, 5, dtype=dtype)
    agree(fast, ops.plain_linear_product, x, kernel)


@LEADING
def test_a_linear_layer_in_either_form(shape: tuple[int, ...]) -> None:
    layer, x = encoder_linear(6, 5, nnx.Rngs(0)), normal(1, *shape)
    expected = np.asarray(x) @ np.asarray(layer.kernel[...])
    np.testing.assert_allclose(layer(x), expected, atol=1e-6)
    with ops.plain():
        np.testing.assert_allclose(layer(x), expected, atol=1e-6)


SPREAD = [(samples, 3, 2) for samples in (3, 4, 9, 10)] + [
    (samples, taps, stride)
    for samples in (11, 40)
    for taps, stride in ((2, 2), (10, 5), (4, 3), (1, 2), (3, 1))
]


@pytest.mark.parametrize(
    ("samples", "taps", "stride", "dtype"),
    [(*sizes, jnp.float32) for sizes in SPREAD] + [(40, 3, 2, jnp.bfloat16)],
)
def test_strided_convolution(samples: int, taps: int, stride: int, dtype: Any) -> None:
    x = normal(0, 2, samples, 6, dtype=dtype)
    w = normal(1, taps, 6, 5, dtype=dtype)

    def fast(x: jax.Array, w: jax.Array) -> jax.Array:
        return ops.strided_conv(x, w, stride)

    def plain(x: jax.Array, w: jax.Array) -> jax.Array:
        return ops.plain_strided_conv(x, w, stride)

    np.testing.assert_array_equal(fast(x, w), plain(x, w))
    agree(fast, plain, x, w)


def test_its_weight_gradient_is_a_product_on_a_cpu() -> None:
    x, w = jnp.ones((1, 9, 4)), jnp.ones((3, 4, 5))
    grad = jax.jit(jax.grad(lambda w: ops.strided_conv(x, w, 2).sum()))
    assert "dot_general" in grad.lower(w).as_text()
    with ops.plain():
        assert "dot_general" not in grad.lower(w).as_text()


@pytest.mark.parametrize(
    ("frames", "taps", "groups", "dtype"),
    [(frames, 128, 4, jnp.float32) for frames in (1, 49, 250)]
    + [(9, *sizes, jnp.float32) for sizes in ((128, 4), (16, 1), (12, 3), (7, 2), (1, 4))]
    + [(49, 16, 2, jnp.bfloat16)],
)
def test_grouped_convolution(frames: int, taps: int, groups: int, dtype: Any) -> None:
    x = normal(0, 2, frames, 12, dtype=dtype)
    w = normal(1, taps, 12 // groups, 12, dtype=dtype)

    def fast(x: jax.Array, w: jax.Array) -> jax.Array:
        return ops.grouped_conv(x, w, groups)

    def plain(x: jax.Array, w: jax.Array) -> jax.Array:
        return ops.plain_grouped_conv(x, w, groups)

    agree(fast, plain, x, w)


def test_grouped_convolution_is_centred() -> None:
    """As in PyTorch with `padding=taps // 2`, from which the last frame of an even kernel goes."""
    x = normal(0, 1, 9, 1)
    for taps, shift in ((4, 2), (5, 2)):
        for tap in range(taps):
            w = jnp.zeros((taps, 1, 1)).at[tap].set(1)
            padded = np.pad(x[0, :, 0], (shift, taps))
            np.testing.assert_array_equal(ops.grouped_conv(x, w, 1)[0, :, 0], padded[tap:][:9])


def test_its_backward_pass_is_one_product_on_a_cpu() -> None:
    """The weight gradient of XLA's own pass is a convolution."""
    x, w = jnp.ones((1, 5, 4)), jnp.ones((4, 2, 4))
    backward = jax.jit(lambda x, w, g: jax.vjp(lambda *a: ops.grouped_conv(*a, 2), x, w)[1](g))
    fast = backward.lower(x, w, x).as_text()
    with ops.plain():
        plain = backward.lower(x, w, x).as_text()
    assert "dot_general" in fast
    assert "dot_general" not in plain
    assert fast.count("stablehlo.convolution") == plain.count("stablehlo.convolution") - 1


@pytest.mark.parametrize(
    ("taps", "stride", "lengths", "dtype"),
    [
        (10, 5, None, jnp.float32),
        (10, 5, (57, 200, 100), jnp.float32),
        (10, 5, (57, 200, 100), jnp.bfloat16),
        (4, 6, (57, 200, 100), jnp.float32),
        (3, 1, None, jnp.float32),
    ],
)
def test_normalised_convolution(
    taps: int, stride: int, lengths: tuple[int, ...] | None, dtype: Any
) -> None:
    # An offset and a quiet clip: what a variance that cancels would get wrong.
    loudness = jnp.array([1.0, 1e-3, 10.0]).reshape(3, 1, 1)
    x = loudness * (normal(0, 3, 203, 1) + 0.5)
    w = normal(1, taps, 1, 7)
    scale, bias = normal(2, 7), normal(3, 7)
    mask = None
    if lengths is not None:
        last = (jnp.array(lengths)[:, None] - taps) // stride
        mask = jnp.arange((203 - taps) // stride + 1)[None] <= last

    def form(conv: Operation) -> Operation:
        return lambda x, w, scale, bias: conv(
            x, w, mask, scale, bias, stride=stride, epsilon=1e-5, dtype=dtype
        )

    fast, plain = form(ops.normalised_conv), form(ops.plain_normalised_conv)
    # A quiet clip's gradients are differences of large terms.
    agree(fast, plain, x, w, scale, bias, bound=2e-5 if dtype == jnp.float32 else 2e-2)


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
    ours = ops.normalised_conv(
        x[None, :, None], w[:, None], None, ones, none, stride=5, epsilon=1e-5, dtype=jnp.float32
    )
    # The largest values, those of the padded signal, are about 30.
    np.testing.assert_allclose(ours[0], expected, atol=5e-5 if padded else 2e-5)


def test_the_folded_norm_is_what_runs_on_a_cpu() -> None:
    x, w, one = jnp.ones((1, 40, 1)), jnp.ones((10, 1, 4)), jnp.ones(4)
    options = {"stride": 5, "epsilon": 1e-5, "dtype": jnp.float32}
    run = jax.jit(lambda x: ops.normalised_conv(x, w, None, one, one, **options))
    assert "convolution" not in run.lower(x).as_text()
    with ops.plain():
        assert "convolution" in run.lower(x).as_text()


def form_of(function: Callable[..., Any], *arguments: Any) -> str:
    """`fast` or `plain`, by what the function is traced to."""
    return "fast" if "custom_vjp" in str(jax.make_jaxpr(function)(*arguments)) else "plain"


@pytest.mark.parametrize(
    "wrap",
    [
        jax.jit,
        jax.checkpoint,
        lambda function: lambda x: jax.lax.cond(x > 0, function, lambda x: x, x),
        lambda function: jax.jit(jax.checkpoint(function)),
    ],
    ids=["jit", "checkpoint", "cond", "both"],
)
def test_what_was_traced_before_switches_and_switches_back(wrap: Callable[..., Any]) -> None:
    function = wrap(lambda x: ops.gelu(x))
    for _ in range(2):
        assert form_of(function, 1.0) == "fast"
        with ops.plain():
            assert form_of(function, 1.0) == "plain"
            with ops.plain():
                assert form_of(function, 1.0) == "plain"
            assert form_of(function, 1.0) == "plain"
    with pytest.raises(KeyError), ops.plain():
        raise KeyError
    assert form_of(function, 1.0) == "fast"


def test_programs_of_both_forms_are_kept() -> None:
    traced = []

    @jax.jit
    def program(x: jax.Array) -> jax.Array:
        traced.append(x)
        return ops.gelu(x)

    for _ in range(2):
        program(1.0)
        with ops.plain():
            program(1.0)
    assert len(traced) == 2


def test_the_switch_is_that_of_all_threads() -> None:
    """Of blocks that overlap, too, whichever of them ends first."""
    program = jax.jit(lambda x: ops.gelu(x))
    entered, leave = threading.Event(), threading.Event()

    def another_block() -> str:
        with ops.plain():
            entered.set()
            leave.wait(60)
            return form_of(program, 1.0)

    with ThreadPoolExecutor(2) as pool:
        assert pool.submit(form_of, program, 1.0).result() == "fast"
        with ops.plain():
            assert pool.submit(form_of, program, 1.0).result() == "plain"
            other = pool.submit(another_block)
            entered.wait(60)
        assert form_of(program, 1.0) == "plain"
        leave.set()
        assert other.result() == "plain"
        assert pool.submit(form_of, program, 1.0).result() == form_of(program, 1.0) == "fast"


def tiny_model(config: ModelConfig, padding: Padding = "masked") -> PretrainedModel:
    """Random weights, of which none is 0 or 1."""
    _, params = split(Wav2Vec2Model(config, rngs=nnx.Rngs(0)))
    for number, (name, value) in enumerate(sorted(params.items())):
        params[name] = value + 0.1 * normal(number, *value.shape)
    return PretrainedModel(
        Wav2Vec2Model, config, params, preprocessor=Preprocessor(), padding=padding
    )


def test_a_model_that_was_called_before_switches_and_switches_back(
    tiny_config: ModelConfig,
) -> None:
    model = tiny_model(tiny_config)
    waveform = np.asarray(normal(0, 2, 1_000))

    def call() -> np.ndarray:
        return np.asarray(model(waveform, [1_000, 700]).last_hidden_state)

    before = call()
    with ops.plain():
        inside = call()
    assert np.any(before != inside), "forms that round alike prove nothing"
    np.testing.assert_allclose(before, inside, atol=1e-5)
    np.testing.assert_array_equal(before, call())
    with ops.plain():
        np.testing.assert_array_equal(inside, call())


@pytest.mark.unoptimised
@pytest.mark.parametrize(
    ("padding", "keyed"),
    [
        pytest.param("hf", False, id="evaluation"),
        pytest.param("masked", True, id="training", marks=pytest.mark.thorough),
    ],
)
def test_a_model_is_the_same_in_plain_form(
    tiny_config: ModelConfig, padding: Padding, keyed: bool
) -> None:
    """Its hidden states, and the gradient of every parameter; in training with dropout."""
    config = ModelConfig(**{**vars(tiny_config), **({"layerdrop": 0.0} if keyed else NO_DROPOUT)})
    params = tiny_model(config).params
    graphdef, _ = split(Wav2Vec2Model(config, rngs=nnx.Rngs(0)))
    waveform, lengths = normal(0, 3, 6_000), jnp.array([6_000, 3_000, 1_000])

    def run(params: Params) -> tuple[jax.Array, Any]:
        out = merge(graphdef, params)(
            waveform,
            lengths,
            padding=padding,
            output_hidden_states=True,
            key=jax.random.key(1) if keyed else None,
        )
        direction = normal(2, *out.last_hidden_state.shape)
        loss = (direction * out.last_hidden_state * out.frame_mask[:, :, None]).sum()
        return loss, (out.conv_features, *out.hidden_states)

    program = jax.jit(jax.grad(run, has_aux=True))
    gradients, states = program(params)
    with ops.plain():
        plain_gradients, plain_states = program(params)
        traced = str(jax.make_jaxpr(program)(params))
    assert not any(name in traced for name in (*NEITHER, "cond["))
    for ours, plain in zip(states, plain_states, strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-5)
    whole = np.sqrt(sum(float(jnp.square(g).sum()) for g in plain_gradients.values()))
    for name, plain in plain_gradients.items():
        # The gradient of the keys' bias, for one, is nothing but rounding.
        size = max(float(jnp.linalg.norm(plain)), 1e-4 * whole)
        assert float(jnp.linalg.norm(gradients[name] - plain)) <= 1e-4 * size, name


def test_the_forward_pass_in_plain_form_holds_nothing_of_the_fast_one(
    tiny_config: ModelConfig,
) -> None:
    model = tiny_model(tiny_config)
    arguments = (model.params, normal(0, 2, 1_000), jnp.array([1_000, 700]))

    def traced() -> str:
        return str(jax.make_jaxpr(lambda *given: model._forward(*given, True))(*arguments))

    fast = traced()
    assert "custom_vjp" in fast
    assert "platform_index" in fast
    with ops.plain():
        plain = traced()
    assert not any(name in plain for name in (*NEITHER, "cond["))
