"""`results.json`: everything that is to be known of one evaluation.

The schema is described in docs/evaluation.md.
"""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from voc2vec_jax.errors import ResultsError
from voc2vec_jax.evaluation.folds import SELECTION_ON_TEST
from voc2vec_jax.evaluation.intervals import LEVEL, Spread, intervals, over_folds
from voc2vec_jax.evaluation.results import RESULTS, Evaluation, FoldResult, fold_path, load_fold
from voc2vec_jax.evaluation.significance import fold_scores
from voc2vec_jax.files import write_json
from voc2vec_jax.scores import Ints, Scores, confusion, recalls, scores_of

FORMAT_VERSION = 1
PACKAGES = ("voc2vec-jax", "jax", "flax", "numpy", "scikit-learn", "librosa", "opensmile")


@dataclass(frozen=True, eq=False)
class Summary:
    """The scores of an evaluation."""

    folds: dict[str, Spread]
    """Over the folds of all seeds, by measure."""
    pooled: Scores
    """Of all predictions together."""
    intervals: dict[str, tuple[float, float]]
    """Of the pooled scores, by measure."""
    confusion: Ints
    """[classes, classes] over all seeds; rows are labels."""
    recalls: list[float | None]
    """Of each class, pooled."""


def summarise(evaluation: Evaluation) -> Summary:
    """Computes the scores from the predictions.

    Raises:
        ValueError: No fold was run.
    """
    if not evaluation.results:
        raise ValueError(f"{evaluation.model} on {evaluation.dataset}: no fold was run")
    labels, predictions = (
        np.concatenate([getattr(result, name) for result in evaluation.results])
        for name in ("labels", "predictions")
    )
    classes = len(evaluation.results[0].classes)
    counts = confusion(labels, predictions, classes)
    return Summary(
        folds=over_folds(list(fold_scores(evaluation).values()), evaluation.protocol),
        pooled=scores_of(counts, evaluation.protocol),
        intervals=intervals(
            labels, predictions, _owners(evaluation.results), classes, evaluation.protocol
        ),
        confusion=counts,
        recalls=recalls(counts),
    )


def _owners(results: Sequence[FoldResult]) -> list[str]:
    """Group of each prediction; a clip without one is its own, in whichever seed it is tested."""
    return [
        f"group {group}" if group else f"clip {clip}"
        for result in results
        for group, clip in zip(result.groups, result.clip_ids, strict=True)
    ]


def report(evaluation: Evaluation) -> dict[str, Any]:
    """The content of `results.json`, as plain values."""
    summary = summarise(evaluation)
    scores = fold_scores(evaluation)
    classes = evaluation.results[0].classes
    paper = evaluation.protocol == "paper"
    return {
        "format_version": FORMAT_VERSION,
        "dataset": evaluation.dataset,
        "model": evaluation.model,
        "protocol": evaluation.protocol,
        "selection": SELECTION_ON_TEST if paper else "selection on a validation part",
        "warnings": list(evaluation.warnings),
        "clips": evaluation.clips,
        "excluded_clips": len(evaluation.excluded),
        "excluded": [dict(clip) for clip in evaluation.excluded],
        "seeds": list(evaluation.seeds),
        "folds_asked": evaluation.folds_asked * len(evaluation.seeds),
        "folds_run": evaluation.folds_run,
        "scores": {
            "over_folds": {
                "std": "population" if paper else "sample",
                **{name: finite(asdict(spread)) for name, spread in summary.folds.items()},
            },
            "pooled": {
                **asdict(summary.pooled),
                "interval_level": LEVEL,
                "intervals": {name: list(ends) for name, ends in summary.intervals.items()},
            },
        },
        "per_fold": [
            {
                "seed": result.seed,
                "fold": result.fold,
                "clips": len(result.clip_ids),
                **asdict(scores[result.seed, result.fold]),
                "facts": dict(result.facts),
            }
            for result in evaluation.results
        ],
        "per_class": [
            {"class": name, "tested": int(row.sum()), "recall": recall}
            for name, row, recall in zip(classes, summary.confusion, summary.recalls, strict=True)
        ],
        "confusion": {"classes": list(classes), "counts": summary.confusion.tolist()},
        "settings": dict(evaluation.settings),
        "versions": versions(),
    }


def write_report(out: Path, evaluation: Evaluation) -> None:
    """Writes `results.json` of an evaluation."""
    write_json(out / RESULTS, report(evaluation), by_many=True)


def load_evaluation(out: Path) -> Evaluation:
    """An evaluation from its folder: what `results.json` says of it, and its finished folds.

    Raises:
        ResultsError: A file is damaged, another version wrote it, or a fold is missing that
            `results.json` counts.
    """
    path = out / RESULTS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] != FORMAT_VERSION:
            raise ResultsError(
                f"{path}: format version {content['format_version']}, this code reads"
                f" {FORMAT_VERSION}; run the evaluation again"
            )
        return Evaluation(
            dataset=content["dataset"],
            model=content["model"],
            protocol=content["protocol"],
            folds_asked=content["folds_asked"] // len(content["seeds"]),
            seeds=tuple(content["seeds"]),
            results=tuple(
                load_fold(fold_path(out, entry["seed"], entry["fold"]))
                for entry in content["per_fold"]
            ),
            clips=content["clips"],
            excluded=tuple(content["excluded"]),
            warnings=tuple(content["warnings"]),
            settings=content["settings"],
        )
    except ResultsError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(
            f"{path}: is damaged ({error}); run the evaluation again, finished folds are kept"
        ) from error


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed and may decide a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """None in place of numbers that JSON lacks."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
