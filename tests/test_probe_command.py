"""The command from a table of recordings to a table of scores."""

import json
from pathlib import Path

import pytest

from data_pipelines.corpora.sources import store_from_table
from data_pipelines.synthetic.corpus import CLASSES, write_wavs
from tests.conftest import ARCHITECTURES, FEW, TINY
from tools import probe
from voc2vec_jax.checkpoints.loading import load_encoder
from voc2vec_jax.checkpoints.pretrained import Preprocessor, PretrainedModel
from voc2vec_jax.checkpoints.saving import save_pretrained
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.errors import BAD_DATA, DONE, WRONG_USAGE
from voc2vec_jax.evaluation import probing
from voc2vec_jax.models import Wav2Vec2Model

pytestmark = pytest.mark.unoptimised


def test_every_row_is_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wavs(tmp_path / "wavs", speakers=6, takes=1)
    config = ModelConfig(**{**TINY, **FEW, **ARCHITECTURES["base"], "num_hidden_layers": 1})
    model = PretrainedModel(Wav2Vec2Model, config, {}, preprocessor=Preprocessor())
    save_pretrained(probing.randomly_initialised(model, 5), tmp_path / "model")
    out = tmp_path / "probe.json"
    command = [
        "probe", str(tmp_path / "model"), "--table", str(tmp_path / "wavs" / "clips.csv"),
        "--out", str(out), "--data-dir", str(tmp_path / "cache"),
        "--folds", "3", "--seeds", "0", "--init-seeds", "5",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", command)
    probe.main()
    report = json.loads(out.read_text(encoding="utf-8"))
    assert (report["clips"], report["groups"]) == (60, 6)
    assert report["classes"] == sorted(CLASSES)
    rows = {(row["features"], row["layer"]): row for row in report["rows"]}
    layers = {"layer 0", "layer 1", probing.CHOSEN}
    names = {(name, layer) for name in ("random initialisation", "pre-trained") for layer in layers}
    assert rows.keys() == {*names, ("majority class", "-"), ("MFCC statistics", "MFCC")}
    assert rows["majority class", "-"]["uar"] == [0.1]
    # The "pre-trained" model is the random one of the same seed.
    for layer in layers:
        assert rows["pre-trained", layer]["uar"] == rows["random initialisation", layer]["uar"], (
            layer
        )
    printed = capsys.readouterr().out
    assert printed.count("| pre-trained |") == len(layers)
    assert str(tmp_path) not in out.read_text(encoding="utf-8")
    # Figures of other weights at the same path, or of other settings, are not written over them;
    # those of the same content are, before anything is computed.
    content = report["identity"]["content"]
    before = load_encoder(tmp_path / "model", padding="masked").sha256
    assert content["model 1"] == before
    store = store_from_table(tmp_path / "wavs" / "clips.csv", tmp_path / "cache")
    assert content["corpus_fingerprint"] == store.fingerprint
    computed: list[int] = []
    monkeypatch.setattr(probe, "rows", lambda *_: computed.append(1) or [])
    kept = out.read_text(encoding="utf-8")
    assert probe.main([*command[1:], "--seeds", "0", "1"]) == WRONG_USAGE
    assert "division_seeds: [0] there, [0, 1] asked for" in capsys.readouterr().err
    save_pretrained(probing.randomly_initialised(model, 6), tmp_path / "model")
    assert probe.main(command[1:]) == WRONG_USAGE
    after = load_encoder(tmp_path / "model", padding="masked").sha256
    said = f"(model 1: {before[:12]}… there, {after[:12]}… asked for); delete it, or give another"
    assert said in capsys.readouterr().err
    assert (computed, out.read_text(encoding="utf-8")) == ([], kept)
    save_pretrained(probing.randomly_initialised(model, 5), tmp_path / "moved")
    assert probe.main([str(tmp_path / "moved"), *command[2:]]) == DONE
    assert computed == [1]


def test_a_missing_table_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(["model", "--table", str(tmp_path / "none.csv")]) == BAD_DATA
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "none.csv: no such table" in error
