"""Hugging Face folders, both ways, and every way in which one can be broken."""

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import numpy as np
import psutil
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from tests.conftest import ARCHITECTURES, TINY
from voc2vec_jax.checkpoints.formats import huggingface
from voc2vec_jax.checkpoints.loading import from_pretrained, load_params
from voc2vec_jax.checkpoints.pretrained import (
    BUCKETS_PER_OCTAVE,
    Architecture,
    Preprocessor,
    PretrainedModel,
    bucket_samples,
)
from voc2vec_jax.checkpoints.saving import save_pretrained
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.errors import CheckpointError, ConfigError, ConversionError
from voc2vec_jax.models import Wav2Vec2ForPreTraining, Wav2Vec2Model
from voc2vec_jax.models.parameters import describe

BOTH = pytest.mark.parametrize("architecture", [Wav2Vec2Model, Wav2Vec2ForPreTraining])
BOTH_IN_BOTH = pytest.mark.parametrize(
    ("architecture", "layout"),
    [
        (Wav2Vec2ForPreTraining, "base"),
        (Wav2Vec2Model, "large"),
        pytest.param(Wav2Vec2Model, "base", marks=pytest.mark.thorough),
        pytest.param(Wav2Vec2ForPreTraining, "large", marks=pytest.mark.thorough),
    ],
)
TOLERANCE = 1e-5
SMALL = ModelConfig(
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
    conv_dim=(6, 4),
    conv_kernel=(10, 4),
    conv_stride=(5, 2),
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
    num_codevectors_per_group=3,
    codevector_dim=4,
    proj_codevector_dim=5,
)
HEADS = 7
"""Tensors of the pre-training head."""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))


def make_model(
    architecture: Architecture = Wav2Vec2Model, config: ModelConfig = SMALL, **options: Any
) -> PretrainedModel:
    """Random weights, biases and norms included."""
    rng = np.random.default_rng(0)
    _, shapes = describe(architecture, config)
    params = {
        path: jax.numpy.asarray(
            rng.normal(1.0 if path.endswith("scale") else 0.0, 0.3, shape.shape), np.float32
        )
        for path, shape in shapes.items()
    }
    options.setdefault("preprocessor", Preprocessor())
    return PretrainedModel(architecture, config, params, **options)


def make_clips(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(0.1, 0.5, length).astype(np.float32) for length in lengths]


def padded(*lengths: int) -> tuple[np.ndarray, np.ndarray]:
    batch = np.zeros((len(lengths), max(lengths)), np.float32)
    for row, clip in zip(batch, make_clips(*lengths), strict=True):
        row[: len(clip)] = clip
    return batch, np.array(lengths, np.int32)


def attention(lengths: np.ndarray, samples: int) -> torch.Tensor:
    return torch.from_numpy(np.arange(samples)[None] < lengths[:, None])


def assert_same_outputs(
    ours: PretrainedModel, theirs: transformers.PreTrainedModel, *, masked: bool
) -> None:
    waveform, lengths = padded(2500, 1700)
    out = ours(waveform, lengths)
    with torch.no_grad():
        reference = theirs.eval()(
            torch.from_numpy(waveform),
            attention_mask=attention(lengths, waveform.shape[1]) if masked else None,
        )
    if ours.architecture is Wav2Vec2Model:
        pairs = [(out.last_hidden_state, reference.last_hidden_state)]
        frame_mask = np.asarray(out.frame_mask)
    else:
        pairs = [
            (out.predictions, reference.projected_states),
            (out.targets, reference.projected_quantized_states),
        ]
        frame_mask = np.asarray(out.encoder.frame_mask)
    assert frame_mask.sum(axis=1).tolist() == [7, 5]
    for actual, expected in pairs:
        difference = np.abs(np.asarray(actual) - expected.numpy())[frame_mask]
        assert difference.max() <= TOLERANCE


# Saving


def tiny(layout: str) -> ModelConfig:
    return ModelConfig(**TINY, **ARCHITECTURES[layout])


