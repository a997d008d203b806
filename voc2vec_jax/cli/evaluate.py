"""Fine-tune one model on one labelled corpus, fold by fold, and score it on clips it never saw.

Each fold starts from the same pre-trained encoder with a fresh classifier. Run the same command
again to resume: finished folds are read, the others are run.

Examples:
  The corpus that comes with the project, five folds that share no speaker:
    python -m voc2vec_jax.evaluate --model runs/tiny --dataset synthetic --folds 5 --out eval/tiny
  A prepared dataset under the protocol of the paper (which selects on the test fold), and under
  ours:
    python -m voc2vec_jax.evaluate --model hf:alkiskoudounas/voc2vec --dataset donate_a_cry \\
        --protocol paper --out eval/paper
    python -m voc2vec_jax.evaluate --model hf:alkiskoudounas/voc2vec --dataset donate_a_cry \\
        --out eval/grouped
  A table with the columns path, label and group; the encoder frozen, three seeds:
    python -m voc2vec_jax.evaluate --model hf:facebook/hubert-base-ls960 --table clips.csv \\
        --freeze-encoder --seeds 0 1 2 --out eval/frozen
  A folder with one folder for each class, the best model exported for transformers; or that of
  each fold:
    python -m voc2vec_jax.evaluate --model runs/mine/export --folder recordings --export best \\
        --out eval/mine
  Four folds at a time on this machine; or one part of the folds on each of several machines, into
  one shared folder (started alike on all of them, each takes the folds that are free):
    python -m voc2vec_jax.evaluate --model runs/mine --table clips.csv --out eval/mine --jobs 4
    python -m voc2vec_jax.evaluate --model runs/mine --table clips.csv --out eval/mine \\
        --only-folds 0 1 2 3 4
  The folds that somebody has published, or those of another evaluation:
    python -m voc2vec_jax.evaluate --model runs/mine --table clips.csv --out eval/again \\
        --folds-csv eval/mine/folds.csv
"""

import argparse
import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from voc2vec_jax.cli import jobs
from voc2vec_jax.cli.command import run, say
from voc2vec_jax.config import DataConfig
from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.errors import DONE, ConfigError
from voc2vec_jax.evaluation.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    from voc2vec_jax.evaluation.cross_validation import CrossValidation
    from voc2vec_jax.evaluation.fine_tuning import FineTuning
    from voc2vec_jax.evaluation.results import Evaluation, FoldResult


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    model: str
    """Encoder to fine-tune: a Hugging Face folder, a fairseq `.pt`, a run's working directory, or a
    hub id (`hf:org/name`). A classifier that it may have is not used."""
    out: Path
    """Gets `results.json`, `folds.csv`, `predictions.csv`, `per_class.csv`, `confusion.png`, the
    folds and their curves. An evaluation in it is resumed; several processes may fill it at a time,
    each fold by one of them."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    dataset: str | None = None
    """A prepared dataset, or `synthetic`."""
    folder: str | None = None
    """Recordings in one folder for each class, instead of a dataset; folders such as `train`,
    `valid` and `test` above those are folds."""
    table: str | None = None
    """CSV with the columns `path`, `label` and, if known, `id`, `start` and `end` in seconds,
    `group` and `fold`, instead of a dataset."""
    data_dir: str | None = None
    """Where decoded corpora are kept; default `$VOC2VEC_DATA_DIR`, else `~/.cache/voc2vec_jax`."""
    protocol: Protocol = "grouped"
    """`grouped`: folds share no group, the epoch is chosen on a validation part. `paper`: random
    folds, the epoch is chosen on the fold that is reported, 7 s without a mask. `given`: the folds
    that the corpus comes with (column `fold`: train, validation and test, or k folds), else as
    `grouped`."""
    folds: int | None = None
    """Default 10; leave it out under `given`."""
    folds_csv: Path | None = None
    """Use the folds of this file instead of dividing: columns `fold`, `part` (train, validation,
    test) and `id`, and if known `seed`, `label` and `group`, such as the `folds.csv` of an
    evaluation."""
    seeds: tuple[int, ...] = (0,)
    """Repetitions: another division into folds (`grouped` alone), other heads and orders."""
    only_folds: tuple[int, ...] | None = None
    """Run these, counted from 0, of every seed; the others are left to other processes."""
    jobs: int = 1
    """Folds to run at a time, each in a process of its own with its share of cores and GPUs."""
    exclude_bad: bool = False
    """Leave out files that cannot be read, and say so in every output; without it they stop the
    evaluation before it begins."""
    export: Literal["best", "all"] | None = None
    """Keep models, for transformers too: `best`, that of the fold with the best selection score, in
    `OUT/export`; `all`, that of each fold, in `OUT/export/seed0-fold03`."""


def parse(argv: Sequence[str]) -> Arguments:
    """The command line; the protocol decides the defaults of the recipe.

    Raises:
        ConfigError: A value that cannot work.
        SystemExit: Wrong flags, or `--help`.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--protocol", choices=RECIPES, default="grouped")
    named: Protocol = finder.parse_known_args(argv)[0].protocol
    arguments = tyro.cli(
        Arguments,
        args=list(argv),
        default=Arguments(
            model=tyro.MISSING, out=tyro.MISSING, recipe=RECIPES[named], protocol=named
        ),
        description=__doc__,
        prog="python -m voc2vec_jax.evaluate",
    )
    given = [name for name in ("dataset", "folder", "table") if getattr(arguments, name)]
    if len(given) != 1:
        raise ConfigError(
            "give one of --dataset, --folder and --table"
            + (f", not {' and '.join('--' + name for name in given)}" if given else "")
        )
    if arguments.folds_csv is not None and arguments.folds is not None:
        raise ConfigError(
            f"--folds {arguments.folds}: --folds-csv {arguments.folds_csv} says how many; leave it "
            "out"
        )
    if arguments.jobs < 1:
        raise ConfigError(f"--jobs={arguments.jobs}: must be at least 1")
    return arguments


