"""What an evaluation leaves on disk, fold by fold, so that a fold that dies is run again alone.

    OUT/settings.json             what decides the numbers (`identity.py`)
    OUT/folds/seed0-fold03.json   a finished fold: every test clip with label, prediction and scores
    OUT/folds/seed0-fold03.lock   the process that is at work on a fold, where several may be
    OUT/results.json              the whole evaluation (`report.py`)
    OUT/*.csv                     folds, answers and classes as tables (`csv_files.py`)

A file under its final name is complete. Scores can be computed anew from the folds alone. A fold
carries the sha256 of the run that it is of, so that folds of two runs are never mixed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.errors import ResultsError
from voc2vec_jax.evaluation.versions import versions
from voc2vec_jax.files import write_json
from voc2vec_jax.scores import Ints

FORMAT_VERSION = 2
RESULTS = "results.json"
COLUMNS = ("clip_ids", "groups", "labels", "predictions", "scores")


@dataclass(frozen=True, eq=False)
class FoldResult:
    """A model's answers on the test clips of one fold.

    Classes are those of the corpus and in its order, whatever order a protocol trains in, so that
    folds can be pooled.
    """

    fold: int
    seed: int
    classes: tuple[str, ...]
    clip_ids: tuple[str, ...]
    groups: tuple[str, ...]
    """Of each clip, what its fold keeps whole and intervals resample: its speaker, session or
    upload, or the first of those that copies join; '' for a clip on its own."""
    labels: Ints
    """[clips] index into the classes."""
    predictions: Ints
    """[clips] index into the classes."""
    scores: NDArray[np.floating]
    """[clips, classes] probabilities; a class that was not trained on has 0."""
    train_clips: int
    """Clips that parameters were fitted to; those that only selected do not count."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Plain values: epochs, the best of them, its selection score, seconds, …"""
    versions: Mapping[str, str] = field(default_factory=versions)
    """Of the packages that made it."""

    def __post_init__(self) -> None:
        clips, classes = len(self.clip_ids), len(self.classes)
        found = {
            "groups": np.shape(self.groups),
            "labels": np.shape(self.labels),
            "predictions": np.shape(self.predictions),
            "scores": np.shape(self.scores),
        }
        wanted = dict.fromkeys(found, (clips,)) | {"scores": (clips, classes)}
        for name, shape in found.items():
            if shape != wanted[name]:
                raise ValueError(f"{name}: shape {shape}, not {wanted[name]}")
        if not clips or len(set(self.clip_ids)) < clips:
            raise ValueError(f"clip_ids: {clips} clips, {len(set(self.clip_ids))} of them distinct")
        for name in ("labels", "predictions"):
            values = np.asarray(getattr(self, name))
            if not np.issubdtype(values.dtype, np.integer):
                raise ValueError(f"{name}: {values.dtype}, not integers")
            if values.min() < 0 or values.max() >= classes:
                raise ValueError(f"{name}: {values.min()} to {values.max()} for {classes} classes")
        if self.train_clips < 1:
            raise ValueError(f"train_clips: {self.train_clips}, below 1")
        if not np.all(np.isfinite(self.scores)) or np.min(self.scores) < 0:
            raise ValueError("scores: negative or not finite")
        if np.any(np.abs(np.sum(self.scores, axis=1) - 1) > 1e-3):
            raise ValueError("scores: do not sum to 1")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that was run of one model on one dataset under one protocol."""

    dataset: str
    model: str
    protocol: Protocol
    folds_asked: int
    """For each seed."""
    seeds: tuple[int, ...]
    results: tuple[FoldResult, ...]
    """By seed and fold; fewer than asked for where folds are still missing."""
    clips: int
    """Of the corpus, without those excluded."""
    excluded: tuple[Mapping[str, str], ...] = ()
    """`file` and `reason` of each clip that could not be read and was left out on request."""
    warnings: tuple[str, ...] = ()
    """What a reader has to know: see `division.Division`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What decides the numbers besides content, as in `settings.json`."""
    identity: Mapping[str, str] = field(default_factory=dict)
    """`run_sha256`, and the sha256 of each thing that it is made of; see `identity.Identity`."""

    def __post_init__(self) -> None:
        for result in self.results:
            if result.classes != self.results[0].classes:
                raise ResultsError(
                    f"fold {result.fold} of seed {result.seed} has classes {list(result.classes)},"
                    f" not {list(self.results[0].classes)}; run it again"
                )
        for seed in self.seeds:
            tested = [clip for r in self.of_seed(seed) for clip in r.clip_ids]
            if len(set(tested)) < len(tested):
                raise ResultsError(f"seed {seed}: a clip is tested in two folds")

    @property
    def folds_run(self) -> int:
        """Over all seeds."""
        return len(self.results)

    @property
    def complete(self) -> bool:
        """Whether every fold of every seed is there."""
        return self.folds_run == self.folds_asked * len(self.seeds)

    def of_seed(self, seed: int) -> list[FoldResult]:
        """The finished folds of a seed."""
        return [result for result in self.results if result.seed == seed]


def fold_name(seed: int, fold: int) -> str:
    """What files and folders of a fold are called."""
    return f"seed{seed}-fold{fold:02d}"


def fold_path(out: Path, seed: int, fold: int) -> Path:
    """Where a fold is kept."""
    return out / "folds" / f"{fold_name(seed, fold)}.json"


def save_fold(out: Path, result: FoldResult, run_sha256: str) -> Path:
    """Writes a finished fold of a run (`Identity.run_sha256`) and returns its path."""
    path = fold_path(out, result.seed, result.fold)
    content = {
        "format_version": FORMAT_VERSION,
        "run_sha256": run_sha256,
        "versions": dict(result.versions),
        "fold": result.fold,
        "seed": result.seed,
        "classes": list(result.classes),
        "train_clips": result.train_clips,
        "facts": dict(result.facts),
        **{name: np.asarray(getattr(result, name)).tolist() for name in COLUMNS},
    }
    write_json(path, content, indent=None, by_many=True)
    return path


def load_fold(path: Path, run_sha256: str) -> FoldResult:
    """Reads a finished fold.

    Args:
        path: Of the file.
        run_sha256: Of the run that it has to be of.

    Raises:
        ResultsError: It is damaged, of another run, or another version wrote it.
    """
    fix = "delete it, and the fold is run again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise ResultsError(
                f"{path}: format version {version}, this code reads {FORMAT_VERSION}; {fix}"
            )
        if content["run_sha256"] != run_sha256:
            raise ResultsError(
                f"{path}: is a fold of another run (run_sha256 {content['run_sha256'][:12]}…, not"
                f" {run_sha256[:12]}…), with another model, corpus or settings; {fix}"
            )
        return FoldResult(
            fold=content["fold"],
            seed=content["seed"],
            classes=tuple(content["classes"]),
            clip_ids=tuple(content["clip_ids"]),
            groups=tuple(content["groups"]),
            labels=np.array(content["labels"]),
            predictions=np.array(content["predictions"]),
            scores=np.array(content["scores"], np.float64),
            train_clips=content["train_clips"],
            facts=content["facts"],
            versions=content["versions"],
        )
    except ResultsError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{path}: is damaged ({error}); {fix}") from error


def finished_or_run(
    out: Path,
    seed: int,
    fold: int,
    clip_ids: Sequence[str],
    run: Callable[[], FoldResult],
    run_sha256: str,
) -> FoldResult:
    """The result of a fold: read if it is finished, else run and written.

    Args:
        out: Folder of the evaluation.
        seed: Seed of the fold.
        fold: Its number.
        clip_ids: The test clips that it has to have, in order.
        run: Computes it.
        run_sha256: Of the evaluation.

    Raises:
        ResultsError: The finished one is damaged, of another run, or of other clips.
    """
    found = finished(out, seed, fold, clip_ids, run_sha256)
    if found is not None:
        return found
    result = run()
    save_fold(out, result, run_sha256)
    return _checked(fold_path(out, seed, fold), result, seed, fold, clip_ids)


def finished(
    out: Path, seed: int, fold: int, clip_ids: Sequence[str], run_sha256: str
) -> FoldResult | None:
    """The result of a fold; None if it is not there. See `finished_or_run`."""
    path = fold_path(out, seed, fold)
    if not path.exists():
        return None
    return _checked(path, load_fold(path, run_sha256), seed, fold, clip_ids)


def _checked(
    path: Path, result: FoldResult, seed: int, fold: int, clip_ids: Sequence[str]
) -> FoldResult:
    if (result.seed, result.fold, result.clip_ids) != (seed, fold, tuple(clip_ids)):
        raise ResultsError(
            f"{path}: is not of the test clips of fold {fold}, seed {seed}; give another --out, or"
            " delete it, and the fold is run again"
        )
    return result
