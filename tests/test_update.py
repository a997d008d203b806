"""One update: micro-batches and precision."""

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import programs
from tests.conftest import ARCHITECTURES
from tests.meshes import CONFIG, batch_of
from voc2vec_jax.config import Config, MeshConfig
from voc2vec_jax.config.train import Precision
from voc2vec_jax.distributed import sharding
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.models.parameters import Params
from voc2vec_jax.objectives import Batch, Wav2Vec2Task
from voc2vec_jax.training.gradients import add_up
from voc2vec_jax.training.precision import check_sum_of_gradients, to_compute
from voc2vec_jax.training.update import Training

pytestmark = pytest.mark.unoptimised


def changed(config: Config, **sections: dict[str, object]) -> Config:
    return dataclasses.replace(
        config,
        **{
            name: dataclasses.replace(getattr(config, name), **values)
            for name, values in sections.items()
        },
    )


ONE = (1, 1, 1)
ALL = (1, 2, 2)  # parameters and layers split too, over four devices


@functools.cache
def run(config: Config, steps: int, shape: tuple[int, int, int] = ONE) -> list[dict[str, float]]:
    """Means of all metrics, update by update, on a mesh."""
    config = dataclasses.replace(config, mesh=MeshConfig(*shape))
    mesh = sharding.build_mesh(config.mesh, jax.devices()[: int(np.prod(shape))])
    training = Training(config, Wav2Vec2Task(config), mesh)
    state, means = training.initial_state(), []
    for step in range(steps):
        state, metrics = training.step(state, sharding.place_batch(batch_of(step), mesh))
        means.append({k: float(v.total) / float(v.count) for k, v in metrics.items()})
    return means


PLAIN = changed(CONFIG, model={"diversity_loss_weight": 0.0})