def evaluate(arguments: Arguments) -> int:
    """Runs what is missing, and returns the exit code.

    Raises:
        ConfigError, DataError, CheckpointError, ConversionError, ResultsError, UnlabelledError,
            TrainingDivergedError, PreemptedError: See the exit codes.
    """
    machine = jobs.shares(arguments.jobs)
    if arguments.jobs > 1:
        jobs.compute_nothing_here()
    from voc2vec_jax.cli.summary import say_fold, say_missing, say_results

    row, validation = _begin(arguments, functools.partial(say_fold, arguments.protocol))
    if arguments.jobs == 1:
        validation.run_missing(arguments.only_folds)
        code = DONE
    else:
        keys = validation.missing(arguments.only_folds)
        work = functools.partial(run_folds, arguments)
        code = jobs.side_by_side(machine, keys, work, validation.publish)
    evaluation = validation.publish(functools.partial(_draw, arguments, row))
    say_results(evaluation, arguments.out)
    if arguments.export is not None and evaluation.results:
        say(f"exported: {arguments.out / 'export'}")
    say_missing(validation)
    return code


def run_folds(arguments: Arguments, keys: Iterable[tuple[int, int]]) -> None:
    """Runs the folds that a process of several is handed, and leaves the rest to the first one."""
    from voc2vec_jax.cli.summary import say_busy

    _, validation = _begin(arguments)
    validation.run(keys)
    say_busy(validation)


def _begin(
    arguments: Arguments, finished: "Callable[[FoldResult], None] | None" = None
) -> "tuple[FineTuning, CrossValidation]":
    """Everything up to the first fold; without `finished` it says nothing."""
    # Imported here, so that --help and a wrong flag answer at once.
    from data_pipelines.batches.fine_tuning import CorpusClips
    from voc2vec_jax.checkpoints import loading
    from voc2vec_jax.cli.corpus import open_labelled
    from voc2vec_jax.evaluation.cross_validation import CrossValidation
    from voc2vec_jax.evaluation.csv_files import read_folds
    from voc2vec_jax.evaluation.fine_tuning import FineTuning

    places = DataConfig(
        name=arguments.dataset or DataConfig.name,
        folder=arguments.folder,
        table=arguments.table,
        data_dir=arguments.data_dir,
    )
    store, corpus = open_labelled(places, exclude_bad=arguments.exclude_bad)
    given = None
    if arguments.folds_csv is not None:
        about = corpus.ids, corpus.labels, corpus.groups, corpus.class_names
        given = read_folds(arguments.folds_csv, *about)
    first = corpus.divided(arguments.protocol, arguments.folds, arguments.seeds[0], given)
    folds = len(first.folds)
    for number in arguments.only_folds or ():
        if not 0 <= number < folds:
            raise ConfigError(
                f"--only-folds {number}: there are {folds} folds, numbered from 0 to {folds - 1}"
            )
    encoder = loading.load_encoder(arguments.model)
    row = FineTuning(
        encoder,
        corpus,
        CorpusClips(store),
        arguments.protocol,
        arguments.recipe,
        arguments.out,
        arguments.export,
    )
    if finished is not None:
        say(f"{len(corpus.ids)} clips of {len(corpus.class_names)} classes, {len(corpus.excluded)}"
             f" left out; {folds} folds, {len(arguments.seeds)} seeds")  # fmt: skip
        unused = [seed for seed in given.seeds if seed not in arguments.seeds] if given else []
        if unused:
            say(f"note: {arguments.folds_csv} also has folds of seed {', '.join(map(str, unused))},"
                 " which --seeds does not ask for")  # fmt: skip
    return row, CrossValidation(
        row,
        arguments.model,
        corpus,
        arguments.protocol,
        arguments.out,
        folds=folds,
        seeds=arguments.seeds,
        given=given,
        content={"model_sha256": encoder.sha256},
        settings={**arguments.recipe.settings(), "excluded_clips": len(corpus.excluded)},
        finished=finished or (lambda result: None),
        shared=True,
    )


def _draw(arguments: Arguments, row: "FineTuning", evaluation: "Evaluation") -> None:
    from voc2vec_jax.cli.summary import scores_over_folds
    from voc2vec_jax.evaluation.folds import SELECTION_ON_TEST
    from voc2vec_jax.evaluation.plots import plot_confusion
    from voc2vec_jax.evaluation.report import summarise

    summary = summarise(evaluation)
    plot_confusion(
        summary.confusion,
        evaluation.results[0].classes,
        f"{evaluation.dataset}, {evaluation.protocol}",
        arguments.out / "confusion.png",
    )
    rule = f" [{SELECTION_ON_TEST}]" if evaluation.protocol == "paper" else ""
    row.finish(evaluation, scores_over_folds(summary) + rule)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""

    def work() -> int:
        return evaluate(parse(sys.argv[1:] if argv is None else argv))

    return run(work, stopped="finished folds are kept, the one under way is run anew next time")
