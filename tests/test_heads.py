"""Classifiers loaded from anything: heads kept, fresh or dropped as asked; clients of exports."""

import dataclasses
import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.conftest import ARCHITECTURES, FEW, TINY
from tests.reference import clips, hf_model, sample_mask
from voc2vec_jax.checkpoints.loading import from_pretrained, load_params
from voc2vec_jax.checkpoints.saving import save_pretrained
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.errors import ConfigError, ConversionError, FreshHeadError
from voc2vec_jax.models import (
    HubertForSequenceClassification,
    HubertModel,
    Wav2Vec2ForPreTraining,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
)
from voc2vec_jax.models.architectures import CLASSIFIERS

LABELS = ("laugh", "cry", "cough")
HEAD = {"projector.weight", "projector.bias", "classifier.weight", "classifier.bias"}


def config_of(layout: str = "base", **fields: object) -> ModelConfig:
    few = {**FEW, "num_hidden_layers": 1}
    return ModelConfig(**{**TINY, **few, **ARCHITECTURES[layout], **fields})


def save_theirs(name: str, config: ModelConfig, folder: Path, **options: object) -> torch.nn.Module:
    model = hf_model(name, config)
    model.save_pretrained(folder, **options)
    return model


@pytest.fixture
def classifier_folder(tmp_path: Path) -> Path:
    save_theirs("Wav2Vec2ForSequenceClassification", config_of(labels=LABELS), tmp_path)
    return tmp_path


# Heads


