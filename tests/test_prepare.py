"""From files to records, report and training batches, whatever lies in the folder."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import tensorflow_datasets as tfds

from data_pipelines.batches.pretraining import open_training_corpus
from data_pipelines.builders.common import base, records
from data_pipelines.corpora.prepared import dataset_names, find_prepared, open_prepared
from data_pipelines.corpora.sources import open_corpus
from data_pipelines.preparation import prepare
from data_pipelines.preparation.prepare import (
    builder_class,
    make_builder,
    prepare_dataset,
    prepare_folder,
)
from data_pipelines.stores.flat_store import FlatStore
from data_pipelines.stores.index import read_index, write_index
from tests.old_index import as_it_was
from tools.prepare_data import main
from voc2vec_jax.audio.signal import load_audio
from voc2vec_jax.config import DataConfig
from voc2vec_jax.errors import BAD_DATA, DONE, WRONG_USAGE, ConfigError, DataError

ROOT = Path(__file__).parents[1]
APP = "0D1AD73E-4C5E-45F3-85C4-9A3CB71E8856"


def noise(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))


def report_of(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / "report.json").read_text())
    return report


@pytest.fixture
def cries(tmp_path: Path) -> Path:
    """Seven cries in a nested copy of Donate-a-Cry."""
    folder = tmp_path / "downloads" / "corpus-master" / "Donateacry_Corpus_Cleaned"
    for index, label in enumerate(["hungry"] * 3 + ["tired"] * 2 + ["Burping", "belly_pain"]):
        path = folder / label / f"{APP}-{1_430_000_000 + index}-1.0-m-04-hu.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(0.5 + 0.1 * index, 8_000, index), 8_000)
    return tmp_path / "downloads"


def command(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_records_are_those_of_the_contract_and_train(cries: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    directory = prepare_dataset("donate_a_cry", cries, data_dir)
    assert directory == data_dir / "donate_a_cry" / "1.0.0"
    builder = tfds.builder_from_directory(directory)
    assert builder.info.features["label"].names == list(builder_class("donate_a_cry").FACTS.classes)
    assert builder.info.redistribution_info.license.startswith("ODbL")
    records = {record["id"].decode(): record for record in builder.as_data_source("train")}
    assert len(records) == 7
    record = records[f"tired/{APP}-1430000003-1.0-m-04-hu"]
    assert record.keys() == {"audio", "scale", "id", "label", "group", "fold", "source"}
    assert record["audio"].dtype == np.int16
    assert record["audio"].shape == (round(0.8 * 16_000),)
    assert record["label"] == 4
    assert record["group"].decode() == APP.lower()
    assert record["source"].decode().startswith("corpus-master/Donateacry_Corpus_Cleaned/tired/")
    assert (directory / "durations.png").read_bytes()[:4] == b"\x89PNG"
    report = report_of(directory)
    assert report["verdict"].startswith("DIFFERS: 457 clips expected")

    data = DataConfig(
        name="donate_a_cry",
        data_dir=str(data_dir),
        max_seconds=1.0,
        bucket_seconds=(0.5, 1.0),
        batch_seconds=8.0,
    )
    corpus = open_training_corpus(data, seed=0)
    assert corpus.plan.clips == 7
    batch = next(corpus.batches(0, 1))
    assert batch["waveform"].shape in corpus.plan.shapes


def test_records_unpack_to_the_store_they_were_made_from(cries: Path, tmp_path: Path) -> None:
    prepare_dataset("donate_a_cry", cries, tmp_path / "data")
    first = open_prepared("donate_a_cry", tmp_path / "data")
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "data" / "donate_a_cry", moved / "donate_a_cry")
    second = open_prepared("donate_a_cry", moved)
    assert second.directory.parent == moved
    assert second.fingerprint == first.fingerprint
    for name in ("index.arrow", "report.json", "samples.int16"):
        assert (second.directory / name).read_bytes() == (first.directory / name).read_bytes()
    assert open_prepared("donate_a_cry", moved).fingerprint == first.fingerprint


def test_sound_beyond_full_scale_goes_through_the_records_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in").mkdir()
    for name, level in (("loud", 20_000.0), ("usual", 0.2)):
        sound = (level * noise(0.5) / 0.1).astype(np.float32)
        soundfile.write(tmp_path / "in" / f"{name}.wav", sound, 16_000, subtype="FLOAT")
    directory = prepare_folder(tmp_path / "in", "own", tmp_path / "data", classes=False)
    made = tfds.builder_from_directory(directory).as_data_source("train")
    scales = {record["id"].decode(): record["scale"] for record in made}
    first = open_prepared("own", tmp_path / "data")
    assert scales == {"loud.wav": first.scales[0], "usual.wav": 1}
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "data" / "own", moved / "own")
    second = open_prepared("own", moved)
    assert second.fingerprint == first.fingerprint
    for clip in (0, 1):
        expected = load_audio(tmp_path / "in" / first.ids[clip])
        step = first.scales[clip] / 32_768
        assert np.abs(expected).max() > 5_000 * (clip == 0)
        assert np.abs(second.waveform(clip) - expected).max() <= 0.503 * step
    assert not [record for record in caplog.records if "perhaps_cut_off" in record.getMessage()]


def test_records_without_a_scale_are_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As older versions wrote them, with sound beyond full scale cut off."""
    (tmp_path / "in").mkdir()
    square = np.tile(np.repeat([32_767, -32_768], 40), 50).astype(np.int16)
    soundfile.write(tmp_path / "in" / "a.wav", square, 16_000)

    def old_features(class_names: list[str]) -> tfds.features.FeaturesDict:
        kept = {k: v for k, v in records.features(class_names).items() if k != "scale"}
        return tfds.features.FeaturesDict(kept)

    monkeypatch.setattr(prepare, "features", old_features)
    monkeypatch.setattr(
        base,
        "record_of",
        lambda *of: {k: v for k, v in records.record_of(*of).items() if k != "scale"},
    )
    directory = prepare_folder(tmp_path / "in", "own", tmp_path / "data", classes=False)
    assert "scale" not in tfds.builder_from_directory(directory).info.features
    new = open_prepared("own", tmp_path / "data")
    shutil.copytree(directory.parent, tmp_path / "moved" / "own")
    old = tmp_path / "moved" / "own" / directory.name
    as_it_was(FlatStore.open(new.directory), old)
    store = open_prepared("own", tmp_path / "moved")
    assert store.fingerprint == new.fingerprint
    np.testing.assert_array_equal(store.waveform(0), square / np.float32(32_768))
    assert [r for r in caplog.records if f"store={store.directory} perhaps_cut" in r.getMessage()]


