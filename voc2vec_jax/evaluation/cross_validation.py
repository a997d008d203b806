"""One model or baseline on one corpus: every fold of every seed, resumable, written as it comes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.evaluation.division import Division, divide
from voc2vec_jax.evaluation.folds import Fold
from voc2vec_jax.evaluation.identity import Identity, claim, labelling_sha256
from voc2vec_jax.evaluation.report import write_report
from voc2vec_jax.evaluation.results import Evaluation, FoldResult, finished_or_run
from voc2vec_jax.evaluation.versions import mixed
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
    clip_sha256: Sequence[str] = ()
    """Of the samples of each clip; () where there is no sound to compare."""
    excluded: tuple[Mapping[str, str], ...] = ()
    """`file` and `reason` of each clip that could not be read and is left out on request."""


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
    folds: int = 10,
    seeds: Sequence[int] = (0,),
    content: Mapping[str, str],
    settings: Mapping[str, Any],
    finished: Callable[[FoldResult], None] = lambda result: None,
) -> Evaluation:
    """Runs what is missing in a folder and writes `results.json` after every fold.

    Args:
        row: Makes the results of a fold.
        model: Its name in tables, such as where it lies; decides nothing.
        corpus: What it is evaluated on.
        protocol: Of the folds. A seed decides the grouped ones, and not those of the paper.
        out: Folder of this evaluation.
        folds: For each seed.
        seeds: Repetitions.
        content: sha256 of what the row is made of: `model_sha256` or `vectors_sha256`; empty where
            the settings say all.
        settings: What decides the numbers besides content, corpus, protocol and folds.
        finished: Is told every fold, also those that were there.

    Raises:
        ConfigError: The folder holds another evaluation, or the corpus does not have so many folds
            in it.
        ResultsError: A finished fold is damaged, or of another run.
        UnlabelledError: A clip has no label.
    """
    identity = identity_of(model, corpus, protocol, folds, content, settings)
    divisions = {
        seed: divide(
            protocol, corpus.labels, corpus.groups, corpus.class_names, folds=folds, seed=seed
        )
        for seed in seeds
    }
    claim(out, identity)
    results: list[FoldResult] = []
    for seed, division in divisions.items():
        for number, fold in enumerate(division.folds):
            ids = [corpus.ids[clip] for clip in fold.test]
            result = finished_or_run(
                out, seed, number, ids, partial(row, number, fold, seed), identity.run_sha256
            )
            results.append(result)
            finished(result)
            evaluation = _evaluation(
                identity, corpus, protocol, folds, divisions, results, settings
            )
            write_report(out, evaluation)
    return evaluation


def identity_of(
    model: str,
    corpus: LabelledCorpus,
    protocol: Protocol,
    folds: int,
    content: Mapping[str, str],
    settings: Mapping[str, Any],
) -> Identity:
    """What decides the numbers of an evaluation; arguments are those of `cross_validate`."""
    return Identity(
        content={
            **content,
            "corpus_fingerprint": corpus.fingerprint,
            "labelling_sha256": labelling_sha256(corpus.class_names, corpus.labels, corpus.groups),
        },
        settings={"protocol": protocol, "folds": folds, **settings},
        names={"model": model, "dataset": corpus.name},
    )


def _evaluation(
    identity: Identity,
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
    ] + mixed([result.versions for result in results])
    return Evaluation(
        dataset=corpus.name,
        model=identity.names["model"],
        protocol=protocol,
        folds_asked=folds,
        seeds=tuple(divisions),
        results=tuple(results),
        clips=len(corpus.ids),
        excluded=corpus.excluded,
        warnings=tuple(dict.fromkeys(warnings)),
        settings=settings,
        identity={"run_sha256": identity.run_sha256, **identity.content},
    )
