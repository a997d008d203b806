"""Baselines (and embeddings) × datasets × protocols, and one page of tables.

    python -m tools.evaluate_suite donate_a_cry clips.csv --out runs/suite \\
        --baselines majority mfcc-lr compare-lr --protocols grouped paper

A dataset is the name of a prepared one, or a CSV with the columns path, label and group. Every fold
is kept as soon as it is finished; the same command goes on where it was stopped. OUT gets
tables.md, tables.tex, suite.json, pictures, and a folder PROTOCOL/DATASET/ROW with `results.json`,
the folds and the confusion matrix of each row.

The openSMILE baselines (egemaps-*, compare-*) need the extra `baselines`, whose licence allows
research and non-commercial use only.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from data_pipelines.sources import default_data_dir, open_corpus
from data_pipelines.store import DataError, from_int16
from voc2vec_jax import published
from voc2vec_jax.baselines import (
    BASELINES,
    CLASSIFIERS,
    baseline,
    embeddings_row,
    settings_of,
)
from voc2vec_jax.config import ConfigError, DataConfig
from voc2vec_jax.cross_validation import LabelledCorpus, Row, cross_validate
from voc2vec_jax.evaluation_report import finite, report, summarise
from voc2vec_jax.features import FeaturesError
from voc2vec_jax.folds import Protocol, UnlabelledError
from voc2vec_jax.results import Evaluation, FoldResult, ResultsError, write_json
from voc2vec_jax.score_plots import plot_confusion, plot_recalls
from voc2vec_jax.score_tables import (
    Scoreboard,
    Scored,
    Table,
    gap_table,
    main_table,
    pooled_table,
    significance_table,
)
from voc2vec_jax.significance import PairedTest, compare_all

WRONG_USAGE, BAD_DATA = 2, 3


@dataclass(frozen=True)
class Arguments:
    """What to evaluate on what."""

    datasets: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Prepared datasets by name, or tables (FILE.csv)."""
    out: Path
    """Gets everything; may hold what an earlier run left."""
    baselines: tuple[str, ...] = ("majority", "mfcc-lr")
    """`majority`, or `mfcc`, `egemaps`, `compare` followed by `-lr` or `-svm`."""
    embeddings: tuple[str, ...] = ()
    """NAME=FILE: vectors of some model (NPZ or Parquet, see docs/evaluation.md) under a logistic
    regression; `{dataset}` in FILE stands for the name of the dataset."""
    protocols: tuple[Protocol, ...] = ("grouped", "paper")
    folds: int = 10
    seeds: tuple[int, ...] = (0,)
    """Each is another division into folds under `grouped`. Baselines know no other chance, so that
    they run under `paper` for the first of them only."""
    exclude_bad: bool = False
    """Leave files out that cannot be read, and count them in every table, instead of stopping."""
    data_dir: Path | None = None
    """Where decoded corpora are kept; default `$VOC2VEC_DATA_DIR`, else `~/.cache/voc2vec_jax`."""


def open_labelled(dataset: str, data_dir: Path, *, exclude_bad: bool) -> LabelledCorpus:
    """A corpus by its name or table, decoded on first use.

    Raises:
        ConfigError: No such dataset.
        DataError: It cannot be read, or some of its files cannot and are not to be left out.
    """
    is_table = dataset.endswith(".csv")
    data = DataConfig(data_dir=str(data_dir))
    store = open_corpus(replace(data, table=dataset) if is_table else replace(data, name=dataset))
    dropped = [
        drop
        for directory in store.directories
        for drop in json.loads((directory / "report.json").read_text(encoding="utf-8"))["dropped"]
    ]
    if dropped and not exclude_bad:
        shown = "\n".join(f"  {drop['file']}: {drop['reason']}" for drop in dropped)
        raise DataError(
            f"{dataset}: {len(dropped)} files cannot be used; mend or remove them, or leave them"
            f" out with --exclude-bad:\n{shown}"
        )

    def waveforms() -> Iterator[NDArray[np.float32]]:
        for clip, length in enumerate(store.lengths.tolist()):
            yield from_int16(store.read(clip, 0, length))

    return LabelledCorpus(
        name=Path(dataset).stem if is_table else dataset.replace("/", "-"),
        ids=store.ids,
        labels=store.labels,
        groups=store.groups,
        class_names=store.class_names,
        fingerprint=store.fingerprint,
        waveforms=waveforms,
        excluded=tuple(dropped),
    )


def rows_of(
    arguments: Arguments, corpus: LabelledCorpus, data_dir: Path
) -> dict[str, tuple[Callable[[], Row], Mapping[str, Any]]]:
    """By name: what makes the row when it is needed, and what decides its numbers."""
    rows: dict[str, tuple[Callable[[], Row], Mapping[str, Any]]] = {}
    for name in arguments.baselines:
        if name not in BASELINES:
            raise ConfigError(f"--baselines {name}: choose among {', '.join(BASELINES)}")
        rows[name] = (partial(baseline, name, corpus, data_dir), settings_of(name))
    for given in arguments.embeddings:
        name, _, file = given.partition("=")
        if not file or name in rows:
            raise ConfigError(f"--embeddings {given}: give NAME=FILE, with names that differ")
        path = Path(file.replace("{dataset}", corpus.name))
        rows[name] = (
            partial(embeddings_row, corpus, path, CLASSIFIERS["lr"]),
            {**settings_of("embeddings-lr"), "embeddings": path.name},
        )
    return rows


