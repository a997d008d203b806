"""Names of files are bytes: whatever they are, they come back from the text in ids and reports."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.builders.common.manual_files import ManualFiles
from data_pipelines.corpora.sources import store_from_folder
from data_pipelines.preparation.prepare import prepare_folder
from voc2vec_jax.audio.input_files import Input, find_inputs
from voc2vec_jax.audio.segments import Segment
from voc2vec_jax.audio.signal import find_audio
from voc2vec_jax.audio.spelling import escaped, unescaped
from voc2vec_jax.cli.predict import Arguments, write
from voc2vec_jax.cli.train import parse, train
from voc2vec_jax.errors import AudioError, ConfigError, DataError, InputsError
from voc2vec_jax.evaluation.clip_vectors import read_embeddings
from voc2vec_jax.features.class_scores import Prediction
from voc2vec_jax.files import write_json

LATIN = os.fsdecode(b"ni\xf1o")


@given(st.binary() | st.sampled_from([rb"\xf1", b"\\\xf1", rb"a\x5cb", b"\\", "ñ".encode()]))
def test_escaped_names_are_text_and_come_back(name: bytes) -> None:
    text = escaped(os.fsdecode(name))
    assert text.encode().decode() == text
    assert os.fsencode(unescaped(text)) == name


@given(st.lists(st.binary(max_size=4), min_size=2, max_size=2, unique=True))
def test_different_names_stay_different(names: list[bytes]) -> None:
    assert escaped(os.fsdecode(names[0])) != escaped(os.fsdecode(names[1]))


@pytest.mark.parametrize(
    ("name", "text"),
    [(b"ni\xf1o.wav", r"ni\xf1o.wav"), (b"a\\b\xff", r"a\x5cb\xff"), ("ñ\\x".encode(), "ñ\\x")],
)
def test_escapes(name: bytes, text: str) -> None:
    assert escaped(os.fsdecode(name)) == text


def noise(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(len(path.name)).uniform(-0.5, 0.5, 800)
    with path.open("wb") as file:  # soundfile takes no name that is no UTF-8
        soundfile.write(file, samples, 16_000, format="WAV")


def test_a_store_of_latin_1_names(tmp_path: Path) -> None:
    folder = tmp_path / f"corpus {LATIN}"
    for name in (f"{LATIN}/{LATIN}.wav", "cough/a.wav"):
        noise(folder / name)
    (folder / LATIN / f"{LATIN}2.wav").write_bytes(b"nothing")
    store = store_from_folder(folder, tmp_path / "cache", classes=True)
    assert store.ids == store.sources == ["cough/a.wav", r"ni\xf1o/ni\xf1o.wav"]
    assert store.class_names == ["cough", r"ni\xf1o"]
    report = (store.directory / "report.json").read_text(encoding="utf-8")
    assert r'"file": "ni\\xf1o/ni\\xf1o2.wav"' in report
    assert r'"dataset": "corpus ni\\xf1o"' in report


def test_inputs_of_latin_1_names(tmp_path: Path) -> None:
    noise(tmp_path / f"{LATIN}.wav")
    file = tmp_path / f"{LATIN}.wav"
    (in_folder,) = find_inputs([tmp_path])
    assert in_folder == Input(r"ni\xf1o.wav", file)
    assert in_folder.file == f"{tmp_path}/ni\\xf1o.wav"
    (named,) = find_inputs([f"{tmp_path}/./{LATIN}.wav"])
    assert named.id == named.file == rf"{tmp_path}/./ni\xf1o.wav"  # as given
    assert named.path == file


def test_inputs_of_a_table(tmp_path: Path) -> None:
    noise(tmp_path / "a.wav")
    (tmp_path / "t.TSV").write_text("path\tstart\tend\na.wav\t0.01\t0.04\na.wav\t0\t\n")
    first, second = find_inputs([tmp_path / "t.TSV"])
    assert first == Input("a.wav#0.01-0.04", tmp_path / "a.wav", Segment(0.01, 0.04), "a.wav")
    assert len(first.load()) == 480
    assert (second.id, second.file, len(second.load())) == ("a.wav#0-", "a.wav", 800)
    (tmp_path / "u.csv").write_text("path\na.wav\n")
    with pytest.raises(InputsError, match=r"would both be called 'a\.wav'"):
        find_inputs([tmp_path, tmp_path / "u.csv"])
    (tmp_path / "u.csv").write_text("path,end\na.wav,1\n")
    with pytest.raises(DataError, match=r"u\.csv: line 2: 'a\.wav' has 0\.05 s"):
        find_inputs([tmp_path / "u.csv"])


def test_json_holds_any_path(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"model": LATIN, "é": "é"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert '"é": "é"' in text
    assert json.loads(text) == {"model": LATIN, "é": "é"}


def predicted(
    inputs: list[Path], format: Literal["csv", "json"], capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """Lines that `predict` prints of a model that is always sure."""
    arguments = Arguments(tuple(map(str, inputs)), "model", format=format)
    files = find_inputs(arguments.inputs)
    write(iter([Prediction(file, 0.5, 1, {"a": 1.0}) for file in files]), files, arguments)
    return capsys.readouterr().out.splitlines()


def test_predictions_repeat_what_a_table_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise(tmp_path / f"{LATIN}.wav")
    table = tmp_path / "t.csv"
    table.write_bytes(b"path,start,end\nni\xf1o.wav,0.01,0.04\nni\xf1o.wav,0.02,\n")
    assert predicted([table], "csv", capsys) == [
        "file,start,end,seconds,windows,rank,label,score",
        r"ni\xf1o.wav,0.01,0.04,0.5,1,1,a,1.000000",
        r"ni\xf1o.wav,0.02,,0.5,1,1,a,1.000000",
    ]
    table.write_bytes(b"path,id\nni\xf1o.wav,first\n")
    assert predicted([table], "csv", capsys) == [
        "file,id,seconds,windows,rank,label,score",
        r"ni\xf1o.wav,first,0.5,1,1,a,1.000000",
    ]
    table.write_bytes(b"path,id\nni\xf1o.wav,ni\xf1o.wav#left\n")
    assert predicted([table], "csv", capsys)[1].startswith(r"ni\xf1o.wav,ni\xf1o.wav#left,0.5")
    noise(tmp_path / "a\rb.wav")
    arguments = Arguments((str(tmp_path / "a\rb.wav"),), "model", format="csv")
    files = find_inputs(arguments.inputs)
    write(iter([Prediction(files[0], 0.5, 1, {"a": 1.0})]), files, arguments)
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    assert [len(row) for row in rows] == [6, 6]
    (tmp_path / "a\rb.wav").unlink()
    folder = json.loads(predicted([tmp_path], "json", capsys)[0])
    assert folder == {
        "file": f"{tmp_path}/ni\\xf1o.wav",
        "seconds": 0.5,
        "windows": 1,
        "scores": {"a": 1.0},
    }


def test_places_that_others_cannot_write_to_are_refused(tmp_path: Path) -> None:
    workdir = tmp_path / LATIN
    with pytest.raises(ConfigError, match=r"--workdir .*ni\\xf1o: checkpoints are written only"):
        train(parse(["--config", "configs/tiny.py", "--workdir", str(workdir)]))
    with pytest.raises(ConfigError, match=r"--data-dir .*ni\\xf1o: records are written only"):
        prepare_folder(tmp_path, None, workdir, classes=False)


# Links


def test_links_to_folders_are_followed_but_not_in_circles(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    for name in ("root/own/a.wav", "elsewhere/deep/b.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "own" / "up").symlink_to(root)
    (tmp_path / "elsewhere" / "itself").symlink_to(tmp_path / "elsewhere")
    (root / "gone").symlink_to(tmp_path / "nothing")
    found, others = find_audio(root)
    assert [path.relative_to(root).as_posix() for path in found] == [
        "linked/deep/b.wav",
        "own/a.wav",
    ]
    assert others == 1
    assert sorted(message.removeprefix(f"{root}/") for message in caplog.messages) == [
        "gone: left out, a link that leads nowhere",
        "linked/itself: left out, a link to a folder that it lies in",
        "own/up: left out, a link to a folder that it lies in",
    ]
    places = [file.place for file in ManualFiles(root, tmp_path / "scratch").files]
    assert places == ["linked/deep/b.wav", "own/a.wav"]


def test_a_link_to_no_file_is_a_dropped_clip(tmp_path: Path) -> None:
    noise(tmp_path / "in" / "a.wav")
    (tmp_path / "in" / "b.wav").symlink_to(tmp_path / "nothing.wav")
    store = store_from_folder(tmp_path / "in", tmp_path / "cache")
    assert store.ids == ["a.wav"]
    report = (store.directory / "report.json").read_text(encoding="utf-8")
    assert "no such file: a link that leads nowhere" in report
    with pytest.raises(AudioError, match="a link that leads nowhere"):
        find_inputs([tmp_path / "in"])[1].load()


# Classes and folds


def layout(folder: Path, cache: Path, *, classes: bool = True) -> list[tuple[str, str, str]]:
    store = store_from_folder(folder, cache, classes=classes)
    names = [*store.class_names, ""]  # -1 is the last one
    labels = [names[label] for label in store.labels]
    return list(zip(store.ids, labels, store.folds, strict=True))


def test_folders_of_folds_above_those_of_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "in"
    for name in ("Train/cough/a.wav", "dev/laugh/b.wav", "test/cough/c.wav", "test/d.wav"):
        noise(folder / name)
    (folder / "test" / "scream").mkdir()
    assert layout(folder, tmp_path / "cache") == [
        ("Train/cough/a.wav", "cough", "train"),
        ("dev/laugh/b.wav", "laugh", "validation"),
        ("test/cough/c.wav", "cough", "test"),
        ("test/d.wav", "", "test"),
    ]
    assert "Train, dev, test are folds, those in them are classes" in caplog.text
    assert "test/scream: holds no audio" in caplog.text
    (folder / "sneeze").mkdir()
    noise(folder / "sneeze" / "e.wav")
    with pytest.raises(DataError, match="names of folds, and sneeze beside them are not; move"):
        layout(folder, tmp_path / "cache")


def test_folds_without_classes(tmp_path: Path) -> None:
    for name in ("train/a.wav", "test/b.wav"):
        noise(tmp_path / "in" / name)
    with pytest.raises(DataError, match="test, train are names of folds, but there are no class"):
        layout(tmp_path / "in", tmp_path / "cache")
    found = layout(tmp_path / "in", tmp_path / "cache", classes=False)
    assert [fold for _, _, fold in found] == ["test", "train"]


def test_one_class_may_be_called_test(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("test/a.wav", "cough/b.wav"):
        noise(tmp_path / "in" / name)
    (tmp_path / "in" / "sigh").mkdir()
    (tmp_path / "in" / "groan").mkdir()
    (tmp_path / "in" / "groan" / "c.wav").write_bytes(b"nothing")
    found = layout(tmp_path / "in", tmp_path / "cache")
    assert found == [("cough/b.wav", "cough", ""), ("test/a.wav", "test", "")]
    assert "sigh: holds no audio" in caplog.text
    assert "class 'groan' has no clip" in caplog.text


# Vectors by id


def test_vectors_are_found_by_another_spelling(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    path = tmp_path / "v.npz"
    np.savez(path, ids=np.array([decomposed, "b"]), embeddings=np.eye(2))
    np.testing.assert_array_equal(read_embeddings(path, ["b", composed]), [[0, 1], [1, 0]])
    np.savez(path, ids=np.array([decomposed, composed]), embeddings=np.eye(2))
    np.testing.assert_array_equal(read_embeddings(path, [composed, decomposed]), [[0, 1], [1, 0]])
    np.savez(path, ids=np.array(["\u212b", "A\u030a"]), embeddings=np.eye(2))
    with pytest.raises(ValueError, match="not as it is spelt, but"):
        read_embeddings(path, ["\u00c5"])