def test_damaged_records_are_named(cries: Path, tmp_path: Path) -> None:
    directory = prepare_dataset("donate_a_cry", cries, tmp_path / "data")
    shutil.rmtree(open_prepared("donate_a_cry", tmp_path / "data").directory)
    index = read_index(directory)
    digests = index.column("sha256").to_pylist()
    digests[2] = bytes(32)
    place = index.table.schema.get_field_index("sha256")
    table = index.table.set_column(place, "sha256", pa.array(digests, pa.binary(32)))
    write_index(directory, dataclasses.replace(index, table=table))
    damaged = index.column("id")[2].as_py()
    with pytest.raises(DataError, match=rf"clip '{damaged}' is damaged"):
        open_prepared("donate_a_cry", tmp_path / "data")
    assert not list((tmp_path / "data").glob("prepared-*"))


@pytest.mark.parametrize("form", ["zip", "tgz", "zip beside its tree"])
def test_archives_give_the_same_as_their_tree(cries: Path, tmp_path: Path, form: str) -> None:
    tree = prepare_dataset("donate_a_cry", cries, tmp_path / "of_tree")
    packed = tmp_path / "packed" / "deep" / "Deeper"
    packed.mkdir(parents=True)
    suffix = "gztar" if form == "tgz" else "zip"
    archive = shutil.make_archive(str(packed / "any"), suffix, cries)
    if form == "tgz":
        Path(archive).rename(packed / "ANY.TGZ")
    elif form == "zip":
        Path(archive).rename(packed / "ANY.ZIP")
    else:
        shutil.copytree(cries, packed / "other name")
    directory = prepare_dataset("donate_a_cry", tmp_path / "packed", tmp_path / "of_archive")
    ours, theirs = (read_index(found) for found in (directory, tree))
    assert sorted(ours.column("id").to_pylist()) == sorted(theirs.column("id").to_pylist())
    assert ours.column("sha256").equals(theirs.column("sha256"))
    report = report_of(directory)
    assert report["dropped"] == report["excluded"] == []
    assert len(report["copies"]) == (7 if form == "zip beside its tree" else 0)
    assert all("is a copy of" in drop["reason"] for drop in report["copies"])
    assert not (tmp_path / "of_archive" / "extracted" / "donate_a_cry").exists()