def run(arguments: Arguments) -> None:
    """Runs what is not finished yet, and writes everything."""
    data_dir = (arguments.data_dir or default_data_dir()).expanduser()
    corpora = [
        open_labelled(dataset, data_dir, exclude_bad=arguments.exclude_bad)
        for dataset in arguments.datasets
    ]
    boards: dict[Protocol, dict[tuple[str, str], Scored]] = {p: {} for p in arguments.protocols}
    for corpus in corpora:
        wanted = rows_of(arguments, corpus, data_dir)
        # All before the first is run, because a file of vectors may be of no use.
        rows = {name: make() for name, (make, _) in wanted.items()}
        for name, row in rows.items():
            for protocol in arguments.protocols:
                out = arguments.out / protocol / corpus.name / name
                seeds = arguments.seeds[:1] if protocol == "paper" else arguments.seeds
                evaluation = cross_validate(
                    row, name, corpus, protocol, out,
                    folds=arguments.folds, seeds=seeds, settings=wanted[name][1],
                    finished=_counter(out),
                )  # fmt: skip
                boards[protocol][name, corpus.name] = _scored(evaluation, out)
                write_tables(arguments.out, boards)
    for protocol, board in boards.items():
        for dataset, found in _by_dataset(board).items():
            plot_recalls(
                {s.evaluation.model: s.summary.recalls for s in found},
                found[0].evaluation.results[0].classes,
                f"{dataset}, {protocol}",
                arguments.out / protocol / dataset / "recalls.png",
            )


def _by_dataset(board: Scoreboard) -> dict[str, list[Scored]]:
    found: dict[str, list[Scored]] = {}
    for (_, dataset), scored in board.items():
        found.setdefault(dataset, []).append(scored)
    return found


def _counter(out: Path) -> Callable[[FoldResult], None]:
    def finished(result: FoldResult) -> None:
        print(f"{out}: seed {result.seed} fold {result.fold}", file=sys.stderr, flush=True)

    return finished


def _scored(evaluation: Evaluation, out: Path) -> Scored:
    summary = summarise(evaluation)
    title = f"{evaluation.model} on {evaluation.dataset}, {evaluation.protocol}"
    classes = evaluation.results[0].classes
    plot_confusion(summary.confusion, classes, title, out / "confusion.png")
    return Scored(evaluation, summary)


def write_tables(out: Path, boards: Mapping[Protocol, Scoreboard]) -> None:
    """Tables and figures of all that is finished."""
    tables: list[Table] = []
    tests: dict[Protocol, dict[str, list[PairedTest]]] = {}
    for protocol, board in boards.items():
        if not board:
            continue
        tests[protocol] = {
            dataset: compare_all([s.evaluation for s in found])
            for dataset, found in _by_dataset(board).items()
        }
        tables += [main_table(board, protocol), pooled_table(board, protocol)]
        tables.append(significance_table(tests[protocol], board, protocol))
    if boards.get("grouped") and boards.get("paper"):
        tables.append(gap_table(boards["grouped"], boards["paper"]))
    warnings = _warnings(boards)
    text = "\n".join([*(table.markdown() for table in tables), *warnings]) + "\n"
    write_text(out / "tables.md", text)
    write_text(out / "tables.tex", "\n".join(table.latex() for table in tables))
    write_json(out / "suite.json", _figures(boards, tests))


def _warnings(boards: Mapping[Protocol, Scoreboard]) -> list[str]:
    """What readers have to know of each dataset and protocol."""
    lines = [
        f"- {dataset}, {protocol}: {warning}"
        for protocol, board in boards.items()
        for (_, dataset), scored in board.items()
        for warning in scored.evaluation.warnings
    ]
    return ["### What to know", "", *dict.fromkeys(lines)] if lines else []


def _figures(
    boards: Mapping[Protocol, Scoreboard], tests: Mapping[Protocol, Mapping[str, list[PairedTest]]]
) -> dict[str, Any]:
    """The scores of `results.json` of each evaluation, the tests, and the published rows."""
    left_out = ("per_fold", "excluded", "confusion", "settings")
    return {
        "evaluations": [
            {name: value for name, value in report(s.evaluation).items() if name not in left_out}
            for board in boards.values()
            for s in board.values()
        ],
        "paired_tests": [
            # JSON has no infinity: t of folds that all differ by the same.
            {"protocol": protocol, "dataset": dataset, **finite(asdict(test))}
            for protocol, by_dataset in tests.items()
            for dataset, found in by_dataset.items()
            for test in found
        ],
        "published": {
            "source": published.SOURCE,
            "protocol": published.PROTOCOL,
            "rows": [asdict(row) for row in published.VOC2VEC_TABLE],
        },
    }


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def main() -> None:
    """Runs the command line."""
    arguments = tyro.cli(Arguments, description=__doc__)
    try:
        run(arguments)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_USAGE)
    except (DataError, FeaturesError, ResultsError, UnlabelledError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_DATA)
    print((arguments.out / "tables.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