def test_a_classifier_comes_with_its_labels_and_logits(classifier_folder: Path) -> None:
    model = from_pretrained(classifier_folder)
    assert model.architecture is Wav2Vec2ForSequenceClassification
    assert model.config.labels == LABELS
    theirs = transformers.AutoModelForAudioClassification.from_pretrained(classifier_folder).eval()
    waveform, lengths = clips([9_000, 5_000])
    with torch.no_grad():
        expected = theirs(torch.tensor(waveform)).logits
    np.testing.assert_allclose(model(waveform, lengths).logits, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "family"),
    [
        ("Wav2Vec2ForPreTraining", "wav2vec2"),
        ("Wav2Vec2Model", "wav2vec2"),
        ("HubertModel", "hubert"),
    ],
)
def test_a_checkpoint_without_a_classifier_gets_a_fresh_one_that_does_not_predict(
    architecture: str, family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_theirs(architecture, config_of(model_type=family), tmp_path / "a")
    with pytest.raises(ConversionError, match=r"missing     classifier\.weight"):
        from_pretrained(tmp_path / "a", architecture=CLASSIFIERS[family])
    with caplog.at_level(logging.WARNING):
        model = from_pretrained(tmp_path / "a", labels=LABELS)
    assert model.architecture is CLASSIFIERS[family]
    assert model.ledger is not None
    assert set(model.ledger.new) == {
        "projector.kernel", "projector.bias", "classifier.kernel", "classifier.bias"
    }  # fmt: skip
    assert set(model.params) == {*model.ledger.kept, *model.ledger.new}
    assert "  new      classifier.kernel" in caplog.text
    assert model.params["classifier.kernel"].shape == (256, 3)
    waveform, lengths = clips([5_000])
    with pytest.raises(FreshHeadError, match=r"classifier\.kernel.*fine-tune the model first"):
        model(waveform, lengths)
    with pytest.raises(FreshHeadError, match="pass for a trained one"):
        save_pretrained(model, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_the_seed_decides_a_fresh_head(tmp_path: Path) -> None:
    save_theirs("Wav2Vec2Model", config_of(), tmp_path)
    one, same, other = (from_pretrained(tmp_path, labels=LABELS, seed=seed) for seed in (1, 1, 2))
    kernels = [np.asarray(model.params["classifier.kernel"]) for model in (one, same, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    assert kernels[0].std() == pytest.approx(0.02, rel=0.1)


def test_a_head_of_the_same_labels_is_kept(classifier_folder: Path) -> None:
    model = from_pretrained(classifier_folder, labels=LABELS)
    assert model.ledger is not None
    assert (model.ledger.new, model.ledger.dropped) == ((), ())


@pytest.mark.parametrize("labels", [("cry", "laugh", "cough"), ("laugh", "cry")])
def test_a_head_of_other_labels_is_replaced_whole(
    labels: tuple[str, ...], classifier_folder: Path
) -> None:
    model = from_pretrained(classifier_folder, labels=labels)
    assert model.ledger is not None
    assert set(model.ledger.dropped) == HEAD
    assert len(model.ledger.new) == 4
    assert model.config.labels == labels


def test_labels_are_for_classifiers(tmp_path: Path) -> None:
    save_theirs("Wav2Vec2Model", config_of(), tmp_path)
    with pytest.raises(ConfigError, match="Wav2Vec2Model does not classify"):
        from_pretrained(tmp_path, labels=LABELS, architecture=Wav2Vec2Model)
    with pytest.raises(ConfigError, match=r"model\.labels=\('a', 'a'\)"):
        from_pretrained(tmp_path, labels=("a", "a"))


def test_a_class_of_the_other_family_is_refused(tmp_path: Path) -> None:
    save_theirs("Wav2Vec2Model", config_of(), tmp_path)
    for kind in (HubertModel, HubertForSequenceClassification):
        with pytest.raises(ConfigError, match="is of type wav2vec2, for which there are"):
            from_pretrained(tmp_path, architecture=kind)


# Kinds of file


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_loads_as_the_same_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    half = hf_model("Wav2Vec2ForSequenceClassification", config_of(labels=LABELS)).to(dtype)
    half.save_pretrained(tmp_path)
    model = from_pretrained(tmp_path)
    assert {value.dtype for value in model.params.values()} == {np.dtype(np.float32)}
    waveform, lengths = clips([9_000, 5_000])
    with torch.no_grad():
        expected = half.float()(torch.tensor(waveform)).logits
    np.testing.assert_allclose(model(waveform, lengths).logits, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "spelling"),
    [
        ("bin", "old"),
        ("shards", "new"),
        pytest.param("bin", "new", marks=pytest.mark.thorough),
        pytest.param("safetensors", "old", marks=pytest.mark.thorough),
        pytest.param("safetensors", "new", marks=pytest.mark.thorough),
        pytest.param("shards", "old", marks=pytest.mark.thorough),
    ],
)
def test_every_file_and_spelling_gives_the_same_model(
    kind: str, spelling: str, tmp_path: Path
) -> None:
    config = config_of("large", labels=LABELS)
    theirs = save_theirs("Wav2Vec2ForSequenceClassification", config, tmp_path)
    state = theirs.state_dict()
    if spelling == "old":
        state = {
            name.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): value
            for name, value in state.items()
        }
    (tmp_path / "model.safetensors").unlink()
    if kind == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        size = "50KB" if kind == "shards" else "5GB"
        theirs.save_pretrained(tmp_path, state_dict=state, max_shard_size=size)
        assert (len(list(tmp_path.glob("*.safetensors"))) > 3) == (kind == "shards")
    model = from_pretrained(tmp_path)
    waveform, lengths = clips([6_000, 4_000])
    with torch.no_grad():
        expected = theirs(torch.tensor(waveform), attention_mask=sample_mask(lengths, 6_000)).logits
    np.testing.assert_allclose(
        from_pretrained(tmp_path, attention_mask=True)(waveform, lengths).logits,
        expected.numpy(),
        atol=1e-5,
    )
    save_pretrained(model, tmp_path / "out", max_shard_bytes=40_000)
    assert len(list((tmp_path / "out").glob("model-0*.safetensors"))) > 3
    again = from_pretrained(tmp_path / "out")
    for path, value in model.params.items():
        np.testing.assert_array_equal(again.params[path], value)
    loaded, info = transformers.AutoModelForAudioClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info.values()), info
    assert loaded.config.id2label == dict(enumerate(LABELS))


def test_a_hub_cache_serves_branches_and_pull_requests_offline(tmp_path: Path) -> None:
    """As the published voc2vec repositories are: `.bin` on main, safetensors on a pull request."""
    repository = tmp_path / "hub" / "models--org--voc"
    theirs = hf_model("Wav2Vec2Model", config_of())
    for name, commit in (("main", "a" * 40), ("refs/pr/1", "b" * 40)):
        reference = repository / "refs" / name
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)
        snapshot = repository / "snapshots" / commit
        theirs.save_pretrained(snapshot)
        if name == "main":
            (snapshot / "model.safetensors").unlink()
            torch.save(theirs.state_dict(), snapshot / "pytorch_model.bin")
    code = """
        from voc2vec_jax import from_pretrained
        for revision in (None, "main", "refs/pr/1", "b" * 40):
            model = from_pretrained("org/voc", revision=revision)
            print(len(model.params))
        try:
            from_pretrained("org/voc", revision="v9")
        except ValueError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "PATH": "",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().split("\n")
    assert lines[:4] == [str(len(theirs.state_dict()))] * 4, done.stderr
    assert lines[4].startswith("org/voc: no such folder, and the Hugging Face hub did not give it")
    assert len(lines) == 5


# What transformers 4 called the last hidden state


def test_an_old_weighted_sum_is_asked_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of("large", labels=LABELS, use_weighted_layer_sum=True)
    save_theirs("Wav2Vec2ForSequenceClassification", config, tmp_path)
    text = (tmp_path / "config.json").read_text()
    version = transformers.__version__
    assert f'"transformers_version": "{version}"' in text
    with caplog.at_level(logging.WARNING):
        from_pretrained(tmp_path)
        assert "final norm" not in caplog.text
        (tmp_path / "config.json").write_text(text.replace(version, "4.44.2"))
        newer = from_pretrained(tmp_path)
    assert "final_norm_in_hidden_states=True reproduces it" in caplog.text
    older = from_pretrained(tmp_path, final_norm_in_hidden_states=True)
    signal = clips([6_000])
    assert np.abs(older(*signal).logits - newer(*signal).logits).max() > 1e-3
    save_pretrained(older, tmp_path / "out")
    again = from_pretrained(tmp_path / "out")
    np.testing.assert_allclose(again(*signal).logits, older(*signal).logits, atol=1e-6)


# Real clients


@pytest.mark.parametrize("family", ["wav2vec2", pytest.param("hubert", marks=pytest.mark.thorough)])
def test_the_classification_pipeline_of_transformers_runs_an_export(
    family: str, tmp_path: Path
) -> None:
    config = config_of(model_type=family, labels=LABELS)
    save_theirs(CLASSIFIERS[family].__name__, config, tmp_path / "theirs")
    ours = from_pretrained(tmp_path / "theirs")
    save_pretrained(ours, tmp_path / "ours")
    card = (tmp_path / "ours" / "README.md").read_text()
    assert "AutoModelForAudioClassification" in card
    assert "It tells apart: laugh, cry, cough." in card
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "ours")
    assert (extractor.sampling_rate, extractor.do_normalize) == (16_000, True)
    pipe = transformers.pipeline(
        "audio-classification", model=str(tmp_path / "ours"), device="cpu", top_k=None
    )
    clip = 0.3 + 0.2 * clips([8_000])[0][0]
    scores = {row["label"]: row["score"] for row in pipe(clip)}
    logits = np.asarray(ours(*ours.preprocess([clip])).logits[0], np.float64)
    expected = np.exp(logits - logits.max())
    expected /= expected.sum()
    assert scores.keys() == set(LABELS)
    for label, probability in zip(LABELS, expected, strict=True):
        assert scores[label] == pytest.approx(probability, abs=1e-5)


def test_the_encoder_of_a_classifier_is_the_same_function(classifier_folder: Path) -> None:
    whole = from_pretrained(classifier_folder)
    encoder = from_pretrained(classifier_folder, architecture=Wav2Vec2Model)
    signal = clips([9_000, 5_000])
    np.testing.assert_allclose(
        encoder(*signal).last_hidden_state, whole(*signal).last_hidden_state, atol=1e-6
    )


def test_masked_calls_trim_frames_and_leave_logits(classifier_folder: Path) -> None:
    model = from_pretrained(classifier_folder, padding="masked")
    waveform, lengths = clips([5_100, 4_000])
    out = model(waveform, lengths, output_hidden_states=True)
    frames = out.frame_mask.shape[1]
    assert out.logits.shape == (2, 3)
    assert out.pooled.shape == (2, 256)
    assert out.last_hidden_state.shape[:2] == (2, frames)
    assert all(state.shape[:2] == (2, frames) for state in out.hidden_states)
    assert np.asarray(out.frame_mask)[0].all()
    alone = model(waveform[1:, :4_000], lengths[1:])
    np.testing.assert_allclose(out.logits[1:], alone.logits, atol=1e-5)


def test_a_pretraining_output_is_trimmed_too(tmp_path: Path) -> None:
    save_theirs("Wav2Vec2ForPreTraining", config_of(), tmp_path)
    model = from_pretrained(tmp_path, padding="masked")
    assert model.architecture is Wav2Vec2ForPreTraining
    out = model(*clips([5_100]))
    frames = out.frame_mask.shape[1]
    assert np.asarray(out.frame_mask).all()
    for leaf in (out.predictions, out.targets, out.quantized.codes):
        assert leaf.shape[1] == frames


def test_a_run_of_a_classifier_starts_from_either(classifier_folder: Path) -> None:
    config = dataclasses.replace(config_of(labels=LABELS), hidden_dropout=0.5)
    params, ledger = load_params(classifier_folder, Wav2Vec2ForSequenceClassification, config)
    assert ledger.new == ledger.dropped == ()
    assert "classifier.kernel" in params
