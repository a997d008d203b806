"""`results.json`: everything that is to be known of one evaluation; and tables beside it.

The schema is described in docs/evaluation.md.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voc2vec_jax.errors import ResultsError
from voc2vec_jax.evaluation.csv_files import (
    PER_CLASS,
    PREDICTIONS,
    write_per_class,
    write_predictions,
)
from voc2vec_jax.evaluation.folds import SELECTION_ON_TEST
from voc2vec_jax.evaluation.intervals import LEVEL, Spread, intervals, over_folds
from voc2vec_jax.evaluation.results import RESULTS, Evaluation, FoldResult, fold_path, load_fold
from voc2vec_jax.evaluation.significance import fold_scores
from voc2vec_jax.evaluation.versions import versions
from voc2vec_jax.files import write_json
from voc2vec_jax.scores import ClassScores, Ints, Scores, confusion, per_class, scores_of

FORMAT_VERSION = 2


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
    per_class: list[ClassScores]
    """Of each class, pooled."""

    @property
    def recalls(self) -> list[float | None]:
        """Of each class; None where it has no clip."""
        return [of_class.recall for of_class in self.per_class]


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
        per_class=per_class(counts),
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
    return _report(evaluation, summarise(evaluation))


def _report(evaluation: Evaluation, summary: Summary) -> dict[str, Any]:
    scores = fold_scores(evaluation)
    classes = evaluation.results[0].classes
    paper = evaluation.protocol == "paper"
    return {
        "format_version": FORMAT_VERSION,
        "dataset": evaluation.dataset,
        "model": evaluation.model,
        "protocol": evaluation.protocol,
        "identity": dict(evaluation.identity),
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
            {"class": name, **asdict(of_class)}
            for name, of_class in zip(classes, summary.per_class, strict=True)
        ],
        "confusion": {"classes": list(classes), "counts": summary.confusion.tolist()},
        "settings": dict(evaluation.settings),
        "versions": versions(),
    }


def write_report(out: Path, evaluation: Evaluation) -> None:
    """Writes `results.json`, `predictions.csv` and `per_class.csv` of an evaluation."""
    summary, results = summarise(evaluation), evaluation.results
    write_json(out / RESULTS, _report(evaluation, summary), by_many=True)
    write_predictions(out / PREDICTIONS, results)
    write_per_class(out / PER_CLASS, results[0].classes, summary.per_class)


def load_evaluation(out: Path) -> Evaluation:
    """An evaluation from its folder: what `results.json` says of it, and its finished folds.

    Raises:
        ResultsError: A file is damaged, another version wrote it, a fold is missing that
            `results.json` counts, or is of another run than `results.json`.
    """
    path = out / RESULTS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] != FORMAT_VERSION:
            raise ResultsError(
                f"{path}: format version {content['format_version']}, this code reads"
                f" {FORMAT_VERSION}; run the evaluation again"
            )
        identity = dict(content["identity"])
        return Evaluation(
            dataset=content["dataset"],
            model=content["model"],
            protocol=content["protocol"],
            folds_asked=content["folds_asked"] // len(content["seeds"]),
            seeds=tuple(content["seeds"]),
            results=tuple(
                load_fold(fold_path(out, entry["seed"], entry["fold"]), identity["run_sha256"])
                for entry in content["per_fold"]
            ),
            clips=content["clips"],
            excluded=tuple(content["excluded"]),
            warnings=tuple(content["warnings"]),
            settings=content["settings"],
            identity=identity,
        )
    except ResultsError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(
            f"{path}: is damaged ({error}); run the evaluation again, finished folds are kept"
        ) from error


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """None in place of numbers that JSON lacks."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
