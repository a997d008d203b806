"""Models and baselines × datasets × protocols × seeds, and one page of tables.

    python -m tools.evaluate_suite donate_a_cry clips.csv --out runs/suite \\
        --baselines majority mfcc-lr compare-lr \\
        --models voc2vec=hf:alkiskoudounas/voc2vec mine=runs/mine/export

A dataset is the name of a prepared one, or a CSV with the columns path, label and group. Every fold
is kept as soon as it is finished; the same command goes on where it was stopped. OUT gets
tables.md, tables.tex, suite.json, pictures, and a folder PROTOCOL/DATASET/ROW with `results.json`,
the folds and the confusion matrix of each row.

The openSMILE baselines (egemaps-*, compare-*) need the extra `baselines`, whose licence allows
research and non-commercial use only.
"""

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from data_pipelines.corpora.sources import default_data_dir
from tools.evaluation.rows import ModelRuns, host_rows, named
from voc2vec_jax.cli.command import parsed, prepare_process, run
from voc2vec_jax.cli.corpus import named_corpus, open_labelled
from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.errors import DONE, FAILED
from voc2vec_jax.evaluation import published
from voc2vec_jax.evaluation.cross_validation import LabelledCorpus, cross_validate
from voc2vec_jax.evaluation.division import divide
from voc2vec_jax.evaluation.plots import plot_confusion, plot_recalls
from voc2vec_jax.evaluation.report import finite, report, summarise
from voc2vec_jax.evaluation.results import Evaluation, FoldResult
from voc2vec_jax.evaluation.significance import PairedTest, compare_all
from voc2vec_jax.evaluation.tables import (
    Scoreboard,
    Scored,
    Table,
    gap_table,
    main_table,
    pooled_table,
    significance_table,
)
from voc2vec_jax.files import write_json, write_text

Boards = dict[Protocol, dict[tuple[str, str], Scored]]


@dataclass(frozen=True)
class Arguments:
    """What to evaluate on what."""

    datasets: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Prepared datasets by name, or tables (FILE.csv, FILE.tsv)."""
    out: Path
    """Gets everything; may hold what an earlier run left."""
    baselines: tuple[str, ...] = ("majority", "mfcc-lr")
    """`majority`, or `mfcc`, `egemaps`, `compare` followed by `-lr` or `-svm`."""
    embeddings: tuple[str, ...] = ()
    """NAME=FILE: vectors of some model (NPZ or Parquet, see docs/evaluation.md) under a logistic
    regression; `{dataset}` in FILE stands for the name of the dataset."""
    models: tuple[str, ...] = ()
    """NAME=SOURCE: a folder or hub id (hf:org/name), fine-tuned by `voc2vec_jax.evaluate`; flags of
    that command may follow it: "frozen=hf:org/name --freeze-encoder"."""
    model_flags: str = ""
    """Flags of that command for every model: --model-flags="--epochs 5"."""
    protocols: tuple[Protocol, ...] = ("grouped", "paper")
    folds: int = 10
    seeds: tuple[int, ...] = (0,)
    """Each is another division into folds under `grouped`. Baselines know no other chance, so that
    they run under `paper` for the first of them only."""
    exclude_bad: bool = False
    """Leave files out that cannot be read, and count them in every table, instead of stopping."""
    data_dir: Path | None = None
    """Where decoded corpora are kept; default `$VOC2VEC_DATA_DIR`, else `~/.cache/voc2vec_jax`."""


def run_suite(arguments: Arguments) -> bool:
    """Runs what is not finished yet, and writes everything; False if a model failed."""
    data_dir = (arguments.data_dir or default_data_dir()).expanduser()
    models = named("--models", arguments.models)
    corpora = {
        name: open_labelled(named_corpus(name, data_dir), exclude_bad=arguments.exclude_bad)[1]
        for name in arguments.datasets
    }
    boards: Boards = {protocol: {} for protocol in arguments.protocols}
    for corpus, protocol in itertools.product(corpora.values(), arguments.protocols):
        # Folds that cannot be are refused here, before features are computed for minutes.
        divide(protocol, corpus.labels, corpus.groups, corpus.class_names, folds=arguments.folds)
    for corpus in corpora.values():
        run_here(arguments, corpus, data_dir, boards)
    runs = ModelRuns(
        arguments.folds,
        arguments.seeds,
        data_dir,
        arguments.exclude_bad,
        arguments.model_flags,
    )
    complete = True
    for dataset, corpus in corpora.items():
        for name, source in models.items():
            for protocol in arguments.protocols:
                out = arguments.out / protocol / corpus.name / name
                found = runs.run(source, dataset, protocol, out)
                complete &= found is not None and found.complete
                if found is not None:
                    # The command names a model by where it lies.
                    evaluation = replace(found, model=name, dataset=corpus.name)
                    boards[protocol][name, corpus.name] = _scored(evaluation, out)
                    write_tables(arguments.out, boards)
    for protocol, board in boards.items():
        for dataset, rows in _by_dataset(board).items():
            plot_recalls(
                {s.evaluation.model: s.summary.recalls for s in rows},
                rows[0].evaluation.results[0].classes,
                f"{dataset}, {protocol}",
                arguments.out / protocol / dataset / "recalls.png",
            )
    return complete


def run_here(arguments: Arguments, corpus: LabelledCorpus, data_dir: Path, boards: Boards) -> None:
    """Baselines and embeddings."""
    wanted = host_rows(arguments.baselines, arguments.embeddings, corpus, data_dir)
    # All before the first is run, because a file of vectors may be of no use.
    rows = {name: row.make() for name, row in wanted.items()}
    for name, row in rows.items():
        for protocol in arguments.protocols:
            out = arguments.out / protocol / corpus.name / name
            seeds = arguments.seeds[:1] if protocol == "paper" else arguments.seeds
            evaluation = cross_validate(
                row, name, corpus, protocol, out,
                folds=arguments.folds, seeds=seeds, settings=wanted[name].settings,
                finished=_counter(out),
            )  # fmt: skip
            boards[protocol][name, corpus.name] = _scored(evaluation, out)
            write_tables(arguments.out, boards)


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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""

    def work() -> int:
        arguments = parsed(Arguments, argv, __doc__, "tools.evaluate_suite")
        complete = run_suite(arguments)
        tables = arguments.out / "tables.md"
        print(tables.read_text(encoding="utf-8") if tables.exists() else "nothing was run")
        return DONE if complete else FAILED

    return run(work)


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