@pytest.mark.parametrize("kind", ["zip", "deflated.zip", "tar", "tar.gz", "tar.xz"])
@pytest.mark.parametrize("damage", ["cut short", "bits flipped", "not an archive"])
def test_a_damaged_archive_is_named(tmp_path: Path, kind: str, damage: str) -> None:
    source = tmp_path / "source" / "hungry"
    source.mkdir(parents=True)
    (source / "x.wav").write_bytes(np.random.default_rng(0).bytes(50_000))
    archive = tmp_path / "manual" / f"corpus.{kind}"
    archive.parent.mkdir()
    if kind.endswith("zip"):
        method = zipfile.ZIP_DEFLATED if "deflated" in kind else zipfile.ZIP_STORED
        with zipfile.ZipFile(archive, "w", method) as content:
            content.write(source / "x.wav", "hungry/x.wav")
    else:
        with tarfile.open(archive, f"w:{kind[4:]}") as content:
            content.add(source, "hungry")
    whole = bytearray(archive.read_bytes())
    if damage == "cut short":
        del whole[25_000:]
    elif damage == "not an archive":
        whole[:] = b"<html>sorry</html>" * 100
    else:
        for place in range(60 if kind == "tar" else 10_000, 40_000, 3):
            whole[place] ^= 0x55
    archive.write_bytes(whole)
    with pytest.raises(DataError, match=rf"corpus\.{kind}: cannot be extracted .* download it"):
        prepare_dataset("donate_a_cry", tmp_path / "manual", tmp_path / "data")
    assert not list((tmp_path / "data" / "extracted" / "donate_a_cry").iterdir())


