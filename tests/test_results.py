"""Results on disk: whole, checked, and resumable by the fold."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voc2vec_jax.errors import ConfigError, ResultsError
from voc2vec_jax.evaluation.identity import Identity, claim, refuse_other_figures
from voc2vec_jax.evaluation.results import (
    Evaluation,
    FoldResult,
    finished_or_run,
    fold_path,
    load_fold,
    save_fold,
)

CLASSES = ("cough", "laugh", "sigh")
RUN = "5a" * 32


def make_fold(fold: int = 3, seed: int = 0, clips: int = 5, **changes: Any) -> FoldResult:
    rng = np.random.default_rng([fold, seed])
    scores = rng.dirichlet(np.ones(3), clips)
    fields = {
        "fold": fold,
        "seed": seed,
        "classes": CLASSES,
        "clip_ids": tuple(f"f{fold}/clip {clip}.wav" for clip in range(clips)),
        "groups": tuple(f"s{clip // 2}" for clip in range(clips)),
        "labels": rng.integers(0, 3, clips),
        "predictions": scores.argmax(axis=1),
        "scores": scores,
        "train_clips": 4 * clips,
        "facts": {"epochs": 7, "best_epoch": 2, "selection_uar": 0.25, "seconds": 1.5},
    }
    return FoldResult(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_fold_comes_back_as_it_was(tmp_path: Path) -> None:
    fold = make_fold()
    path = save_fold(tmp_path, fold, RUN)
    assert path == tmp_path / "folds" / "seed0-fold03.json"
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no unfinished file is left
    found = load_fold(path, RUN)
    for field in dataclasses.fields(FoldResult):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(fold, field.name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": ("a",)}, r"groups: shape \(1,\), not \(5,\)"),
        ({"scores": np.ones((5, 2)) / 2}, r"scores: shape \(5, 2\), not \(5, 3\)"),
        ({"labels": np.array([0, 1, 2, 3, 0])}, "labels: 0 to 3 for 3 classes"),
        ({"predictions": np.array([0, 1, 2, -1, 0])}, "predictions: -1 to 2 for 3 classes"),
        ({"predictions": np.zeros(5)}, "predictions: float64, not integers"),
        ({"scores": np.full((5, 3), np.nan)}, "scores: negative or not finite"),
        ({"scores": np.ones((5, 3))}, "scores: do not sum to 1"),
        ({"train_clips": 0}, "train_clips: 0, below 1"),
        ({"clip_ids": ("a", "b", "c", "d", "a")}, "5 clips, 4 of them distinct"),
    ],
)
def test_a_fold_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_fold(**changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda text: text.replace('"labels"', '"lables"'), "is damaged .*labels"),
        (lambda text: text.replace('"format_version": 2', '"format_version": 0'), "version 0"),
        (lambda text: text.replace('"sigh"', '"sigh", "yawn"'), r"scores: shape \(5, 3\)"),
    ],
)
def test_a_damaged_fold_is_named(tmp_path: Path, damage: Any, message: str) -> None:
    path = save_fold(tmp_path, make_fold(), RUN)
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ResultsError, match=message) as error:
        load_fold(path, RUN)
    assert str(error.value).startswith(f"{path}: ")
    assert "delete it, and the fold is run again" in str(error.value)


def test_only_missing_folds_are_run(tmp_path: Path) -> None:
    ran = []

    def run(number: int) -> FoldResult:
        ran.append(number)
        return make_fold(number)

    def all_folds() -> list[FoldResult]:
        return [
            finished_or_run(tmp_path, 0, n, make_fold(n).clip_ids, lambda n=n: run(n), RUN)
            for n in range(3)
        ]

    first = all_folds()
    fold_path(tmp_path, 0, 1).unlink()
    again = all_folds()
    assert ran == [0, 1, 2, 1]
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.scores, two.scores)


def test_a_finished_fold_of_other_clips_is_not_taken(tmp_path: Path) -> None:
    save_fold(tmp_path, make_fold(), RUN)
    with pytest.raises(ResultsError, match="not of the test clips of fold 3, seed 0"):
        finished_or_run(tmp_path, 0, 3, ["another"], make_fold, RUN)


def identity(model: str = "a1" * 32, place: str = "runs/mine", **settings: Any) -> Identity:
    content = {"model_sha256": model, "corpus_fingerprint": "c0" * 32}
    settings = {"rates": (1, 2), "epochs": 50, **settings}
    return Identity(content, settings, {"model": place, "dataset": "clips"})


def test_a_fold_of_another_run_is_not_taken(tmp_path: Path) -> None:
    path = save_fold(tmp_path, make_fold(), RUN)
    with pytest.raises(ResultsError, match="is a fold of another run") as error:
        finished_or_run(tmp_path, 0, 3, make_fold().clip_ids, make_fold, "b2" * 32)
    assert str(error.value).startswith(f"{path}: ")
    assert "5a5a5a5a5a5a…, not b2b2b2b2b2b2…" in str(error.value)
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["run_sha256"]  # as an older version left it
    path.write_text(json.dumps({**content, "format_version": 1}))
    with pytest.raises(ResultsError, match="format version 1, this code reads 2; delete it"):
        load_fold(path, RUN)


def test_content_and_settings_decide_what_a_run_is_and_names_do_not() -> None:
    one = identity()
    assert identity(place="elsewhere").run_sha256 == one.run_sha256
    assert identity(model="b2" * 32).run_sha256 != one.run_sha256
    assert identity(epochs=5).run_sha256 != one.run_sha256


def test_a_folder_belongs_to_one_evaluation(tmp_path: Path) -> None:
    out = tmp_path / "out"
    claim(out, identity())
    claim(out, identity(place="moved/mine"))
    with pytest.raises(ConfigError, match="epochs: 50 there, 5 asked for") as error:
        claim(out, identity(epochs=5))
    assert "rates" not in str(error.value)
    assert "configuration" not in str(error.value)
    with pytest.raises(ConfigError, match="warmup: None there, 500 asked for"):
        claim(out, identity(warmup=500))
    changed = (
        "the model's parameters or configuration: a1a1a1a1a1a1… there, b2b2b2b2b2b2… asked for"
    )
    with pytest.raises(ConfigError) as error:
        claim(out, identity(model="b2" * 32))
    assert f"({changed} (both from runs/mine))" in str(error.value)
    with pytest.raises(ConfigError) as error:
        claim(out, identity(model="b2" * 32, place="runs/other"))
    assert f"({changed} (from runs/mine there, runs/other now))" in str(error.value)
    (out / "settings.json").write_text('{"model": "runs/mine", "epochs": 50}')
    with pytest.raises(ResultsError, match=r"settings\.json: was written by another version"):
        claim(out, identity())
    (out / "settings.json").write_text("{")
    with pytest.raises(ResultsError, match=r"settings\.json: is damaged"):
        claim(out, identity())


@pytest.mark.parametrize("left", ["folds/seed0-fold03.json", "export.json", "results.json"])
def test_remains_of_nobody_knows_what_are_not_claimed(tmp_path: Path, left: str) -> None:
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).write_text("{}")
    with pytest.raises(ConfigError, match=f"has {left} without settings.json"):
        claim(tmp_path, identity())
    assert not (tmp_path / "settings.json").exists()


def test_figures_of_other_content_are_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "probe.json"
    refuse_other_figures(path, identity())
    path.write_text(json.dumps({"identity": identity().to_dict(), "rows": []}))
    refuse_other_figures(path, identity(place="moved"))
    with pytest.raises(ConfigError, match=r"holds figures of another run \(the model's param"):
        refuse_other_figures(path, identity(model="b2" * 32))
    for text in ("{}", "[1]", "no figures"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="does not say what it is of; delete it"):
            refuse_other_figures(path, identity())


def make_evaluation(results: list[FoldResult], **changes: Any) -> Evaluation:
    fields = {
        "dataset": "sounds",
        "model": "tiny",
        "protocol": "grouped",
        "folds_asked": 3,
        "seeds": (0,),
        "results": tuple(results),
        "clips": 15,
    }
    return Evaluation(**{**fields, **changes})  # type: ignore[arg-type]


def test_an_evaluation_counts_its_folds() -> None:
    whole = make_evaluation([make_fold(n) for n in range(3)])
    assert (whole.folds_run, whole.complete) == (3, True)
    part = make_evaluation([make_fold(n) for n in range(3)], seeds=(0, 1))
    assert (part.folds_run, part.complete) == (3, False)
    assert part.of_seed(1) == []


def test_folds_of_one_evaluation_have_one_set_of_classes_and_no_clip_twice() -> None:
    with pytest.raises(ResultsError, match="fold 1 of seed 0 has classes"):
        make_evaluation([make_fold(0), make_fold(1, classes=("a", "b", "c"))])
    with pytest.raises(ResultsError, match="seed 0: a clip is tested in two folds"):
        make_evaluation([make_fold(0), make_fold(1, clip_ids=make_fold(0).clip_ids)])


def test_results_are_plain_json(tmp_path: Path) -> None:
    content = json.loads(save_fold(tmp_path, make_fold(), RUN).read_text(encoding="utf-8"))
    assert content["classes"] == list(CLASSES)
    assert content["facts"]["best_epoch"] == 2
    assert isinstance(content["labels"][0], int)
    assert content["run_sha256"] == RUN
    assert content["versions"]["python"].startswith("3.")
