"""What dtypes products have in the programs of every platform, and what bfloat16 does to sound."""

import contextlib
import dataclasses
import functools
import itertools
import os
import re
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conftest import ARCHITECTURES
from tests.meshes import CONFIG
from voc2vec_jax import ops
from voc2vec_jax.audio.signal import load_audio, normalize
from voc2vec_jax.config import Config, DataConfig, MeshConfig, TrainConfig
from voc2vec_jax.config.train import Precision
from voc2vec_jax.distributed import sharding
from voc2vec_jax.models.feature_encoder import FeatureEncoder
from voc2vec_jax.objectives import build_task
from voc2vec_jax.training.precision import to_compute
from voc2vec_jax.training.update import Training

_PRODUCT = re.compile(
    r"stablehlo\.(?:dot_general|convolution).*?"
    r": \(tensor<(?P<left>[^>]*)>, tensor<(?P<right>[^>]*)>\)"
)
PLATFORMS = ("cpu", "cuda", "tpu")
Task = Literal["wav2vec2", "hubert", "classify"]


def lowered_step(config: Config, platform: str) -> str:
    """The program of an update as XLA gets it."""
    # What the tests set for all products would hide a product that says nothing itself.
    with jax.default_matmul_precision(None):
        mesh = sharding.build_mesh(MeshConfig(), jax.devices()[:1])
        training = Training(config, build_task(config), mesh)
        rows = jax.ShapeDtypeStruct((4,), jnp.int32)
        batch = {"waveform": jax.ShapeDtypeStruct((4, 4_000), jnp.float32), "lengths": rows}
        if config.task == "hubert":
            frames = (4_000 - 10) // 5 // 64
            batch["targets"] = jax.ShapeDtypeStruct((4, frames), jnp.int32)
        if config.task == "classify":
            batch |= {"labels": rows, "weight": jax.ShapeDtypeStruct((4,), jnp.float32)}
        traced = training._compiled_step.trace(
            training.described_state, batch, jax.eval_shape(jax.random.key, 0), np.int32(1)
        )
        return str(traced.lower(lowering_platforms=(platform,)).as_text())


def products(text: str) -> list[tuple[str, str, bool]]:
    """Dtypes of both operands, and whether it is as exact as they are, of every product."""
    found = []
    for line in text.splitlines():
        match = _PRODUCT.search(line)
        if match:
            left, right = (match[side].split("x")[-1] for side in ("left", "right"))
            found.append((left, right, line.count("HIGHEST") == 2))
    return found


def config_of(task: Task, layout: str, precision: Precision) -> Config:
    family = "hubert" if task == "hubert" else "wav2vec2"
    return dataclasses.replace(
        CONFIG,
        task=task,
        model=dataclasses.replace(CONFIG.model, model_type=family, **ARCHITECTURES[layout]),
        data=DataConfig(labels="labels" if task == "hubert" else None),
        train=TrainConfig(precision=precision),
    )


@pytest.mark.parametrize("layout", ARCHITECTURES)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_fp32_multiplies_float32_on_every_platform(layout: str, platform: str) -> None:
    found = products(lowered_step(config_of("wav2vec2", layout, "fp32"), platform))
    assert len(found) > 40
    assert {(left, right) for left, right, _ in found} == {("f32", "f32")}
    if platform != "cpu":  # which has no other way
        assert all(exact for _, _, exact in found)


@pytest.mark.parametrize(
    ("task", "layout", "platform"),
    [
        ("wav2vec2", "base", "tpu"),
        ("wav2vec2", "large", "cuda"),
        pytest.param("hubert", "base", "tpu", marks=pytest.mark.thorough),
        pytest.param("hubert", "large", "cpu", marks=pytest.mark.thorough),
        pytest.param("classify", "base", "cuda", marks=pytest.mark.thorough),
    ],
)
def test_bf16_multiplies_float32_or_bfloat16_and_never_rounds_the_first(
    task: Task, layout: str, platform: str
) -> None:
    text = lowered_step(config_of(task, layout, "bf16"), platform)
    found = products(text)
    assert ("bf16", "bf16", False) in found
    assert ("f32", "f32", True) in found
    others = [f for f in found if f not in {("bf16", "bf16", False), ("f32", "f32", True)}]
    # The gradients of both of attention's products, whose own is float32.
    assert len(others) == 4 * CONFIG.model.num_hidden_layers
    assert all("f32" in (left, right) for left, right, _ in others)
    of_sound = [line for line in text.splitlines() if "x1xf32>" in line and _PRODUCT.search(line)]
    assert of_sound, "the first convolution"
    assert not re.search(r"convert.*tensor<4x4000(x1)?xf32>\) -> tensor<[^>]*bf16>", text)


def test_what_follows_a_single_convolution_is_bfloat16() -> None:
    one = {"conv_dim": (8,), "conv_kernel": (400,), "conv_stride": (320,)}
    config = config_of("wav2vec2", "base", "bf16")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **one))
    found = products(lowered_step(config, "tpu"))
    assert found.count(("bf16", "bf16", False)) > 20


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_model_that_is_only_called_multiplies_float32_too(platform: str) -> None:
    task = build_task(config_of("classify", "base", "fp32"))
    graphdef, params = nnx.split(task.init(jax.random.key(0)))

    @jax.jit
    def call(params: nnx.State, waveform: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params)(waveform).logits

    with jax.default_matmul_precision(None):
        lowered = call.trace(params, jnp.zeros((2, 4_000))).lower(lowering_platforms=(platform,))
    found = products(lowered.as_text())
    assert len(found) > 10
    assert set(found) == {("f32", "f32", True)}