@BOTH_IN_BOTH
def test_transformers_loads_what_is_saved(
    architecture: Architecture, layout: str, tmp_path: Path
) -> None:
    tiny_config = tiny(layout)
    masked = tiny_config.feat_extract_norm == "layer"
    preprocessor = Preprocessor(return_attention_mask=masked)
    ours = make_model(architecture, tiny_config, preprocessor=preprocessor, attention_mask=masked)
    save_pretrained(ours, tmp_path / "new" / "folder")
    theirs, info = getattr(transformers, architecture.__name__).from_pretrained(
        tmp_path / "new" / "folder", output_loading_info=True
    )
    assert {name: list(problems) for name, problems in info.items() if problems} == {}
    assert type(theirs).__name__ == architecture.__name__
    assert_same_outputs(ours, theirs, masked=masked)


@BOTH
def test_auto_classes_load_what_is_saved(architecture: Architecture, tmp_path: Path) -> None:
    save_pretrained(make_model(architecture), tmp_path)
    model, info = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model).__name__ == "Wav2Vec2Model"
    assert not info["missing_keys"]
    assert len(info["unexpected_keys"]) == (HEADS if architecture is Wav2Vec2ForPreTraining else 0)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(extractor).__name__ == "Wav2Vec2FeatureExtractor"
    assert (extractor.do_normalize, extractor.return_attention_mask) == (True, False)
    assert (extractor.sampling_rate, extractor.padding_value) == (16_000, 0.0)


