"""`tools.convert_weights` and `tools.verify_parity`, on checkpoints of every kind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from tests.conftest import ARCHITECTURES, FEW, TINY
from tests.reference import clips, hf_model
from tests.test_fairseq import save_fairseq
from tools import convert_weights, verify_parity
from voc2vec_jax.checkpoints.loading import from_pretrained, load_encoder
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.models import Wav2Vec2Model
from voc2vec_jax.models.architectures import CLASSIFIERS


def save_theirs(name: str, layout: str, folder: Path, **fields: object) -> torch.nn.Module:
    model = hf_model(name, ModelConfig(**{**TINY, **FEW, **ARCHITECTURES[layout], **fields}))
    model.save_pretrained(folder)
    return model


def convert(source: Path, destination: Path, target: str, *options: str) -> int:
    return convert_weights.main([str(source), str(destination), "--to", target, *options])


def test_there_and_back_through_orbax(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = save_theirs("Wav2Vec2ForPreTraining", "large", tmp_path / "hf")
    assert convert(tmp_path / "hf", tmp_path / "orbax", "orbax") == 0
    assert "0 new, 0 dropped" in capsys.readouterr().out
    assert from_pretrained(tmp_path / "orbax").preprocessor.return_attention_mask
    assert convert(tmp_path / "orbax", tmp_path / "back", "hf") == 0
    one, two, three = (load_encoder(tmp_path / kind).sha256 for kind in ("hf", "orbax", "back"))
    assert one == two == three  # known by content, whatever file it lies in
    _, info = transformers.Wav2Vec2ForPreTraining.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not any(info.values()), info
    for name, value in theirs.state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        loaded = load_file(tmp_path / "back" / "model.safetensors")[name]
        assert loaded.tobytes() == value.numpy().tobytes(), name
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["architectures"] == ["Wav2Vec2ForPreTraining"]


def test_a_fairseq_file_becomes_a_folder_of_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = save_fairseq(tmp_path / "wav2vec.pt", "base")
    assert convert(tmp_path / "wav2vec.pt", tmp_path / "hf", "hf") == 0
    loaded = transformers.Wav2Vec2ForPreTraining.from_pretrained(tmp_path / "hf").eval()
    waveform = torch.tensor(clips([6_000])[0])
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(waveform).projected_states, theirs(waveform).projected_states, atol=1e-6, rtol=0
        )
    assert (
        convert_weights.main(
            [
                str(tmp_path / "wav2vec.pt"),
                str(tmp_path / "encoder"),
                "--to",
                "hf",
                "--encoder-only",
            ]
        )
        == 0
    )
    assert "dropped  quantizer.codevectors" in capsys.readouterr().out
    assert from_pretrained(tmp_path / "encoder").architecture is Wav2Vec2Model


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [("nothing", 3, "no such folder"), ("bad", 2, "hidden_size=-1"), ("empty", 3, "config.json")],
)
def test_bad_sources_have_their_exit_codes(
    source: str, code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text('{"hidden_size": -1}')
    assert convert(tmp_path / source, tmp_path / "x", "hf") == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert verify_parity.main([str(tmp_path / source)]) == code
    assert message in capsys.readouterr().err


def test_a_full_folder_is_not_written_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_theirs("Wav2Vec2Model", "base", tmp_path / "hf")
    for target in ("hf", "orbax"):
        assert convert(tmp_path / "hf", tmp_path / "hf", target) == 3
        assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["wav2vec2", pytest.param("hubert", marks=pytest.mark.thorough)])
def test_an_exact_checkpoint_passes_and_says_every_block(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_theirs(CLASSIFIERS[family].__name__, "large", tmp_path, model_type=family)
    assert verify_parity.main([str(tmp_path), "--seconds", "0.5", "0.2", "--bound", "1e-5"]) == 0
    out = capsys.readouterr().out
    for block in ("conv_layers.2", "feature_projection", "pos_conv_embed", "layers.1", "logits"):
        assert block in out
    assert "equal within 1e-05" in out


def test_a_difference_is_found_where_it_arises(tmp_path: Path) -> None:
    """Our copy of the weights is changed behind the tool's back."""
    theirs = save_theirs("Wav2Vec2ForPreTraining", "base", tmp_path)
    model = from_pretrained(tmp_path)
    path = "wav2vec2.encoder.layers.1.attention.v_proj.kernel"
    model.params[path] = model.params[path] + 0.01
    worst = verify_parity.compare(model, theirs, (0.5, 0.2))
    verdicts = {name: verdict for name, _, verdict in verify_parity.rows(worst, 1e-4)}
    first_bad = next(name for name, verdict in verdicts.items() if verdict != "ok")
    assert first_bad == "encoder.layers.1"
    assert verdicts["project_hid"] != "ok"


def test_not_a_number_does_not_pass(tmp_path: Path) -> None:
    theirs = save_theirs("Wav2Vec2Model", "base", tmp_path)
    model = from_pretrained(tmp_path)
    model.params["encoder.layer_norm.bias"] = model.params["encoder.layer_norm.bias"] * np.nan
    worst = verify_parity.compare(model, theirs, (0.5, 0.2))
    assert np.isnan(worst["last_hidden_state"])
    assert {v for n, _, v in verify_parity.rows(worst, 1e-4) if n == "last_hidden_state"} != {"ok"}


def test_a_run_is_compared_by_its_export(tmp_path: Path) -> None:
    save_theirs("Wav2Vec2Model", "base", tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "orbax", "orbax")
    assert verify_parity.main([str(tmp_path / "orbax"), "--seconds", "0.4", "0.2"]) == 0


def test_a_damaged_orbax_checkpoint_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_theirs("Wav2Vec2Model", "base", tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "orbax", "orbax")
    for path in (tmp_path / "orbax" / "0" / "meta").rglob("*"):
        if path.is_file():
            path.write_text("{")
    capsys.readouterr()
    assert convert(tmp_path / "orbax", tmp_path / "x", "hf") == 3
    assert str(tmp_path / "orbax" / "0") in capsys.readouterr().err


def test_weights_of_nan_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_theirs("Wav2Vec2Model", "base", tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    tensors["encoder.layer_norm.bias"][0] = np.nan
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    assert convert(tmp_path / "hf", tmp_path / "x", "hf") == 3
    assert "not finite  encoder.layer_norm.bias" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
