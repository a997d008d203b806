"""Features of clips do not depend on their batch, and survive kills on their way to disk."""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import FEW, TINY
from tests.small_models import random_params
from voc2vec_jax.audio import mfcc
from voc2vec_jax.checkpoints.pretrained import Preprocessor, PretrainedModel
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.features import frames as frames_module
from voc2vec_jax.features.frames import (
    Arrays,
    LayerFeatures,
    MfccFeatures,
    batches,
    frame_count,
    stream,
)
from voc2vec_jax.features.on_disk import write_frames
from voc2vec_jax.models import Wav2Vec2ForPreTraining, Wav2Vec2Model

pytestmark = pytest.mark.unoptimised


def model_of(config: ModelConfig, architecture: type = Wav2Vec2Model) -> PretrainedModel:
    return PretrainedModel(
        architecture,
        config,
        random_params(architecture, config),
        preprocessor=Preprocessor(),
        padding="masked",
    )


@pytest.fixture
def tiny_config(tiny_config: ModelConfig) -> ModelConfig:
    """That of all tests, of fewer convolutions."""
    return dataclasses.replace(tiny_config, **FEW)


def clips(*lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.uniform(-0.5, 0.5, n).astype(np.float32) for n in lengths]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "BATCH_SECONDS", 2.0)
    monkeypatch.setattr(frames_module, "BUCKET_SECONDS", (0.25, 0.5, 1.0))
    monkeypatch.setattr(frames_module, "CHUNK_SECONDS", 1.0)
    monkeypatch.setattr(frames_module, "BLOCK_FRAMES", 64)


def hidden_states(model: PretrainedModel, waveforms: list[np.ndarray]) -> list[np.ndarray]:
    """[B, T, D] of each layer, by calling the model."""
    out = model(*model.preprocess(waveforms), output_hidden_states=True)
    return [np.asarray(states) for states in out.hidden_states]  # type: ignore[union-attr]


def test_hidden_states_are_those_of_the_model(tiny_config: ModelConfig) -> None:
    model, waveforms = model_of(tiny_config), clips(400, 3_999, 2_000)
    expected = hidden_states(model, waveforms)
    for layer in (1, 2):
        extract = LayerFeatures(model, layer)
        for row, (states,) in enumerate(extract(waveforms)):
            frames = frame_count(extract, len(waveforms[row]))
            assert states.shape == (frames, tiny_config.hidden_size)
            np.testing.assert_allclose(states, expected[layer][row, :frames], atol=2e-5)


def test_layers_beyond_are_not_computed() -> None:
    model = model_of(ModelConfig(**{**TINY, **FEW}))
    waveform, lengths = np.zeros((1, 16_000), np.float32), np.array([16_000], np.int32)
    flops = []
    for layer in (0, 1, 2):
        program = LayerFeatures(model, layer)._program(frames_module.keep)
        lowered = program.lower(model.params, waveform, lengths)  # type: ignore[attr-defined]
        flops.append(lowered.compile().cost_analysis()["flops"])
    first, second = flops[1] - flops[0], flops[2] - flops[1]
    assert first == pytest.approx(second, rel=0.2)
    assert first > 0.02 * flops[0]


def test_long_clips_lose_no_frame(tiny_config: ModelConfig) -> None:
    """In pieces of a second; frames far from their edges hardly notice."""
    model = model_of(tiny_config)
    extract = LayerFeatures(model, 0)
    for samples in (16_001, 31_999, 47_840, 48_000):
        (waveform,) = clips(samples)
        ((states,),) = extract([waveform])
        assert states.shape == (frame_count(extract, samples), tiny_config.hidden_size)
    if tiny_config.feat_extract_norm == "layer":  # without a norm over time
        expected = hidden_states(model, [waveform])[0][0]
        reach = 8  # of the positional convolution
        frames = (16_000 - 400) // 320 + 1
        inner = [t for t in range(len(states)) if reach <= t % frames < frames - reach]
        np.testing.assert_allclose(states[inner], expected[inner], atol=2e-5)