def test_odd_names_and_double_ids_are_listed(cries: Path, tmp_path: Path) -> None:
    (hungry,) = cries.glob("*/*/hungry")
    first = sorted(hungry.iterdir())[0]
    shutil.copy(first, hungry / "0D1AD73E-odd.wav")
    other = cries / "again" / "hungry" / first.name
    other.parent.mkdir(parents=True)
    soundfile.write(other, noise(0.3), 8_000)
    (cries / "again" / "song.mp3").write_bytes(b"not part of it")
    report = report_of(prepare_dataset("donate_a_cry", cries, tmp_path / "data"))
    assert report["clips"] == 7
    reasons = {Path(drop["file"]).name: drop["reason"] for drop in report["dropped"]}
    assert "does not begin with an app id" in reasons["0D1AD73E-odd.wav"]
    assert "whose content differs" in reasons[first.name]
    assert report["ignored_audio"] == {"again": 1}


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGKILL, marks=pytest.mark.thorough), signal.SIGTERM]
)
def test_a_stopped_preparation_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    for index in range(40):
        soundfile.write(folder / f"{index:02d}.wav", noise(10.0, 48_000, index), 48_000)
    arguments = ["clips", "--from-folder", str(folder), "--data-dir", str(tmp_path / "data")]
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.prepare_data", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 100
    journals: list[Path] = []
    while not journals or journals[0].read_text().count("\n") < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
        journals = list((tmp_path / "data").glob(".*.resumable/journal.jsonl"))
    process.send_signal(number)
    assert process.wait() == (75 if number == signal.SIGTERM else -9)
    done = journals[0].read_text().count("\n")
    assert 3 <= done < 40
    finished = subprocess.run(
        [sys.executable, "-m", "tools.prepare_data", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"decoding={40 - done}" in finished.stderr
    assert main(["other", *arguments[1:-1], str(tmp_path / "undisturbed")]) == DONE
    resumed, undisturbed = (
        open_prepared(*place)
        for place in (("clips", tmp_path / "data"), ("other", tmp_path / "undisturbed"))
    )
    assert resumed.fingerprint == undisturbed.fingerprint
    assert not list((tmp_path / "data").glob(".*.resumable"))


def test_leftovers_of_a_killed_run_are_cleared_away(cries: Path, tmp_path: Path) -> None:
    leftover = tmp_path / "data" / "donate_a_cry" / "incomplete.ABC_1.0.0"
    leftover.mkdir(parents=True)
    (leftover / "report.json").write_text("{}")
    assert find_prepared("donate_a_cry", tmp_path / "data") is None
    prepare_dataset("donate_a_cry", cries, tmp_path / "data")
    assert not leftover.exists()


def test_table_with_folds(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / f"{name}.wav", noise(0.5, seed=ord(name)), 16_000)
    (tmp_path / "My clips.csv").write_text(
        "path,label,group,fold\na.wav,laugh,x,1\nb.wav,cry,y,2\nc.wav,,,\n"
    )
    where = ("--data-dir", tmp_path / "data")
    assert command("--from-table", tmp_path / "My clips.csv", *where) == DONE
    store = open_corpus(DataConfig(name="my_clips", data_dir=str(tmp_path / "data")))
    assert store.labels.tolist() == [1, 0, -1]
    assert store.groups == ["x", "y", ""]
    assert store.folds == ["1", "2", ""]
    assert store.class_names == ["cry", "laugh"]
    directory = find_prepared("my_clips", tmp_path / "data")
    assert directory is not None
    records = tfds.builder_from_directory(directory).as_data_source("train")
    labels = {r["id"].decode(): (int(r["label"]), r["fold"].decode()) for r in records}
    assert labels == {"a.wav": (1, "1"), "b.wav": (0, "2"), "c.wav": (-1, "")}


@pytest.mark.parametrize("classes", [True, False])
def test_folder_with_and_without_classes(tmp_path: Path, classes: bool) -> None:
    for name in ("laugh/deep/a.wav", "Cry/b.wav", "top.wav"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(0.5, seed=len(name)), 16_000)
    flags = ["--classes"] if classes else []
    where = ("--data-dir", tmp_path / "data")
    assert command("own", "--from-folder", tmp_path / "in", *where, *flags) == DONE
    store = open_prepared("own", tmp_path / "data")
    assert store.ids == ["Cry/b.wav", "laugh/deep/a.wav", "top.wav"]
    assert store.class_names == (["Cry", "laugh"] if classes else [])
    assert store.labels.tolist() == ([0, 1, -1] if classes else [-1, -1, -1])


def test_changed_files_are_not_passed_off_as_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", noise(0.5), 16_000)
    arguments = ("own", "--from-folder", tmp_path / "in", "--data-dir", tmp_path / "data")
    assert command(*arguments) == command(*arguments) == DONE
    soundfile.write(tmp_path / "in" / "b.wav", noise(0.6), 16_000)
    capsys.readouterr()
    assert command(*arguments) == BAD_DATA
    assert "give --overwrite" in capsys.readouterr().err
    assert len(open_prepared("own", tmp_path / "data").ids) == 1
    assert command(*arguments, "--overwrite") == DONE
    assert len(open_prepared("own", tmp_path / "data").ids) == 2


def test_a_wrong_folder_does_not_cost_what_was_prepared(
    cries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data-dir", str(tmp_path / "data")]
    assert main(["donate_a_cry", "--manual-dir", str(cries), *where]) == DONE
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("nothing")
    again = ["donate_a_cry", "--manual-dir", str(tmp_path / "empty"), *where, "--overwrite"]
    assert main(again) == BAD_DATA
    assert "none of its 1 files belongs to donate_a_cry" in capsys.readouterr().err
    assert len(open_prepared("donate_a_cry", tmp_path / "data").ids) == 7
    again[2] = str(cries)
    assert main(again) == DONE


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data-dir", str(tmp_path)]
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", noise(0.5), 16_000)
    folder = ["--from-folder", str(tmp_path / "in")]
    cases = {
        "choose one of asvp_esd, ": (["nothing"], WRONG_USAGE),
        "has human_voice/all, human_voice/mono": (["human_voice/x"], WRONG_USAGE),
        "donate_a_cry has none": (["donate_a_cry/x"], WRONG_USAGE),
        "not both": (["--from-table", "x", *folder], WRONG_USAGE),
        "goes with --from-folder": (["donate_a_cry", "--classes"], WRONG_USAGE),
        "--manual-dir is for": (["--manual-dir", "x", *folder], WRONG_USAGE),
        "give another NAME": (["donate-a-cry", *folder], WRONG_USAGE),
        "git clone https://github.com/gveres": (["donate_a_cry"], BAD_DATA),
        "none of its 1 files belongs to donate_a_cry": (
            ["donate_a_cry", "--manual-dir", str(tmp_path / "in")],
            BAD_DATA,
        ),
        "no such table": (["--from-table", str(tmp_path / "x.csv")], BAD_DATA),
        "no such folder": (["--from-folder", str(tmp_path / "x")], BAD_DATA),
    }
    for message, (arguments, code) in cases.items():
        assert main([*arguments, *where]) == code, message
        assert message in capsys.readouterr().err


def test_names_that_are_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"donate_a_cry: is not prepared in .*tools\.prepare_data"):
        open_corpus(DataConfig(name="donate_a_cry", data_dir=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"data\.name='elephants'.*donate_a_cry"):
        open_corpus(DataConfig(name="elephants", data_dir=str(tmp_path)))


def test_the_list_names_every_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == DONE
    listed = capsys.readouterr().out
    for name in dataset_names():
        assert name in listed


@pytest.mark.parametrize("name", dataset_names())
def test_facts_are_complete(name: str, tmp_path: Path) -> None:
    facts = builder_class(name).FACTS
    for field in ("title", "description", "homepage", "licence", "citation", "obtain"):
        assert len(getattr(facts, field)) > 2, field
    assert facts.expected.paper_clips
    assert len(set(facts.classes)) == len(facts.classes)
    builder = make_builder(name, tmp_path)
    assert builder.info.features["label"].names == list(builder.class_names)
    assert os.fspath(tmp_path) in str(builder.data_path)
