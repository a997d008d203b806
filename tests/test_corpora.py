"""Labels and groups read off file names; a name that says neither is an error."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipelines.corpora.named_files import (
    EMOGATOR_CATEGORIES,
    donateacry_clip,
    emogator_clip,
    write_table,
)
from data_pipelines.corpora.sources import store_from_table
from voc2vec_jax.errors import DataError

UUID = "0c8f14a9-6999-485b-97a2-913c1cbf099c"


def test_emogator_names_say_category_and_contributor() -> None:
    assert len(set(EMOGATOR_CATEGORIES)) == 30
    assert emogator_clip(Path("mp3/000123-01-3.mp3")) == ("adoration", "000123")
    assert emogator_clip(Path("000001-30-1.mp3")) == ("triumph", "000001")


@pytest.mark.parametrize(
    "name", ["000123-31-1.mp3", "000123-00-1.mp3", "123-01-1.mp3", "000123-01-4.mp3", "laugh.mp3"]
)
def test_other_names_are_not_taken_for_emogator(name: str) -> None:
    with pytest.raises(DataError, match="as EmoGator names its files"):
        emogator_clip(Path(name))


def test_donateacry_names_say_reason_and_uploader() -> None:
    name = f"hungry/{UUID}-1430548160-1.7-m-04-hu.wav"
    assert donateacry_clip(Path(name)) == ("hungry", UUID)
    upper = f"tired/{UUID.upper()}-1430548160-1.0-f-26-ti.wav"
    assert donateacry_clip(Path(upper)) == ("tired", UUID)


@pytest.mark.parametrize(
    "name",
    [
        f"laughing/{UUID}-1430548160-1.7-m-04-hu.wav",
        f"{UUID}-1430548160-1.7-m-04-hu.wav",
        f"hungry/{UUID[:-1]}-1430548160-1.7-m-04-hu.wav",
        "hungry/cry.wav",
    ],
)
def test_other_names_are_not_taken_for_donateacry(name: str) -> None:
    with pytest.raises(DataError, match="as in the cleaned Donate-a-Cry corpus"):
        donateacry_clip(Path(name))


def test_a_written_table_opens_as_a_corpus(tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "mp3"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4_000)
    for name in ("000002-02-1", "000001-02-1", "000001-01-1"):
        soundfile.write(folder / f"{name}.wav", noise, 16_000)
    table = tmp_path / "tables" / "clips.csv"
    assert write_table("emogator", tmp_path / "corpus", table) == 3
    with table.open(newline="", encoding="utf-8") as file:
        assert [row["group"] for row in csv.DictReader(file)] == ["000001", "000001", "000002"]
    store = store_from_table(table, tmp_path / "cache")
    assert store.class_names == ["adoration", "amusement"]
    assert store.labels.tolist() == [0, 1, 1]
    assert store.groups == ["000001", "000001", "000002"]


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no audio"):
        write_table("emogator", tmp_path, tmp_path / "clips.csv")
