"""Layouts of checkpoints that people publish, shrunk: they load, or say in a sentence why not."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from tests.zoo import ZOO, Tensors, having, make, with_final_projection, without_mask_embedding
from voc2vec_jax import HubertModel, Wav2Vec2Model, from_pretrained, save_pretrained
from voc2vec_jax.checkpoints.loading import load_encoder
from voc2vec_jax.cli.predict import main as predict
from voc2vec_jax.errors import DONE, CheckpointError, ConfigError

MADE: Mapping[str, Callable[[Path], Path]] = {
    "embedding without a mask": lambda folder: make(
        folder, "Wav2Vec2Model", config=having(mask_time_prob=0.0)
    ),
    "projection under a prefix": lambda folder: make(folder, "HubertForCTC", with_final_projection),
    "classifier without architecture": lambda folder: make(
        folder, "Wav2Vec2ForSequenceClassification", config=without_architecture
    ),
    "encoder without architecture": lambda folder: make(
        folder, "HubertModel", config=without_architecture
    ),
    "repeated label": lambda folder: make(
        folder,
        "Wav2Vec2ForSequenceClassification",
        config=having(id2label={"0": "cough", "1": "cough"}),
    ),
    "labels that are numbers": lambda folder: make(
        folder, "HubertForSequenceClassification", config=having(id2label={"0": 3, "1": None})
    ),
}
LOADED = {layout.hub: layout for layout in ZOO if not layout.refused}
REFUSED = {layout.hub: layout for layout in ZOO if layout.refused}
NOISE = np.random.default_rng(0).standard_normal((1, 4_000)).astype(np.float32)


def without_architecture(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "architectures"}


def of_transformers(folder: Path, auto: type = transformers.AutoModel) -> Any:
    """What transformers computes of some noise."""
    with torch.no_grad():
        return auto.from_pretrained(folder).eval()(torch.from_numpy(NOISE))


def difference(folder: Path) -> float:
    """Largest difference of the encoder's output from that of transformers."""
    ours = load_encoder(folder)(NOISE).last_hidden_state
    return float(np.abs(np.asarray(ours) - of_transformers(folder).last_hidden_state.numpy()).max())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("hub", LOADED)
def test_a_published_layout_loads_computes_the_same_and_is_written_again(
    hub: str, tmp_path: Path
) -> None:
    layout = LOADED[hub]
    folder = layout.make(tmp_path / "held")
    assert difference(folder) <= 1e-5
    if layout.loads == "encoder":
        with pytest.raises(ValueError, match=r"encoder alone|projector"):
            from_pretrained(folder)
    else:
        model = from_pretrained(folder)
        assert model.architecture.__name__ == layout.loads
        if "Classification" in layout.loads:
            theirs = of_transformers(folder, transformers.AutoModelForAudioClassification)
            np.testing.assert_allclose(model(NOISE).logits, theirs.logits, atol=1e-5)
    encoder = load_encoder(folder)
    save_pretrained(encoder, tmp_path / "again")
    again = of_transformers(tmp_path / "again").last_hidden_state.numpy()
    np.testing.assert_array_equal(again, of_transformers(folder).last_hidden_state.numpy())