@functools.cache
def two_voices() -> np.ndarray:
    """[1, 16000] a low tone, and one at 6 kHz that is 50 dB below it; zero mean, unit variance."""
    time = np.arange(16_000) / 16_000
    sound = np.sin(2 * np.pi * 150 * time) + 10**-2.5 * np.sin(2 * np.pi * 6_000 * time)
    return ((sound - sound.mean()) / sound.std()).astype(np.float32)[None]


@pytest.mark.parametrize("layout", ARCHITECTURES)
@pytest.mark.parametrize("plain", [False, True])  # on a CPU, and as other platforms compute
def test_what_is_quiet_survives_beside_what_is_loud_under_bf16(layout: str, plain: bool) -> None:
    """Band-pass filters that see the quiet tone only: rounding the loud one would drown it."""
    config = config_of("wav2vec2", layout, "fp32").model
    encoder = FeatureEncoder(config, rngs=nnx.Rngs(0))
    taps, channels = config.conv_kernel[0], config.conv_dim[0]
    phases = np.arange(channels) / channels * 2 * np.pi
    time = 2 * np.pi / 16_000 * np.arange(taps)[:, None]
    kernel = np.hanning(taps + 2)[1:-1, None] * np.cos(6_000 * time + phases)
    loud = np.linalg.qr(np.hstack([np.cos(150 * time), np.sin(150 * time)]))[0]
    first = encoder.conv_layers[0]
    if first.conv.bias is not None:
        first.conv.bias[...] = jnp.zeros(channels)  # it would be louder than the tone
    first.conv.kernel[...] = jnp.asarray(kernel - loud @ (loud.T @ kernel), jnp.float32)[:, None]

    sound = jnp.asarray(two_voices())[:, :, None]

    def features(precision: Precision, sound: jax.Array) -> np.ndarray:
        path = "feature_extractor.conv_layers.0.conv.kernel"
        params = to_compute({path: first.conv.kernel[...]}, precision)
        assert params[path].dtype == jnp.float32
        dtype = jnp.bfloat16 if precision == "bf16" else jnp.float32
        return np.asarray(first(sound, None, dtype), np.float64)

    with ops.plain() if plain else contextlib.nullcontext():
        exact, ours = features("fp32", sound), features("bf16", sound)
        theirs = features("fp32", sound.astype(jnp.bfloat16).astype(jnp.float32))

    def error(features: np.ndarray) -> np.ndarray:  # relative, by channel
        return np.sqrt(((features - exact) ** 2).mean((0, 1)) / (exact**2).mean((0, 1)))

    assert error(ours).max() < 0.02
    assert np.median(error(theirs)) > 0.1, "sound that was rounded itself"


BANDS_HZ = (0, 1_000, 2_000, 4_000, 8_000)


def test_the_first_layer_of_real_recordings_under_bf16() -> None:
    """Prints the table of docs/precision.md: 256 band-pass filters, as trained ones are."""
    folder = os.environ.get("VOC2VEC_REAL_AUDIO")
    if folder is None:
        pytest.skip("VOC2VEC_REAL_AUDIO does not name a folder of real recordings")
    recordings = sorted(Path(folder, "HumanVoiceDataset").rglob("*.wav"))[::12][:12]
    assert len(recordings) == 12
    frequencies = np.linspace(200, 7_800, 256)
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, 256)
    time = 2 * np.pi / 16_000 * np.arange(10)[:, None]
    filters = np.hanning(12)[1:-1, None] * np.cos(frequencies * time + phases)
    kernel = jnp.asarray(filters - filters.mean(0), jnp.float32)[:, None]
    ones, zeros = jnp.ones(256), jnp.zeros(256)

    def layer(x: jax.Array, w: jax.Array, dtype: jax.typing.DTypeLike) -> np.ndarray:
        conv = ops.plain_normalised_conv
        y = conv(x, w, None, ones, zeros, stride=5, epsilon=1e-5, dtype=dtype)
        return np.asarray(y, np.float64)

    def rounded(x: jax.Array) -> jax.Array:
        return x.astype(jnp.bfloat16).astype(jnp.float32)

    errors: dict[str, list[np.ndarray]] = {"output": [], "sound": []}
    for path in recordings:
        sound = normalize(load_audio(path)[:64_000])
        x = jnp.asarray(sound)[None, :, None]
        exact = layer(x, kernel, jnp.float32)
        for name, features in (
            ("output", layer(x, kernel, jnp.bfloat16)),
            ("sound", layer(rounded(x), rounded(kernel), jnp.bfloat16)),
        ):
            of_channels = ((features - exact) ** 2).mean((0, 1)) / (exact**2).mean((0, 1))
            errors[name].append(np.sqrt(of_channels))
    for name, values in errors.items():
        error = np.stack(values)  # [recordings, channels]
        bands = [
            f"{np.median(error[:, (frequencies >= low) & (frequencies < high)]):.4f}"
            for low, high in itertools.pairwise(BANDS_HZ)
        ]
        print(
            f"{name} in bfloat16: median {np.median(error):.4f}, 95 % "
            f"{np.quantile(error, 0.95):.4f}, largest {error.max():.4f}; by band {bands}"
        )
    assert np.stack(errors["output"]).max() < 0.005
    assert np.median(np.stack(errors["sound"])) > 5 * np.median(np.stack(errors["output"]))
