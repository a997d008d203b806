"""One model or baseline on one corpus: every fold of every seed, resumable, written as it comes."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.evaluation.division import Division, divide
from voc2vec_jax.evaluation.folds import Fold
from voc2vec_jax.evaluation.independent_units import Copies, Units, units_of
from voc2vec_jax.evaluation.report import write_report
from voc2vec_jax.evaluation.results import Evaluation, FoldResult, claim, finished_or_run
from voc2vec_jax.scores import Ints


@dataclass(frozen=True, eq=False)
class LabelledCorpus:
    """Clips as evaluation needs them, wherever they come from."""

    name: str
    ids: Sequence[str]
    labels: Ints
    """[clips] index into the class names."""
    groups: Sequence[str]
    """Speaker, session or upload of each clip; '' where unknown."""
    class_names: Sequence[str]
    fingerprint: str
    """Equal if, and only if, clips and order are."""
    waveforms: Callable[[], Iterable[NDArray[np.float32]]]
    """Gives float32 [S], 16 kHz, of each clip."""
    folds: Sequence[str] = ()
    """The part of a split that each clip comes with, such as `test`; '' or () where none."""
    copies: Copies = None
    """Sets of clips, by their places, that are the same recording; None where nobody looked."""
    clip_sha256: Sequence[str] = ()
    """Of the samples of each clip; () where there is no sound to compare."""
    excluded: tuple[Mapping[str, str], ...] = ()
    """`file` and `reason` of each clip that could not be read and is left out on request."""

    @cached_property
    def units(self) -> Units:
        """Groups, joined where they share copies."""
        return units_of(self.groups, self.copies)

    def divided(self, protocol: Protocol, folds: int | None = None, seed: int = 0) -> Division:
        """The folds of a protocol; see `division.divide` for what it raises."""
        marked = [clip for clip, fold in zip(self.ids, self.folds, strict=False) if not fold]
        if protocol == "given" and 0 < len(marked) < len(self.ids):
            raise ConfigError(
                f"{self.name}: {len(marked)} of {len(self.ids)} clips have no fold, such as"
                f" {marked[0]!r}; protocol given wants one for each"
            )
        return divide(
            protocol,
            self.labels,
            self.groups,
            self.class_names,
            folds=folds,
            seed=seed,
            given=self.folds,
            copies=self.copies,
        )


Row = Callable[[int, Fold, int], FoldResult]
"""A line of the table: the answers on the test clips of a fold, given its number, the fold and the
seed."""


def cross_validate(
    row: Row,
    model: str,
    corpus: LabelledCorpus,
    protocol: Protocol,
    out: Path,
    *,
    folds: int | None = None,
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Any],
    finished: Callable[[FoldResult], None] = lambda result: None,
) -> Evaluation:
    """Runs what is missing in a folder and writes `results.json` after every fold.

    Args:
        row: Makes the results of a fold.
        model: Its name in tables.
        corpus: What it is evaluated on.
        protocol: Of the folds. A seed decides the grouped ones only.
        out: Folder of this evaluation.
        folds: For each seed; None: 10, or as many as the corpus comes with under `given`.
        seeds: Repetitions.
        settings: What decides the numbers besides model, corpus, protocol and folds.
        finished: Is told every fold, also those that were there.

    Raises:
        ConfigError: The folder holds an evaluation with other settings, or the corpus does not have
            so many folds in it.
        ResultsError: A finished fold is damaged.
        UnlabelledError: A clip has no label.
    """
    divisions = {seed: corpus.divided(protocol, folds, seed) for seed in seeds}
    folds = len(divisions[seeds[0]].folds)
    identity = {
        "model": model,
        "dataset": corpus.name,
        "corpus_fingerprint": corpus.fingerprint,
        "labelling": _labelling(corpus, protocol),
        "protocol": protocol,
        "folds": folds,
        **settings,
    }
    claim(out, identity)
    results: list[FoldResult] = []
    for seed, division in divisions.items():
        for number, fold in enumerate(division.folds):
            ids = [corpus.ids[clip] for clip in fold.test]
            result = finished_or_run(out, seed, number, ids, partial(row, number, fold, seed))
            results.append(result)
            finished(result)
            evaluation = _evaluation(model, corpus, protocol, folds, divisions, results, settings)
            write_report(out, evaluation)
    return evaluation


def _labelling(corpus: LabelledCorpus, protocol: Protocol) -> str:
    """Changes with labels, groups, copies and folds, which the fingerprint does not know of."""
    content: list[Any] = [
        list(corpus.class_names),
        np.asarray(corpus.labels).tolist(),
        list(corpus.groups),
    ]
    # Nothing where there is nothing, so that evaluations of earlier versions are gone on with.
    content += [[list(clips) for clips in corpus.copies]] if corpus.copies else []
    content += [list(corpus.folds)] if protocol == "given" else []
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _evaluation(
    model: str,
    corpus: LabelledCorpus,
    protocol: Protocol,
    folds: int,
    divisions: Mapping[int, Division],
    results: Sequence[FoldResult],
    settings: Mapping[str, Any],
) -> Evaluation:
    # Seeds divide anew, so that what is wrong with one division may not be with the next.
    warnings = [
        warning
        if len(divisions) == 1 or all(warning in d.warnings for d in divisions.values())
        else f"seed {seed}: {warning}"
        for seed, division in divisions.items()
        for warning in division.warnings
    ]
    return Evaluation(
        dataset=corpus.name,
        model=model,
        protocol=protocol,
        folds_asked=folds,
        seeds=tuple(divisions),
        results=tuple(results),
        clips=len(corpus.ids),
        excluded=corpus.excluded,
        warnings=tuple(dict.fromkeys(warnings)),
        settings=settings,
    )