@pytest.mark.parametrize("hub", REFUSED)
def test_a_published_layout_of_another_kind_is_refused(hub: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        from_pretrained(REFUSED[hub].make(tmp_path))
    assert REFUSED[hub].refused in str(caught.value)
    assert "config.json" in str(caught.value)


def test_the_table_of_checkpoints_is_that_of_these_tests() -> None:
    text = (Path(__file__).parents[1] / "docs/checkpoints.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == [layout.row() for layout in ZOO]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("layout", MADE)
def test_the_encoder_loads_and_is_that_of_transformers(layout: str, tmp_path: Path) -> None:
    folder = MADE[layout](tmp_path / "held")
    if "label" not in layout:  # of which transformers refuses some
        assert difference(folder) <= 1e-5
    model = load_encoder(folder)
    assert model.ledger is not None
    assert [name for name in model.ledger.new if "masked_spec_embed" not in name] == []
    save_pretrained(model, tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    held = load_file(folder / "model.safetensors")
    prefix = next((p for p in ("wav2vec2.", "hubert.") if any(n.startswith(p) for n in held)), "")
    for name, value in again.items():  # nothing is invented, and nothing changed
        spelt = name.replace("weight_g", "parametrizations.weight.original0")
        spelt = spelt.replace("weight_v", "parametrizations.weight.original1")
        np.testing.assert_array_equal(value, held[prefix + spelt], err_msg=name)


def test_the_ledger_says_what_is_fresh_and_what_was_dropped(tmp_path: Path) -> None:
    ledger = load_encoder(LOADED["facebook/wav2vec2-base-960h"].make(tmp_path / "a")).ledger
    assert ledger is not None
    assert ledger.new == ("masked_spec_embed",)
    assert ledger.dropped == ("lm_head.bias", "lm_head.weight")
    ledger = load_encoder(MADE["embedding without a mask"](tmp_path / "b")).ledger
    assert ledger is not None
    assert (ledger.new, ledger.dropped) == ((), ("masked_spec_embed",))
    ledger = load_encoder(LOADED["lengyue233/content-vec-best"].make(tmp_path / "c")).ledger
    assert ledger is not None
    assert (ledger.new, ledger.dropped) == ((), ("final_proj.bias", "final_proj.weight"))


def test_a_classifier_without_a_mask_embedding_is_trained(tmp_path: Path) -> None:
    folder = make(tmp_path, "Wav2Vec2ForSequenceClassification", without_mask_embedding)
    model = from_pretrained(folder)
    waveform = np.random.default_rng(0).standard_normal((1, 4_000)).astype(np.float32)
    theirs = transformers.Wav2Vec2ForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(waveform)).logits.numpy()
    np.testing.assert_allclose(model(waveform).logits, expected, atol=1e-5)


def test_a_classifier_is_known_by_its_tensors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = MADE["classifier without architecture"](tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        model = from_pretrained(folder)
    assert model.architecture.__name__ == "Wav2Vec2ForSequenceClassification"
    assert "names no architecture" in caplog.text
    import soundfile

    noise = np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(tmp_path / "clip.wav", 0.1 * noise, 16_000)
    assert predict([str(tmp_path / "clip.wav"), "--model", str(folder)]) == DONE
    assert "LABEL_" in capsys.readouterr().out


def test_labels_are_told_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    repeated = MADE["repeated label"](tmp_path / "a")
    numbers = MADE["labels that are numbers"](tmp_path / "b")
    with caplog.at_level(logging.WARNING):
        assert from_pretrained(repeated).config.labels == ("cough (0)", "cough (1)")
        assert from_pretrained(numbers).config.labels == ("3", "None")
    assert "id2label has 'cough' more than once" in caplog.text
    assert "id2label has names that are no text" in caplog.text


@pytest.mark.parametrize(
    "wrapper", ["module.", "model.", "base_model.model.", "_orig_mod.", "wav2vec2.", "a.b.c."]
)
@pytest.mark.parametrize("kind", ["Wav2Vec2Model", "Wav2Vec2ForSequenceClassification"])
def test_what_stands_before_all_names_is_left_out_and_said(
    kind: str, wrapper: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = from_pretrained(make(tmp_path / "plain", kind))
    folder = make(
        tmp_path / "wrapped",
        kind,
        lambda held: {wrapper + name: value for name, value in held.items()},
    )
    with caplog.at_level(logging.WARNING):
        wrapped = from_pretrained(folder)
    # Before a bare encoder the name of its family is no wrapper.
    said = not (kind == "Wav2Vec2Model" and wrapper == "wav2vec2.")
    assert (f"begin with '{wrapper}', which is left out" in caplog.text) == said
    assert wrapped.params.keys() == plain.params.keys()
    for path, value in plain.params.items():
        np.testing.assert_array_equal(wrapped.params[path], value)


def test_two_tensors_that_become_one_are_named(tmp_path: Path) -> None:
    def twice(held: Tensors) -> Tensors:
        wrapped = {f"module.{name}": value for name, value in held.items()}
        return {**wrapped, "classifier.weight": np.zeros_like(held["classifier.weight"])}

    folder = make(tmp_path, "Wav2Vec2ForSequenceClassification", twice)
    with pytest.raises(CheckpointError, match=r"'(module\.)?classifier\.weight' and .* leave one"):
        from_pretrained(folder)


def test_what_holds_no_encoder_of_ours_says_so_in_a_sentence(tmp_path: Path) -> None:
    folder = make(tmp_path / "other", "Wav2Vec2Model", lambda held: {"blocks.0.w": np.ones(3)})
    with pytest.raises(CheckpointError, match=r"hold none \(1 tensors, such as 'blocks"):
        from_pretrained(folder)
    twice = make(
        tmp_path / "twice",
        "Wav2Vec2Model",
        lambda held: {f"{part}.{n}": v for part in ("teacher", "student") for n, v in held.items()},
    )
    with pytest.raises(CheckpointError, match="and hold 2 of them"):
        from_pretrained(twice)


def test_adapters_and_quantised_weights_are_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is an adapter of PEFT.* merge it into"):
        from_pretrained(tmp_path / "adapter")
    quantised = make(
        tmp_path / "quantised",
        "Wav2Vec2Model",
        config=lambda fields: {**fields, "quantization_config": {"load_in_8bit": True}},
    )
    with pytest.raises(CheckpointError, match="quantised weights, which are not read; save"):
        from_pretrained(quantised)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("add_adapter", "add_adapter=True: adapters are not supported"),
        ("conv_pos_batch_norm", "a batch norm before the positions is not supported"),
    ],
)
def test_what_a_model_cannot_do_is_a_whole_sentence(
    field: str, message: str, tmp_path: Path
) -> None:
    folder = make(tmp_path, "HubertModel", config=lambda fields: {**fields, field: True})
    with pytest.raises(ConfigError, match=message):
        from_pretrained(folder)


@pytest.mark.parametrize("nested", [True, False])
def test_preprocessing_is_read_where_transformers_keeps_it(tmp_path: Path, nested: bool) -> None:
    folder = make(
        tmp_path,
        "Wav2Vec2Model",
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(
        do_normalize=False, return_attention_mask=True
    )
    (folder / "preprocessor_config.json").unlink()
    if nested:
        words = ["<pad>", "<s>", "</s>", "<unk>", "|", "A"]
        vocabulary = tmp_path / "vocab.json"
        vocabulary.write_text(json.dumps({word: number for number, word in enumerate(words)}))
        tokenizer = transformers.Wav2Vec2CTCTokenizer(str(vocabulary))
        transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
        assert not (folder / "preprocessor_config.json").exists()
    else:
        extractor.save_pretrained(folder)
    model = load_encoder(folder)
    assert not model.preprocessor.do_normalize
    assert model.preprocessor.return_attention_mask
    quiet = 0.05 * np.sin(np.arange(8_000, dtype=np.float32))
    inputs = transformers.AutoFeatureExtractor.from_pretrained(folder)(
        quiet, sampling_rate=16_000, return_tensors="pt"
    )
    with torch.no_grad():
        theirs = transformers.AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state
    ours = model(*model.preprocess([quiet])).last_hidden_state
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_what_no_file_says_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make(tmp_path, "Wav2Vec2Model")
    (folder / "preprocessor_config.json").unlink()
    with caplog.at_level(logging.WARNING):
        model = from_pretrained(folder)
    assert model.preprocessor.do_normalize
    assert caplog.text.count("do_normalize=True and return_attention_mask=False are assumed") == 1


def test_a_damaged_nested_extractor_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path, "Wav2Vec2Model")
    (folder / "processor_config.json").write_text('{"feature_extractor": 3}')
    with pytest.raises(ValueError, match=r"processor_config\.json: feature_extractor=3"):
        from_pretrained(folder)


def test_the_classes_are_those_asked_for(tmp_path: Path) -> None:
    folder = make(tmp_path, "HubertModel", with_final_projection)
    assert from_pretrained(folder).architecture is HubertModel
    with pytest.raises(ValueError, match="of type hubert"):
        from_pretrained(folder, architecture=Wav2Vec2Model)