@pytest.mark.parametrize("shape", [pytest.param(ONE, marks=pytest.mark.thorough), ALL])
def test_micro_batches_add_up_to_their_batch(shape: tuple[int, int, int]) -> None:
    """Dropout and layer drop included; all but the diversity term, which is a micro-batch's."""
    whole = run(PLAIN, 4)
    split = run(changed(PLAIN, train={"accumulate_steps": 4}), 4, shape)
    for ours, theirs in zip(split, whole, strict=True):
        for name in ("loss", "contrastive_loss", "feature_penalty", "accuracy", "gradient_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name


def test_a_split_that_does_not_divide_is_refused_with_the_numbers() -> None:
    mesh = sharding.build_mesh(MeshConfig())
    sharding.check_batch(24, mesh, 3)
    with pytest.raises(
        ConfigError, match=r"16 clips .* 3 micro-batches × data × fsdp = 4 .* multiple of 12"
    ):
        sharding.check_batch(16, mesh, 3)


def test_micro_batches_on_a_mesh_are_those_of_one_device() -> None:
    """Diversity, dropout and layer drop included; gradients are split over fsdp and data."""
    split = changed(CONFIG, train={"accumulate_steps": 2})
    for ours, theirs in zip(run(split, 3, (2, 2, 1)), run(split, 3), strict=True):
        for name in ("loss", "diversity_loss", "gradient_norm", "update_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name


def test_gradients_are_added_up_in_float32_unless_asked_otherwise() -> None:
    added = re.compile(r"(?:all_reduce|reduce_scatter)(?:.|\n)*?\) : \(tensor<([^>]*)>")
    dtypes = {}
    for choice in get_args(Precision):
        config = changed(BF16, train={"gradients_added_in": choice})
        mesh = sharding.build_mesh(MeshConfig(2, 2, 1), jax.devices())
        training = Training(config, Wav2Vec2Task(config), mesh)
        run_of = (jax.eval_shape(jax.random.key, 0), np.int32(9))
        step = training._compiled_step.trace(training.described_state, abstract_batch(), *run_of)
        text = step.lower(lowering_platforms=("tpu",)).as_text()
        dtypes[choice] = [shape.split("x")[-1] for shape in added.findall(text)]
    gradients = len(Training(BF16, Wav2Vec2Task(BF16), mesh).abstract_state["params"])
    assert set(dtypes["fp32"]) == {"f32"}
    assert len(dtypes["fp32"]) >= gradients
    assert dtypes["bf16"].count("bf16") >= gradients
    with pytest.raises(ConfigError, match=r"train\.gradients_added_in='bf16': CPUs"):
        check_sum_of_gradients(changed(BF16, train={"gradients_added_in": "bf16"}).train, mesh)


@pytest.mark.parametrize("devices", [1, 4])
def test_micro_batches_are_the_same_on_any_mesh(devices: int) -> None:
    """Each row once, with the draws of its own; what is not of a row goes to every part."""
    mesh = sharding.build_mesh(MeshConfig(), jax.devices()[:devices])
    batch = sharding.place_batch({"row": np.arange(16, dtype=np.float32)}, mesh)
    draws = {"row": batch["row"], "all": jnp.asarray(3.0)}

    def sums(params: Params, batch: Batch, draws: Any, step: jax.Array) -> jax.Array:
        assert batch["row"].shape == (16 // devices // 2,)
        total = jnp.zeros(16).at[batch["row"].astype(int)].add(draws["row"] + 1)
        return jnp.stack([total * step, jnp.full(16, draws["all"])])

    found = jax.jit(lambda: add_up(sums, {}, batch, draws, jnp.asarray(2.0), mesh, 2))()
    np.testing.assert_array_equal(found[0], 2 * (np.arange(16) + 1))
    np.testing.assert_array_equal(found[1], np.full(16, 3 * 2 * devices))


BF16 = changed(CONFIG, train={"precision": "bf16"})
BF16_TOLERANCE = 0.02
"""Relative difference of losses; bfloat16 keeps 8 bits, that is 0.4 % of every product."""


@pytest.mark.thorough
def test_bf16_on_a_mesh_follows_fp32_on_one_device() -> None:
    """The same draws, dropout included, over a few updates."""
    exact, rounded = run(CONFIG, 6), run(BF16, 6, ALL)
    for ours, theirs in zip(rounded, exact, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=BF16_TOLERANCE)
        assert ours["loss"] != theirs["loss"]


def abstract_batch() -> dict[str, jax.ShapeDtypeStruct]:
    return {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch_of(0).items()}


def test_parameters_gradients_and_moments_stay_float32_under_bf16() -> None:
    training = Training(BF16, Wav2Vec2Task(BF16), sharding.build_mesh(BF16.mesh))
    run = (jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32))
    state, metrics = jax.eval_shape(training._step, training.abstract_state, abstract_batch(), *run)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state)}
    assert dtypes == {np.dtype(np.float32), np.dtype(np.int32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(metrics)} == {np.dtype(np.float32)}


def operations(jaxpr: Any) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(name, dtypes of operands, dtype of result) of all operations, inner ones included."""
    for equation in jaxpr.eqns:
        inner = [
            part.jaxpr if hasattr(part, "jaxpr") else part
            for value in equation.params.values()
            for part in (value if isinstance(value, tuple | list) else (value,))
            if hasattr(part, "jaxpr") or hasattr(part, "eqns")
        ]
        for part in inner:
            yield from operations(part)
        if not inner:
            operands = tuple(str(v.aval.dtype) for v in equation.invars)
            yield equation.primitive.name, operands, str(equation.outvars[0].aval.dtype)


def forward_operations(config: Config) -> list[tuple[str, tuple[str, ...], str]]:
    task = Wav2Vec2Task(config)
    training = Training(config, task, sharding.build_mesh(config.mesh))
    batch = abstract_batch()
    samples = batch["waveform"].shape[1]

    def loss(params: Params, batch: Batch) -> jax.Array:
        draws = task.draw(batch["lengths"], samples, jax.random.key(0))
        return programs.loss_of(training, params, batch, draws)[0]

    traced = jax.make_jaxpr(loss)(training.abstract_state["params"], batch)
    return list(operations(traced.jaxpr))


@pytest.mark.parametrize("layout", ["base", "large"])
def test_bf16_is_for_the_encoders_products_and_nothing_else(layout: str) -> None:
    """Norms, weight norm, softmax, cosine, quantizer and losses are islands of float32."""
    config = changed(BF16, model=ARCHITECTURES[layout])
    seen = forward_operations(config)
    products = {"bfloat16": 0, "float32": 0}
    for name, operands, _ in seen:
        if name in ("dot_general", "conv_general_dilated"):
            assert len(set(operands)) == 1, "a product of two dtypes is a cast that was forgotten"
            products[operands[0]] += 1
    # Two of three convolutions, the positional one, the projection; four of attention and its two
    # einsums, two of the feed-forward.
    assert products["bfloat16"] == 2 + 1 + 1 + 6 + 2
    # The first convolution. Where it has a norm, also the form that CPUs take of it: what frames
    # see and the kernel by frequency, the covariance, two products for the variances, one for the
    # output.
    folded = 1 + (6 if layout == "base" else 0)
    # Logits and choice of the quantizer, two projections, similarity, two perplexities.
    assert products["float32"] == 7 + folded
    for name, operands, _ in seen:
        if name in ("exp", "log", "rsqrt", "sqrt", "integer_pow", "square", "argmax"):
            assert "bfloat16" not in operands, name


def test_fp32_has_no_bf16() -> None:
    assert all("bfloat16" not in (*ins, out) for _, ins, out in forward_operations(CONFIG))


def test_every_product_weight_of_the_encoder_is_cast() -> None:
    """By name, so that a renamed module does not silently fall back to float32."""
    training = Training(BF16, Wav2Vec2Task(BF16), sharding.build_mesh(BF16.mesh))
    params = jax.eval_shape(lambda p: to_compute(p, "bf16"), training.abstract_state["params"])
    kept = {path for path, value in params.items() if value.dtype == jnp.float32}
    assert {path for path in kept if path.endswith("kernel")} == {
        "wav2vec2.feature_extractor.conv_layers.0.conv.kernel",
        "quantizer.weight_proj.kernel",
        "project_hid.kernel",
        "project_q.kernel",
    }
    beside = ("norm", "pos_conv", "conv_layers.0.")
    assert all(any(part in path for part in beside) for path in kept if "wav2vec2" in path)
