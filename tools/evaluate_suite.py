"""Models and baselines × datasets × protocols × seeds, and one page of tables.

    python -m tools.evaluate_suite donate_a_cry clips.csv --out runs/suite \\
        --baselines majority mfcc-lr compare-lr \\
        --models voc2vec=hf:alkiskoudounas/voc2vec mine=runs/mine/export

A dataset is the name of a prepared one, or a CSV with the columns path, label and group. Every fold
is kept as soon as it is finished; the same command goes on where it was stopped. A row whose folder
holds another model, vectors, clips or settings is refused and left out of the tables; the others go
on. OUT gets tables.md, tables.tex, suite.json, pictures, and a folder PROTOCOL/DATASET/ROW with
`results.json`, the folds and the confusion matrix of each row.

The openSMILE baselines (egemaps-*, compare-*) need the extra `baselines`, whose licence allows
research and non-commercial use only.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from data_pipelines.corpora.sources import default_data_dir
from tools.evaluation.pages import Boards, by_dataset, write_tables
from tools.evaluation.rows import ModelRuns, host_rows, named
from voc2vec_jax.cli.command import parsed, prepare_process, run
from voc2vec_jax.cli.corpus import corpus_name, named_corpus, open_labelled
from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.errors import DONE, FAILED, ConfigError, ResultsError
from voc2vec_jax.evaluation.cross_validation import CrossValidation
from voc2vec_jax.evaluation.csv_files import GivenFolds, read_folds
from voc2vec_jax.evaluation.labelled_corpus import LabelledCorpus
from voc2vec_jax.evaluation.plots import plot_confusion, plot_recalls
from voc2vec_jax.evaluation.report import summarise
from voc2vec_jax.evaluation.results import Evaluation, FoldResult
from voc2vec_jax.evaluation.tables import Scored


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
    """`given`: the folds that the corpora come with, for which --folds is left out."""
    folds: int | None = None
    """Default 10."""
    folds_csv: str | None = None
    """Folds of a file for every row, as in `voc2vec_jax.evaluate`, instead of dividing into
    `folds`; `{dataset}` in it stands for the name of the dataset."""
    seeds: tuple[int, ...] = (0,)
    """Each is another division into folds under `grouped`. Baselines know no other chance, so that
    they run under `paper` and `given` for the first of them only."""
    exclude_bad: bool = False
    """Leave files out that cannot be read, and count them in every table, instead of stopping."""
    data_dir: Path | None = None
    """Where decoded corpora are kept; default `$VOC2VEC_DATA_DIR`, else `~/.cache/voc2vec_jax`."""


def run_suite(arguments: Arguments) -> bool:
    """Runs what is not finished yet, and writes everything; False if a row failed.

    Raises:
        ConfigError: Two datasets of one name, and what `open_labelled` and `host_rows` refuse.
    """
    data_dir = (arguments.data_dir or default_data_dir()).expanduser()
    models = named("--models", arguments.models)
    require_names_that_differ(arguments.datasets, data_dir)
    others = {*arguments.baselines, *named("--embeddings", arguments.embeddings)}
    if shared := sorted(others & models.keys()):
        raise ConfigError(
            f"--models {shared[0]}=…: another row has that name; give it one of its own"
        )
    corpora = {
        name: open_labelled(named_corpus(name, data_dir), exclude_bad=arguments.exclude_bad)[1]
        for name in arguments.datasets
    }
    given = {corpus.name: _given_folds(arguments, corpus) for corpus in corpora.values()}
    boards: Boards = {protocol: {} for protocol in arguments.protocols}
    for corpus, protocol in itertools.product(corpora.values(), arguments.protocols):
        # Folds that cannot be are refused here, before features are computed for minutes.
        for seed in arguments.seeds:
            corpus.divided(protocol, arguments.folds, seed, given[corpus.name])
    complete = True
    for corpus in corpora.values():
        complete &= run_here(arguments, corpus, given[corpus.name], data_dir, boards)
    runs = ModelRuns(
        arguments.folds,
        arguments.seeds,
        data_dir,
        arguments.exclude_bad,
        arguments.model_flags,
    )
    for dataset, corpus in corpora.items():
        for name, source in models.items():
            for protocol in arguments.protocols:
                out = arguments.out / protocol / corpus.name / name
                found = None
                with _unless_refused(name):
                    found = runs.run(source, dataset, given[corpus.name], protocol, out)
                complete &= found is not None and found.complete
                if found is not None:
                    # The command names a model by where it lies.
                    evaluation = replace(found, model=name, dataset=corpus.name)
                    boards[protocol][name, corpus.name] = _scored(evaluation, out)
                    write_tables(arguments.out, boards)
    for protocol, board in boards.items():
        for dataset, rows in by_dataset(board).items():
            plot_recalls(
                {s.evaluation.model: s.summary.recalls for s in rows},
                rows[0].evaluation.results[0].classes,
                f"{dataset}, {protocol}",
                arguments.out / protocol / dataset / "recalls.png",
            )
    if any(boards.values()):
        print((arguments.out / "tables.md").read_text(encoding="utf-8"))
    else:
        print("nothing was run")
    return complete


def _given_folds(arguments: Arguments, corpus: LabelledCorpus) -> GivenFolds | None:
    if arguments.folds_csv is None:
        return None
    path = Path(arguments.folds_csv.replace("{dataset}", corpus.name))
    return read_folds(path, corpus.ids, corpus.labels, corpus.groups, corpus.class_names)


def require_names_that_differ(datasets: Sequence[str], data_dir: Path) -> None:
    """Raises ConfigError where two datasets would share rows of the tables, and folders."""
    given: dict[str, str] = {}
    for dataset in dict.fromkeys(datasets):
        name = corpus_name(named_corpus(dataset, data_dir))
        if name in given:
            raise ConfigError(
                f"{given[name]} and {dataset}: are both called {name!r} in tables and folders;"
                " rename one, or give them to two commands with an --out each"
            )
        given[name] = dataset


def run_here(
    arguments: Arguments,
    corpus: LabelledCorpus,
    given: GivenFolds | None,
    data_dir: Path,
    boards: Boards,
) -> bool:
    """Baselines and embeddings; False if the folder of one holds another evaluation."""
    wanted = host_rows(arguments.baselines, arguments.embeddings, corpus, data_dir)
    # All before the first is run, because a file of vectors may be of no use.
    contenders = {name: row.make() for name, row in wanted.items()}
    complete = True
    for name, contender in contenders.items():
        for protocol in arguments.protocols:
            out = arguments.out / protocol / corpus.name / name
            # A seed decides nothing of a baseline but the folds.
            divides = protocol == "grouped" if given is None else bool(given.seeds)
            seeds = arguments.seeds if divides else arguments.seeds[:1]
            evaluation = None
            with _unless_refused(name):
                evaluation = CrossValidation(
                    contender.row, name, corpus, protocol, out,
                    folds=arguments.folds, seeds=seeds, given=given, content=contender.content,
                    settings=wanted[name].settings, finished=_counter(out),
                ).run_all()  # fmt: skip
            complete &= evaluation is not None
            if evaluation is not None:
                boards[protocol][name, corpus.name] = _scored(evaluation, out)
                write_tables(arguments.out, boards)
    return complete


@contextmanager
def _unless_refused(row: str) -> Iterator[None]:
    """Goes on, with a line that says why, where the folder of a row is that of something else."""
    try:
        yield
    except (ConfigError, ResultsError) as error:
        print(f"error: {row} is not in the tables: {error}", file=sys.stderr, flush=True)


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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""

    def work() -> int:
        arguments = parsed(Arguments, argv, __doc__, "tools.evaluate_suite")
        return DONE if run_suite(arguments) else FAILED

    return run(work)


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