def test_only_masked_encoders_and_their_layers(tiny_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="layer=3: the model has 0 to 2"):
        LayerFeatures(model_of(tiny_config), 3)
    with pytest.raises(ValueError, match="Wav2Vec2ForPreTraining with padding='masked': load"):
        LayerFeatures(model_of(tiny_config, Wav2Vec2ForPreTraining), 1)
    model = model_of(tiny_config)
    model.padding = "hf"
    with pytest.raises(ValueError, match="padding='hf': load"):
        LayerFeatures(model, 1)


def test_mfccs_in_blocks_are_those_of_each_clip() -> None:
    waveforms = clips(400, 20_000, 30_000, 559)
    seen = []

    def double(frames: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen.append(frames.shape)
        return 2 * frames, frames[:, 0]

    found = MfccFeatures()(waveforms, double)
    for waveform, (doubled, first) in zip(waveforms, found, strict=True):
        expected = mfcc.mfcc(waveform)
        np.testing.assert_array_equal(doubled, 2 * expected)
        np.testing.assert_array_equal(first, expected[:, 0])
    assert set(seen) == {(64, 39)}


def test_each_clip_is_in_one_batch_among_its_like() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(400, 24_000, 200)
    plan = batches(lengths)
    assert sorted(clip for rows in plan for clip in rows) == list(range(200))
    for rows in plan:
        longest = int(lengths[rows].max())
        if longest > 16_000:
            assert len(rows) == 1
        else:
            assert len(rows) * frames_module._bucket_samples(longest) <= 32_000
    ends = [(int(lengths[rows].max()), int(lengths[rows].min())) for rows in plan]
    assert all(a[1] >= b[0] for a, b in itertools.pairwise(ends))
    full = [rows for rows in plan if len(rows) == 32_000 // 8_000]
    assert len(full) > 5


class Counting(MfccFeatures):
    """Stops, as if killed, when it is called once too often."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(
        self, waveforms: Sequence[np.ndarray], then: frames_module.Then = frames_module.keep
    ) -> list[Arrays]:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return super().__call__(waveforms, then)


@pytest.mark.parametrize("cut", [0, 1])
def test_extraction_goes_on_where_it_was(tmp_path: Path, cut: int) -> None:
    waveforms = clips(*np.random.default_rng(1).integers(400, 20_000, 30))
    lengths = [len(waveform) for waveform in waveforms]
    path = tmp_path / "frames.float32"
    plan = batches(lengths)
    with pytest.raises(KeyboardInterrupt):
        write_frames(Counting(5), waveforms.__getitem__, lengths, path)
    assert not path.exists()
    journal = tmp_path / "frames.float32.done"
    before = journal.read_text().splitlines()
    assert 0 < len(before) <= 5 < len(plan)
    os.truncate(journal, journal.stat().st_size - cut)  # the last line without its end
    told: list[int] = []
    rest = Counting(len(plan) - len(before) + cut)
    frames = write_frames(rest, waveforms.__getitem__, lengths, path, told.append)
    assert rest.calls == 0
    assert sum(told) == len(waveforms)
    np.testing.assert_array_equal(frames, np.concatenate([mfcc.mfcc(w) for w in waveforms]))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    again = write_frames(Counting(0), waveforms.__getitem__, lengths, path)
    np.testing.assert_array_equal(again, frames)


def test_batches_come_in_order_and_an_error_comes_through() -> None:
    waveforms = clips(*range(400, 8_400, 400))
    work = [[i] for i in range(20)]
    made = list(stream(MfccFeatures(), waveforms.__getitem__, work))
    for waveform, ((frames,),) in zip(waveforms, made, strict=True):
        np.testing.assert_array_equal(frames, mfcc.mfcc(waveform))

    def fail(clip: int) -> np.ndarray:
        if clip == 7:
            raise OSError("the disk is gone")
        return waveforms[clip]

    with pytest.raises(OSError, match="the disk is gone"):
        list(stream(MfccFeatures(), fail, work))


def test_what_follows_runs_on_the_device(tiny_config: ModelConfig) -> None:
    extract = LayerFeatures(model_of(tiny_config), 1)
    ((sums, states),) = extract(clips(3_000), lambda x: (jnp.sum(x, axis=-1), x))
    np.testing.assert_allclose(sums, states.sum(axis=-1), atol=1e-4)
