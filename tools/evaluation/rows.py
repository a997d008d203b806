"""Rows of the table: baselines and embeddings in this process, models in one of their own."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from voc2vec_jax.audio.tables import is_table
from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.evaluation.baselines import (
    BASELINES,
    CLASSIFIERS,
    Contender,
    baseline,
    embeddings,
    settings_of,
)
from voc2vec_jax.evaluation.csv_files import GivenFolds
from voc2vec_jax.evaluation.labelled_corpus import LabelledCorpus
from voc2vec_jax.evaluation.report import load_evaluation
from voc2vec_jax.evaluation.results import RESULTS, Evaluation

EVALUATE = (sys.executable, "-m", "voc2vec_jax.evaluate")


@dataclass(frozen=True)
class HostRow:
    """A row that is computed here."""

    make: Callable[[], Contender]
    settings: Mapping[str, Any]
    """What decides its numbers besides its vectors."""


def host_rows(
    baselines: Sequence[str], files: Sequence[str], corpus: LabelledCorpus, data_dir: Path
) -> dict[str, HostRow]:
    """By name, what is to be computed of a corpus.

    Args:
        baselines: Of `BASELINES`.
        files: NAME=FILE each, of embeddings; `{dataset}` in FILE stands for the name of the corpus.
        corpus: What is evaluated on.
        data_dir: Gets the vectors.

    Raises:
        ConfigError: No such baseline, or a name that is given twice.
    """
    rows: dict[str, HostRow] = {}
    for name in baselines:
        if name not in BASELINES:
            raise ConfigError(f"--baselines {name}: choose among {', '.join(BASELINES)}")
        rows[name] = HostRow(partial(baseline, name, corpus, data_dir), settings_of(name))
    for name, file in named("--embeddings", files).items():
        if name in rows:
            raise ConfigError(f"--embeddings {name}={file}: there is a baseline of that name")
        path = Path(file.replace("{dataset}", corpus.name))
        rows[name] = HostRow(
            partial(embeddings, corpus, path, CLASSIFIERS["lr"]), settings_of("embeddings-lr")
        )
    return rows


def named(flag: str, given: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE each, as a dictionary.

    Raises:
        ConfigError: One is not of that form, or repeats a name.
    """
    found: dict[str, str] = {}
    for word in given:
        name, _, value = word.partition("=")
        if not name or not value or name in found or "/" in name:
            raise ConfigError(f"{flag} {word}: give NAME=VALUE, with names that differ")
        found[name] = value
    return found


@dataclass(frozen=True)
class ModelRuns:
    """How models are fine-tuned, whichever they are."""

    folds: int | None
    seeds: tuple[int, ...]
    data_dir: Path
    exclude_bad: bool
    flags: str
    """Further flags of `voc2vec_jax.evaluate`."""

    def command(
        self, source: str, dataset: str, given: GivenFolds | None, protocol: Protocol, out: Path
    ) -> list[str]:
        """The command line of one evaluation; flags that follow the source are this model's own."""
        source, *own = shlex.split(source)
        corpus = ["--table" if is_table(dataset) else "--dataset", dataset]
        words = [*EVALUATE, "--model", source, *corpus, "--data-dir", str(self.data_dir)]
        words += ["--protocol", protocol, "--out", str(out)]
        words += [] if self.folds is None else ["--folds", str(self.folds)]
        words += [] if given is None else ["--folds-csv", str(given.path)]
        words += ["--seeds", *map(str, self.seeds)]
        words += ["--exclude-bad"] if self.exclude_bad else []
        return [*words, *shlex.split(self.flags), *own]

    def run(
        self, source: str, dataset: str, given: GivenFolds | None, protocol: Protocol, out: Path
    ) -> Evaluation | None:
        """Fine-tunes a model on the folds that are missing, in a process of its own.

        Returns:
            What is finished then, even if the process failed; None if that is nothing, or if it
            failed before it had seen that what lies there is of the same content.
        """
        command = self.command(source, dataset, given, protocol, out)
        results = out / RESULTS
        before = _written(results)
        code = subprocess.run(command, check=False).returncode
        if code:
            print(f"{out}: exit code {code} of {shlex.join(command)}", file=sys.stderr, flush=True)
            # Whoever claims the folder writes the results anew, be there nothing left to run.
            if before is not None and _written(results) == before:
                print(
                    f"{out}: is not in the tables, since the {RESULTS} in it may be of another"
                    " model, corpus or settings",
                    file=sys.stderr,
                    flush=True,
                )
                return None
        return load_evaluation(out) if results.exists() else None


def _written(path: Path) -> tuple[int, int] | None:
    """Another one after every time that a file is written whole; None where there is none."""
    if not path.exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_mtime_ns