@BOTH
def test_our_folder_comes_back_as_it_was(architecture: Architecture, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, other_fields='{"vocab_size": 7}')
    preprocessor = Preprocessor(do_normalize=False, return_attention_mask=True)
    saved = make_model(architecture, config, preprocessor=preprocessor)
    save_pretrained(saved, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert (loaded.architecture, loaded.config) == (architecture, config)
    assert loaded.preprocessor == preprocessor
    assert loaded.params.keys() == saved.params.keys()
    for path, value in saved.params.items():
        np.testing.assert_array_equal(loaded.params[path], value)


def test_bytes_depend_on_the_weights_only(tmp_path: Path) -> None:
    model = make_model()
    save_pretrained(model, tmp_path / "a")
    model.params = dict(reversed(model.params.items()))
    model.preprocessor = Preprocessor(do_normalize=False)
    save_pretrained(model, tmp_path / "b", facts={"steps": "7"})
    first, second = (tmp_path / name / "model.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    model.params["encoder.layer_norm.bias"] += 1
    save_pretrained(model, tmp_path / "b")
    assert first.read_bytes() != second.read_bytes()


def test_a_folder_holds_these_files_and_the_card_its_facts(tmp_path: Path) -> None:
    save_pretrained(make_model(), tmp_path, facts={"training data": "ten hours of laughter"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert "| training data | ten hours of laughter |" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
def test_an_interrupted_save_leaves_the_folder_as_it_was(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pretrained(make_model(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail_midway(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half of")
        raise error

    monkeypatch.setattr(huggingface, "save_file", fail_midway)
    another = make_model(Wav2Vec2ForPreTraining, dataclasses.replace(SMALL, intermediate_size=16))
    with pytest.raises(type(error)):
        save_pretrained(another, tmp_path, facts={"steps": "9"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    save_pretrained(another, tmp_path)
    assert from_pretrained(tmp_path).config == another.config


def test_a_killed_save_does_not_confuse_the_next(tmp_path: Path) -> None:
    """A process that is killed cannot tidy up behind itself."""
    save_pretrained(make_model(), tmp_path)
    (tmp_path / "model.safetensors.part").write_bytes(b"half of")
    (tmp_path / "config.json.part").write_text("{")
    assert from_pretrained(tmp_path).config == SMALL
    save_pretrained(make_model(), tmp_path)
    assert not list(tmp_path.glob("*.part"))


# Loading


@BOTH_IN_BOTH
def test_what_transformers_saves_is_loaded(
    architecture: Architecture, layout: str, tmp_path: Path
) -> None:
    tiny_config = tiny(layout)
    fields = {k: v for k, v in dataclasses.asdict(tiny_config).items() if k != "other_fields"}
    torch.manual_seed(0)
    theirs = getattr(transformers, architecture.__name__)(transformers.Wav2Vec2Config(**fields))
    with torch.no_grad():
        for value in theirs.parameters():  # norms and biases too
            value += 0.1 * torch.randn_like(value)
    theirs.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path)
    assert ours.architecture is architecture
    assert ours.ledger is not None
    assert len(ours.ledger.kept) == len(theirs.state_dict())
    assert_same_outputs(ours, theirs, masked=tiny_config.feat_extract_norm == "layer")


def test_asking_for_the_encoder_drops_heads_and_says_so(tmp_path: Path) -> None:
    saved = make_model(Wav2Vec2ForPreTraining)
    save_pretrained(saved, tmp_path)
    encoder = from_pretrained(tmp_path, architecture=Wav2Vec2Model)
    assert encoder.architecture is Wav2Vec2Model
    lines = str(encoder.ledger).split("\n")
    assert lines[0] == f"weights: {len(encoder.params)} kept, 0 new, {HEADS} dropped"
    assert "  dropped  quantizer.codevectors" in lines
    assert len(lines) == 1 + HEADS
    waveform, lengths = padded(600, 500)
    np.testing.assert_allclose(
        encoder(waveform, lengths).last_hidden_state,
        saved(waveform, lengths).encoder.last_hidden_state,
        atol=TOLERANCE,
    )


def test_an_unsupported_head_is_named_and_its_encoder_can_be_had(tmp_path: Path) -> None:
    fields = {k: v for k, v in dataclasses.asdict(SMALL).items() if k != "other_fields"}
    transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**fields)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"Wav2Vec2ForCTC.*Give architecture=Wav2Vec2Model"):
        from_pretrained(tmp_path)
    encoder = from_pretrained(tmp_path, architecture=Wav2Vec2Model)
    assert encoder.ledger is not None
    assert encoder.ledger.dropped == ("lm_head.bias", "lm_head.weight")


def test_a_head_that_the_checkpoint_lacks_is_not_invented(tmp_path: Path) -> None:
    save_pretrained(make_model(), tmp_path)
    with pytest.raises(ConversionError, match=r"7 tensors do not fit"):
        from_pretrained(tmp_path, architecture=Wav2Vec2ForPreTraining)


def test_no_architectures_means_the_encoder(tmp_path: Path) -> None:
    save_pretrained(make_model(), tmp_path)
    edit_json(tmp_path / "config.json", lambda fields: fields.pop("architectures"))
    assert from_pretrained(tmp_path).architecture is Wav2Vec2Model


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("stored", [None, True, False])
def test_lengths_mask_the_attention_as_the_checkpoint_says(
    norm: Any, stored: bool | None, tmp_path: Path
) -> None:
    save_pretrained(make_model(config=dataclasses.replace(SMALL, feat_extract_norm=norm)), tmp_path)
    path = tmp_path / "preprocessor_config.json"
    edit_json(path, lambda fields: fields.pop("return_attention_mask"))
    by_norm = norm == "layer"
    assert from_pretrained(tmp_path).attention_mask is by_norm
    if stored is None:
        path.unlink()
    else:
        edit_json(path, lambda fields: fields.update(return_attention_mask=stored))
    assert from_pretrained(tmp_path).attention_mask is (by_norm if stored is None else stored)
    for asked in (True, False):
        assert from_pretrained(tmp_path, attention_mask=asked).attention_mask is asked


@pytest.mark.parametrize("masked", [True, False])
def test_the_override_reaches_the_model(masked: bool, tmp_path: Path) -> None:
    save_pretrained(make_model(), tmp_path)
    theirs = transformers.Wav2Vec2Model.from_pretrained(tmp_path).eval()
    waveform, lengths = padded(800, 500)
    ours = from_pretrained(tmp_path, attention_mask=masked)(waveform, lengths)
    with torch.no_grad():
        references = [
            theirs(
                torch.from_numpy(waveform),
                attention_mask=attention(lengths, 800) if use_mask else None,
            ).last_hidden_state.numpy()[1, :48]
            for use_mask in (masked, not masked)
        ]
    assert ours.frame_mask[1].sum() == 48
    gaps = [np.abs(ours.last_hidden_state[1, :48] - reference).max() for reference in references]
    assert gaps[0] <= TOLERANCE
    assert gaps[1] > 100 * TOLERANCE


@pytest.mark.parametrize("do_normalize", [True, False])
@pytest.mark.parametrize("return_attention_mask", [True, False])
def test_preprocess_does_what_the_feature_extractor_does(
    do_normalize: bool, return_attention_mask: bool, tmp_path: Path
) -> None:
    save_pretrained(
        make_model(preprocessor=Preprocessor(do_normalize, return_attention_mask)), tmp_path
    )
    clips = make_clips(900, 400, 637)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    expected = extractor(clips, sampling_rate=16_000, padding=True, return_tensors="np")
    waveform, lengths = from_pretrained(tmp_path).preprocess(clips)
    np.testing.assert_array_equal(waveform, expected["input_values"], strict=True)
    assert lengths.tolist() == [900, 400, 637]
    assert ("attention_mask" in expected) is return_attention_mask
    if return_attention_mask:
        np.testing.assert_array_equal(lengths, expected["attention_mask"].sum(axis=1))


def test_preprocess_under_masked_leaves_padding_out() -> None:
    model = make_model(padding="masked")
    together, lengths = model.preprocess(make_clips(900, 400))
    for row, length, clip in zip(together, lengths, make_clips(900, 400), strict=True):
        alone, _ = model.preprocess([clip])
        np.testing.assert_array_equal(row[:length], alone[0])
        assert not row[length:].any()


# Calling


@pytest.mark.unoptimised
def test_few_compilations_serve_many_lengths_under_masked() -> None:
    compiled: list[str] = []

    def listen(event: str, _: float, **__: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    model = make_model(padding="masked")
    lengths = list(range(501, 769, 7))
    model(np.zeros((1, 501), np.float32))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        frames = {model(np.zeros((1, length), np.float32)).frame_mask.shape for length in lengths}
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(frames) > 25
    buckets = {bucket_samples(length) for length in [501, *lengths]}
    assert model._forward._cache_size() == len(buckets) <= BUCKETS_PER_OCTAVE + 1
    # Nothing but the model itself: trimming to each number of frames compiles nothing.
    assert len(compiled) == len(buckets) - 1


@pytest.mark.unoptimised
def test_bucketed_calls_equal_exact_ones() -> None:
    """Without padding of the caller's own, `hf` computes the same on the exact shape."""
    masked, exact = make_model(padding="masked"), make_model(padding="hf")
    for length in (513, 639):
        waveform = np.stack(make_clips(length, length))
        actual = masked(waveform, output_hidden_states=True)
        expected = exact(waveform, output_hidden_states=True)
        assert np.asarray(actual.frame_mask).all()
        assert jax.tree.structure(actual) == jax.tree.structure(expected)
        for ours, reference in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            assert isinstance(ours, jax.Array)
            assert ours.shape == reference.shape
            np.testing.assert_allclose(ours, reference, atol=TOLERANCE)


@pytest.mark.unoptimised
def test_a_clip_does_not_depend_on_its_batch_under_masked() -> None:
    model = make_model(Wav2Vec2ForPreTraining, padding="masked")
    waveform, lengths = padded(1100, 700)
    together = model(waveform, lengths, output_hidden_states=True)
    alone = model(waveform[1:, :700], output_hidden_states=True)
    frames = int(together.encoder.frame_mask[1].sum())
    assert alone.encoder.frame_mask.shape == (1, frames)
    for whole, single in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(whole[1, :frames], single[0], atol=TOLERANCE)


def test_padding_to_a_bucket_wastes_at_most_a_quarter() -> None:
    buckets = {samples: bucket_samples(samples) for samples in range(16, 5000)}
    assert all(samples <= bucket <= samples * 1.25 for samples, bucket in buckets.items())
    assert len(set(buckets.values())) <= 9 * BUCKETS_PER_OCTAVE + 1
    assert all(bucket_samples(bucket) == bucket for bucket in buckets.values())


@pytest.mark.unoptimised
def test_hidden_states_come_only_when_asked() -> None:
    model = make_model()
    waveform, _ = padded(500)
    assert model(waveform).hidden_states is None
    hidden_states = model(waveform, output_hidden_states=True).hidden_states
    assert hidden_states is not None
    assert len(hidden_states) == SMALL.num_hidden_layers + 1


@pytest.mark.parametrize(
    ("waveform", "lengths", "message"),
    [
        (np.zeros(500, np.float32), None, r"shape \(500,\); give \[B, S\]"),
        (np.zeros((1, 2, 500), np.float32), None, r"shape \(1, 2, 500\)"),
        (np.zeros((0, 500), np.float32), None, "receptive field"),
        (np.zeros((2, 24), np.float32), None, r"lengths=\[24, 24\].*between 25 samples"),
        (np.zeros((2, 500), np.float32), [500, 24], r"lengths=\[500, 24\]"),
        (np.zeros((2, 500), np.float32), [501, 500], "padded length 500"),
        (np.zeros((2, 500), np.float32), [-1, 500], r"lengths=\[-1, 500\]"),
        (np.zeros((2, 500), np.float32), [500], r"shape \(1,\); give one per clip, \(2,\)"),
        (np.zeros((2, 500), np.float32), 500, r"shape \(\)"),
        (np.zeros((2, 500), np.float32), [[500, 500]], r"shape \(1, 2\)"),
        (np.zeros((2, 500), np.float32), [499.5, 500.0], "float64; give whole numbers"),
        (np.zeros((2, 500), np.int16), None, "int16; give float32 with full scale"),
    ],
)
@pytest.mark.parametrize("padding", ["hf", "masked"])
def test_wrong_shapes_and_lengths_are_refused(
    waveform: np.ndarray, lengths: Any, message: str, padding: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(padding=padding)(waveform, lengths)


def test_an_unknown_padding_is_refused(tmp_path: Path) -> None:
    save_pretrained(make_model(), tmp_path)
    with pytest.raises(ValueError, match=r"padding='mask'.*'hf' or 'masked'"):
        from_pretrained(tmp_path, padding="mask")  # type: ignore[arg-type]


# Broken folders


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list[int], end: int) -> dict[str, object]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


NESTED = "[" * 100_000
BAD_FILES: dict[str, tuple[str, bytes | None, type[ValueError], str]] = {
    # file, its content (None: gone), error, what the message says
    "no config": ("config.json", None, CheckpointError, "not found"),
    "empty config": ("config.json", b"", CheckpointError, "not readable as JSON"),
    "half a config": ("config.json", b'{"hidden_size": 8, "num', CheckpointError, "JSON"),
    "config is a list": ("config.json", b"[1, 2]", CheckpointError, "list, expected an object"),
    "config is null": ("config.json", b"null", CheckpointError, "expected an object"),
    "config not UTF-8": ("config.json", b'{"a": "\xff\xfe"}', CheckpointError, "JSON"),
    "config too deep": ("config.json", NESTED.encode(), CheckpointError, "JSON"),
    "config of digits": ("config.json", b"9" * 5000, CheckpointError, "JSON"),
    "hidden size text": ("config.json", b'{"hidden_size": "8"}', ConfigError, "hidden_size='8'"),
    "hubert": ("config.json", b'{"model_type": "wavlm"}', ConfigError, "model_type='wavlm'"),
    "adapter": ("config.json", b'{"add_adapter": true}', ConfigError, "adapters"),
    "architectures text": (
        "config.json",
        b'{"architectures": "Wav2Vec2Model"}',
        CheckpointError,
        "architectures='Wav2Vec2Model'; must be a list",
    ),
    "architectures number": ("config.json", b'{"architectures": 5}', CheckpointError, "=5"),
    "architectures nested": (
        "config.json",
        b'{"architectures": [["Wav2Vec2Model"]]}',
        CheckpointError,
        "must be a list of a class name",
    ),
    "architectures object": (
        "config.json",
        b'{"architectures": {"Wav2Vec2Model": 1}}',
        CheckpointError,
        "must be a list",
    ),
    "unknown class": (
        "config.json",
        b'{"architectures": ["WavLMModel"]}',
        CheckpointError,
        "holds a WavLMModel; supported: Wav2Vec2Model, Wav2Vec2ForSequenceClassification",
    ),
    "no tensors": ("model.safetensors", None, CheckpointError, "not found, nor pytorch_model.bin"),
    "garbage": ("model.safetensors", bytes(range(256)) * 9, CheckpointError, "not a whole"),
    "text": ("model.safetensors", b"version https://git-lfs", CheckpointError, "not a whole"),
    "huge header": (
        "model.safetensors",
        struct.pack("<Q", 2**60) + b"{}",
        CheckpointError,
        "not a whole",
    ),
    "huge tensor": (
        "model.safetensors",
        safetensors_bytes(entry("F32", [2**40], 2**42)),
        CheckpointError,
        "not a whole",
    ),
    "overflowing tensor": (
        "model.safetensors",
        safetensors_bytes(entry("F32", [2**62, 2**62], 16), bytes(16)),
        CheckpointError,
        "not a whole",
    ),
    "header is a list": (
        "model.safetensors",
        safetensors_bytes([1]),
        CheckpointError,
        "not a whole",
    ),
    "8-bit floats": (
        "model.safetensors",
        safetensors_bytes({f"a{i}": v for i in range(1) for v in entry("F8_E4M3", [8], 8).values()})
        + bytes(8),
        CheckpointError,
        "save it as float32",
    ),
    "no tensor in it": (
        "model.safetensors",
        safetensors_bytes({}),
        CheckpointError,
        "its weights are 0 tensors",
    ),
    "other rate": (
        "preprocessor_config.json",
        b'{"sampling_rate": 8000}',
        CheckpointError,
        "sampling_rate=8000; only 16000",
    ),
    "mask not bool": (
        "preprocessor_config.json",
        b'{"return_attention_mask": 1}',
        CheckpointError,
        "return_attention_mask=1; must be true or false",
    ),
    "normalize null": (
        "preprocessor_config.json",
        b'{"do_normalize": null}',
        CheckpointError,
        "do_normalize=None",
    ),
    "half a preprocessor": ("preprocessor_config.json", b"{", CheckpointError, "JSON"),
}


def assert_refused(
    source: str | Path, kind: type[ValueError], *parts: str, **options: Any
) -> ValueError:
    with pytest.raises(kind) as caught:
        from_pretrained(source, **options)
    for part in parts:
        assert part in str(caught.value)
    return caught.value


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_gives_one_error_that_names_it(case: str, tmp_path: Path) -> None:
    name, content, kind, message = BAD_FILES[case]
    save_pretrained(make_model(), tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    error = assert_refused(tmp_path, kind, str(tmp_path), name, message)
    assert type(error) is kind
    assert error.__context__ is None or error.__suppress_context__  # one, not a chain of them
    assert "\n" not in str(error)
    if kind is ConfigError:
        with pytest.raises(ConfigError, match=r"config\.json: "):
            load_params(tmp_path, Wav2Vec2Model, SMALL)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_in_place_of_a_file_is_refused_or_ignored(name: str, tmp_path: Path) -> None:
    save_pretrained(make_model(), tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    if name == "preprocessor_config.json":
        assert from_pretrained(tmp_path).preprocessor == Preprocessor()
    else:
        assert_refused(tmp_path, CheckpointError, name)


def test_truncated_tensors_are_refused_wherever_they_are_cut(tmp_path: Path) -> None:
    save_pretrained(make_model(), tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for cut in (0, 1, 7, 8, 9, header // 2, header - 1, header, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert_refused(tmp_path, CheckpointError, str(path), "not a whole safetensors file")
    path.write_bytes(whole + b"\0")
    assert_refused(tmp_path, CheckpointError, str(path), "not a whole safetensors file")
    path.write_bytes(whole)
    assert from_pretrained(tmp_path).config == SMALL


def test_tensors_that_do_not_fit_are_listed_under_the_folder(tmp_path: Path) -> None:
    save_pretrained(make_model(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["encoder.layer_norm.bias"][3] = np.nan
    tensors["masked_spec_embed"] = tensors["masked_spec_embed"].astype(np.int32)
    del tensors["encoder.layer_norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    parts = (
        f"{tmp_path}: 3 tensors do not fit",
        "not finite  encoder.layer_norm.bias",
        "not float   masked_spec_embed  int32",
        "missing     encoder.layer_norm.weight  [8]",
    )
    assert_refused(tmp_path, ConversionError, *parts)
    with pytest.raises(ConversionError, match="3 tensors do not fit"):
        load_params(tmp_path, Wav2Vec2Model, SMALL)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("absurd", "kind", "message"),
    [
        ({"num_hidden_layers": 10**9}, ConfigError, "num_hidden_layers=1000000000"),
        ({"num_hidden_layers": 1024}, CheckpointError, "num_hidden_layers=1024"),
        (
            {"hidden_size": 16_384, "intermediate_size": 131_072},
            ConversionError,
            "expected [131072, 16384]",
        ),
        ({"conv_dim": [16_384] * 2, "conv_kernel": [16_384] * 2}, ConversionError, "mis-shaped"),
        ({"num_conv_pos_embeddings": 4096}, ConversionError, "expected [1, 1, 4096]"),
    ],
)
def test_an_absurd_config_takes_no_memory(
    absurd: dict[str, Any], kind: type[ValueError], message: str, tmp_path: Path
) -> None:
    save_pretrained(make_model(), tmp_path)
    edit_json(tmp_path / "config.json", lambda fields: fields.update(absurd))
    before = psutil.Process().memory_info().rss
    assert_refused(tmp_path, kind, message)
    assert psutil.Process().memory_info().rss - before < 200e6


# Names of checkpoints


@pytest.mark.parametrize(
    "source", ["", "hf:", "../x", "./x", "/no/such/folder", "~/x", "a/b/c", "hf:a/b/c"]
)
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where nothing else lies
    assert_refused(source, CheckpointError, repr(source), "no such folder, and not a hub id")


@pytest.mark.parametrize("source", ["hf:../x", "a b", "x/..", "-a/b", "a\0b", "hf:a/" + "b" * 200])
def test_malformed_hub_ids_are_refused(source: str) -> None:
    assert_refused(source, CheckpointError, source, "give a folder, or check the id")


def test_a_file_is_refused(tmp_path: Path) -> None:
    save_pretrained(make_model(), tmp_path)
    path = tmp_path / "model.safetensors"
    assert_refused(path, CheckpointError, f"{path}: is a file; give the folder that holds it")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("source", ["org/name", "hf:org/name", "hf:name"])
def test_a_hub_id_offline_gives_one_error(source: str) -> None:
    error = assert_refused(source, CheckpointError, source, "give a folder, or check the id")
    assert error.__suppress_context__
    assert "\n" not in str(error)


class TransportError(Exception):
    """Like those of HTTP libraries, which are no OSErrors."""


@pytest.mark.parametrize("error", [TransportError("proxy refused\nsee log"), TimeoutError()])
def test_a_failing_connection_gives_one_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    reason = str(error).split("\n")[0] or "TimeoutError"
    assert "\n" not in str(assert_refused("hf:org/name", CheckpointError, "hf:org/name", reason))


@pytest.mark.parametrize("source", ["org/name", "hf:org/name"])
def test_a_hub_id_is_downloaded_without_other_formats(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pretrained(make_model(), tmp_path)
    asked = []

    def download(repository: str, *, revision: None, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert from_pretrained(source).config == SMALL
    wanted = ["*.json", "model*.safetensors", "pretraining_head.safetensors"]
    assert asked == [("org/name", wanted)]


def test_a_folder_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pretrained(make_model(), tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    assert from_pretrained("org/name").config == SMALL
    assert_refused("hf:org/name", CheckpointError, "give a folder")


# Starting a run


def test_a_run_starts_with_the_encoder_and_its_own_head(tmp_path: Path) -> None:
    saved = make_model()
    save_pretrained(saved, tmp_path)
    config = dataclasses.replace(SMALL, hidden_dropout=0.5, layerdrop=0.5, codevector_dim=8)
    params, ledger = load_params(tmp_path, Wav2Vec2ForPreTraining, config)
    assert len(ledger.new) == HEADS
    assert params.keys() == {f"wav2vec2.{path}" for path in saved.params}
    for path, value in saved.params.items():
        np.testing.assert_array_equal(params[f"wav2vec2.{path}"], value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer_norm_eps", 1e-6),  # the first two fit by shape and compute something else
        ("num_attention_heads", 4),
        ("conv_stride", (2, 5)),
        ("hidden_size", 16),
        ("num_hidden_layers", 3),
        ("do_stable_layer_norm", True),
    ],
)
def test_another_architecture_cannot_start_a_run(name: str, value: Any, tmp_path: Path) -> None:
    save_pretrained(make_model(), tmp_path)
    config = dataclasses.replace(SMALL, **{name: value})
    with pytest.raises(ConfigError) as caught:
        load_params(tmp_path, Wav2Vec2Model, config)
    expected = f"model.{name} is {value} in the run, {getattr(SMALL, name)} there"
    assert expected in str(caught.value)
    assert str(caught.value).count(" in the run, ") == 1


def test_a_run_reports_a_missing_file_like_a_load(tmp_path: Path) -> None:
    save_pretrained(make_model(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not found"):
        load_params(tmp_path, Wav2Vec2Model, SMALL)
