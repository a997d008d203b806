"""One model or baseline on one corpus: every fold of every seed, resumable, written as it comes."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.distributed.lock import WorkdirLock, taking_turns
from voc2vec_jax.errors import WorkdirLockedError
from voc2vec_jax.evaluation.csv_files import FOLDS, GivenFolds, write_folds
from voc2vec_jax.evaluation.folds import Fold
from voc2vec_jax.evaluation.identity import Identity, claim, labelling_sha256
from voc2vec_jax.evaluation.labelled_corpus import LabelledCorpus
from voc2vec_jax.evaluation.report import write_report
from voc2vec_jax.evaluation.results import (
    Evaluation,
    FoldResult,
    finished,
    finished_or_run,
    fold_name,
)
from voc2vec_jax.evaluation.versions import mixed

Row = Callable[[int, Fold, int], FoldResult]
"""A line of the table: the answers on the test clips of a fold, given its number, the fold and the
seed."""


Key = tuple[int, int]
"""Seed and number of a fold."""


class CrossValidation:
    """Every fold of every seed in one folder, which several processes may fill together.

    Each writes `results.json` of all folds that are finished there, whoever ran them, and looks
    afterwards whether there are more by then; so the last one to write has seen them all.

    Args:
        row: Makes the results of a fold.
        model: Its name in tables, such as where it lies; decides nothing.
        corpus: What it is evaluated on.
        protocol: Of the folds. A seed decides the grouped ones only.
        out: Folder of this evaluation; gets `folds.csv` before anything is run.
        folds: For each seed; None: 10, or as many as are given.
        seeds: Repetitions.
        given: Folds to use in place of a division.
        content: sha256 of what the row is made of: `model_sha256` or `vectors_sha256`; empty where
            the settings say all.
        settings: What decides the numbers besides content, corpus, protocol and folds.
        finished: Is told every fold once, also those that were there and those of others.
        shared: A fold that another process is at work on is left to it.

    Raises:
        ConfigError: The folder holds another evaluation, or the corpus does not have so many folds
            in it.
        ResultsError: A finished fold is damaged, or of another run.
        UnlabelledError: A clip has no label.
    """

    def __init__(
        self,
        row: Row,
        model: str,
        corpus: LabelledCorpus,
        protocol: Protocol,
        out: Path,
        *,
        folds: int | None = None,
        seeds: Sequence[int] = (0,),
        given: GivenFolds | None = None,
        content: Mapping[str, str],
        settings: Mapping[str, Any],
        finished: Callable[[FoldResult], None] = lambda result: None,
        shared: bool = False,
    ) -> None:
        self._row, self._model, self._corpus, self._protocol = row, model, corpus, protocol
        self._out, self._settings, self._finished, self._shared = out, settings, finished, shared
        self._divisions = {seed: corpus.divided(protocol, folds, seed, given) for seed in seeds}
        self._folds = len(self._divisions[seeds[0]].folds)
        self.busy: dict[Key, str] = {}
        """Who is at work on a fold that was left to others."""
        self._results: dict[Key, FoldResult] = {}
        own = {} if given is None else {"given_folds_sha256": given.sha256}
        self._identity = identity_of(
            model, corpus, protocol, self._folds, {**content, **own}, settings
        )
        (out / "folds").mkdir(parents=True, exist_ok=True)
        with taking_turns(out, "settings.lock"):
            claim(out, self._identity)
        divided = {seed: division.folds for seed, division in self._divisions.items()}
        about = corpus.labels, corpus.groups, corpus.class_names
        if given is None or given.path.resolve() != (out / FOLDS).resolve():
            write_folds(out / FOLDS, divided, corpus.ids, *about)
        # What lies there is of this run: said before a fold that may fail is begun.
        self.publish()

    def missing(self, only: Collection[int] | None = None) -> list[Key]:
        """Folds that are not finished; of those with the numbers `only`, if given."""
        return [
            (seed, number)
            for seed, division in self._divisions.items()
            for number in range(len(division.folds))
            if (seed, number) not in self._results and (only is None or number in only)
        ]

    def run_missing(self, only: Collection[int] | None = None) -> None:
        """Runs every missing fold that is free, until none is."""
        before = None
        while (left := self.missing(only)) and left != before:
            before = left
            self.run(left)

    def run_all(self) -> Evaluation:
        """Runs what is missing, and gives the whole."""
        self.run_missing()
        return self.publish()

    def run(self, keys: Iterable[Key]) -> None:
        """Runs folds as they are asked for, but for those that are finished or others are at."""
        for key in keys:
            if key in self._results:
                continue
            seed, number = key
            fold = self._divisions[seed].folds[number]
            ids = [self._corpus.ids[clip] for clip in fold.test]
            row = partial(self._row, number, fold, seed)
            try:
                with self._held(key):
                    result = finished_or_run(
                        self._out, seed, number, ids, row, self._identity.run_sha256
                    )
            except WorkdirLockedError as error:
                self.busy[key] = str(error)
                continue
            self._take(key, result)
            self.publish()

    def publish(self, draw: Callable[[Evaluation], None] = lambda evaluation: None) -> Evaluation:
        """Writes what is there of all folds that are finished, if any is.

        Args:
            draw: What else is to be written of it.
        """
        while True:
            self._collect()
            evaluation = self._evaluation()
            if evaluation.results:
                write_report(self._out, evaluation)
                draw(evaluation)
            if not self._collect():
                return evaluation

    def _held(self, key: Key) -> AbstractContextManager[object]:
        if not self._shared:
            return nullcontext()
        return WorkdirLock(self._out / "folds", f"{fold_name(*key)}.lock", patient=False)

    def _collect(self) -> bool:
        """Reads what has been finished here since it last looked; whether there was any."""
        before = len(self._results)
        for seed, number in self.missing():
            test = self._divisions[seed].folds[number].test
            ids = [self._corpus.ids[clip] for clip in test]
            result = finished(self._out, seed, number, ids, self._identity.run_sha256)
            if result is not None:
                self._take((seed, number), result)
        return len(self._results) > before

    def _take(self, key: Key, result: FoldResult) -> None:
        self._results[key] = result
        self.busy.pop(key, None)
        self._finished(result)

    def _evaluation(self) -> Evaluation:
        # Seeds divide anew, so that what is wrong with one division may not be with the next.
        divisions = self._divisions
        warnings = [
            warning
            if len(divisions) == 1 or all(warning in d.warnings for d in divisions.values())
            else f"seed {seed}: {warning}"
            for seed, division in divisions.items()
            for warning in division.warnings
        ] + mixed([result.versions for result in self._results.values()])
        places = {seed: place for place, seed in enumerate(divisions)}
        return Evaluation(
            dataset=self._corpus.name,
            model=self._model,
            protocol=self._protocol,
            folds_asked=self._folds,
            seeds=tuple(divisions),
            results=tuple(
                self._results[key]
                for key in sorted(self._results, key=lambda key: (places[key[0]], key[1]))
            ),
            clips=len(self._corpus.ids),
            excluded=self._corpus.excluded,
            warnings=tuple(dict.fromkeys(warnings)),
            settings=self._settings,
            identity={"run_sha256": self._identity.run_sha256, **self._identity.content},
        )


def identity_of(
    model: str,
    corpus: LabelledCorpus,
    protocol: Protocol,
    folds: int,
    content: Mapping[str, str],
    settings: Mapping[str, Any],
) -> Identity:
    """What decides the numbers of an evaluation; arguments are those of `CrossValidation`."""
    return Identity(
        content={
            **content,
            "corpus_fingerprint": corpus.fingerprint,
            "labelling_sha256": labelling_sha256(
                corpus.class_names,
                corpus.labels,
                corpus.groups,
                corpus.copies,
                corpus.folds if protocol == "given" else (),
            ),
        },
        settings={"protocol": protocol, "folds": folds, **settings},
        names={"model": model, "dataset": corpus.name},
    )
