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
from safetensors.numpy import load_file, save_file

from voc2vec_jax import HubertModel, Wav2Vec2Model, from_pretrained, save_pretrained
from voc2vec_jax.checkpoints.loading import load_encoder
from voc2vec_jax.cli.predict import main as predict
from voc2vec_jax.errors import DONE, CheckpointError, ConfigError

Tensors = dict[str, np.ndarray]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "vocab_size": 12,
}


def make(
    folder: Path,
    kind: str,
    tensors: Callable[[Tensors], Tensors] = lambda held: held,
    config: Callable[[dict[str, Any]], dict[str, Any]] = lambda fields: fields,
    **values: Any,
) -> Path:
    """A folder of transformers, with what some publisher did to it."""
    torch.manual_seed(0)
    of_hubert = kind.startswith("Hubert")
    described = transformers.HubertConfig if of_hubert else transformers.Wav2Vec2Config
    model = getattr(transformers, kind)(described(**SIZES, **values))
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    path = folder / "model.safetensors"
    save_file(tensors(load_file(path)), path, metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(config(json.loads(path.read_text()))))
    return folder


def without_mask_embedding(held: Tensors) -> Tensors:
    return {name: value for name, value in held.items() if "masked_spec_embed" not in name}


def without_architecture(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "architectures"}


def with_final_projection(held: Tensors) -> Tensors:
    return {
        **held,
        "final_proj.weight": np.zeros((256, 32), np.float32),
        "final_proj.bias": np.zeros(256, np.float32),
    }


def difference(folder: Path, auto: type = transformers.AutoModel) -> float:
    """Largest difference of the encoder's output from that of transformers."""
    waveform = np.random.default_rng(0).standard_normal((1, 4_000)).astype(np.float32)
    with torch.no_grad():
        reference = auto.from_pretrained(folder).eval()(torch.from_numpy(waveform))
    theirs = reference.last_hidden_state.numpy()
    ours = load_encoder(folder)(waveform).last_hidden_state
    return float(np.abs(np.asarray(ours) - theirs).max())


LAYOUTS: Mapping[str, Callable[[Path], Path]] = {
    # facebook/wav2vec2-base-960h: a mask probability, and no embedding for it
    "960h": lambda folder: make(folder, "Wav2Vec2ForCTC", without_mask_embedding),
    "embedding without a mask": lambda folder: make(
        folder, "Wav2Vec2Model", config=lambda fields: {**fields, "mask_time_prob": 0.0}
    ),
    # lengyue233/content-vec-best: a projection beside a bare encoder
    "contentvec": lambda folder: make(folder, "HubertModel", with_final_projection),
    "contentvec under a prefix": lambda folder: make(folder, "HubertForCTC", with_final_projection),
    "classifier without architecture": lambda folder: make(
        folder, "Wav2Vec2ForSequenceClassification", config=without_architecture
    ),
    "encoder without architecture": lambda folder: make(
        folder, "HubertModel", config=without_architecture
    ),
    "repeated label": lambda folder: make(
        folder,
        "Wav2Vec2ForSequenceClassification",
        config=lambda fields: {**fields, "id2label": {"0": "cough", "1": "cough"}},
    ),
    "labels that are numbers": lambda folder: make(
        folder,
        "HubertForSequenceClassification",
        config=lambda fields: {**fields, "id2label": {"0": 3, "1": None}},
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_encoder_loads_and_is_that_of_transformers(layout: str, tmp_path: Path) -> None:
    folder = LAYOUTS[layout](tmp_path / "held")
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
    ledger = load_encoder(LAYOUTS["960h"](tmp_path / "a")).ledger
    assert ledger is not None
    assert ledger.new == ("masked_spec_embed",)
    assert ledger.dropped == ("lm_head.bias", "lm_head.weight")
    ledger = load_encoder(LAYOUTS["embedding without a mask"](tmp_path / "b")).ledger
    assert ledger is not None
    assert (ledger.new, ledger.dropped) == ((), ("masked_spec_embed",))
    ledger = from_pretrained(LAYOUTS["contentvec"](tmp_path / "c")).ledger
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
    folder = LAYOUTS["classifier without architecture"](tmp_path / "model")
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
    repeated = LAYOUTS["repeated label"](tmp_path / "a")
    numbers = LAYOUTS["labels that are numbers"](tmp_path / "b")
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
    folder = LAYOUTS["contentvec"](tmp_path)
    assert from_pretrained(folder).architecture is HubertModel
    with pytest.raises(ValueError, match="of type hubert"):
        from_pretrained(folder, architecture=Wav2Vec2Model)
