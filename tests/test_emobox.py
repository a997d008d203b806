"""EmoBox's lists become the folds of a table."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.corpora.emobox import write_emobox_table
from data_pipelines.corpora.named_files import main
from voc2vec_jax.errors import DataError


def clip(key: str, emotion: str, **more: Any) -> dict[str, Any]:
    """An entry as EmoBox has it (data/cafe/cafe.jsonl)."""
    return {
        "key": f"cafe-{key}",
        "dataset": "cafe",
        "wav": f"downloads/cafe/CaFE_48k/{key}.wav",
        "type": "raw",
        "sample_rate": 48000,
        "num_frame": 248653.0,
        "task": "category",
        "length": 5.18,
        "emo": emotion,
        "channel": 1,
        **more,
    }


CLIPS = [clip("a", "p"), clip("b", "j"), clip("c", "P"), clip("d", "j")]


def dataset(folder: Path, folds: list[dict[str, list[dict[str, Any]]]]) -> Path:
    place = folder / "EmoBox" / "data" / "cafe"
    for number, lists in enumerate(folds, start=1):
        (place / f"fold_{number}").mkdir(parents=True)
        for name, entries in lists.items():
            text = "".join(json.dumps(entry) + "\n" for entry in entries)
            (place / f"fold_{number}" / f"cafe_{name}_fold_{number}.jsonl").write_text(text)
    (place / "label_map.json").write_text('{"p": "Fear", "j": "Happy"}')
    return place


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_one_fold_gives_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = dataset(tmp_path, [{"train": CLIPS[:2], "valid": CLIPS[2:3], "test": CLIPS[3:]}])
    table = tmp_path / "clips.csv"
    monkeypatch.setattr("sys.argv", ["corpora", "emobox", str(place), str(table)])
    main()
    assert f"clips=4 table={table}" in capsys.readouterr().out
    found = rows(table)
    assert found[0] == {
        "path": str(tmp_path / "EmoBox/downloads/cafe/CaFE_48k/a.wav"),
        "id": "cafe-a",
        "label": "Fear",
        "fold": "train",
    }
    assert [row["label"] for row in found] == ["Fear", "Happy", "Fear", "Happy"]
    assert [row["fold"] for row in found] == ["train", "train", "validation", "test"]


def test_of_several_folds_each_clip_has_the_one_that_tests_it(tmp_path: Path) -> None:
    folds = [{"train": [c for c in CLIPS if c is not t], "test": [t]} for t in CLIPS]
    table = tmp_path / "clips.csv"
    assert write_emobox_table(dataset(tmp_path, folds), table) == 4
    assert {row["id"]: row["fold"] for row in rows(table)} == {
        "cafe-a": "1",
        "cafe-b": "2",
        "cafe-c": "3",
        "cafe-d": "4",
    }


def test_parts_of_a_recording_have_their_seconds(tmp_path: Path) -> None:
    part = clip("e", "p", start_time=1.5, end_time=2.25)
    place = dataset(tmp_path, [{"train": CLIPS, "test": [part]}])
    write_emobox_table(place, tmp_path / "clips.csv")
    assert [(row["start"], row["end"]) for row in rows(tmp_path / "clips.csv")] == [
        *[("", "")] * 4,
        ("1.5", "2.25"),
    ]


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([], "has no fold_1; name EmoBox/data/DATASET"),
        ([{"train": CLIPS}], "cafe_test_fold_1.jsonl: cannot be read"),
        ([{"train": CLIPS, "test": CLIPS[:1]}], "clip 'cafe-a' is in 'test' and in 'train'"),
        ([{"train": CLIPS, "test": [CLIPS[0]] * 2}], "names a clip twice"),
        ([{"train": CLIPS[2:], "test": CLIPS[:2]}, {"train": CLIPS[:3], "test": CLIPS[3:]}],
         "1 of 4 clips are in no test list, such as 'cafe-c'"),
        ([{"train": CLIPS[2:], "test": CLIPS[:2]}, {"train": CLIPS[2:], "test": CLIPS[1:3]}],
         "clip 'cafe-b' is in '2' and in '1'"),
        ([{"train": CLIPS[2:3], "test": CLIPS[:2]}, {"train": CLIPS[:2], "test": CLIPS[2:]}],
         "fold_1: its lists do not have each of the 4 clips once"),
        ([{"train": CLIPS[:3], "test": [clip("d", "x")]}], "label_map.json: does not fit"),
    ],
)  # fmt: skip
def test_what_is_no_division_is_refused(
    folds: list[dict[str, list[dict[str, Any]]]], message: str, tmp_path: Path
) -> None:
    place = dataset(tmp_path, folds) if folds else tmp_path
    with pytest.raises(DataError, match=message):
        write_emobox_table(place, tmp_path / "clips.csv")
