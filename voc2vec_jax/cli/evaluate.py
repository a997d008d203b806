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
  A folder with one folder for each class, the best model exported for transformers:
    python -m voc2vec_jax.evaluate --model runs/mine/export --folder recordings --export \\
        --out eval/mine
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from voc2vec_jax.cli.command import run, say
from voc2vec_jax.config import DataConfig
from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.evaluation.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    from voc2vec_jax.evaluation.fine_tuning import FineTuning
    from voc2vec_jax.evaluation.results import Evaluation, FoldResult


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    model: str
    """Encoder to fine-tune: a Hugging Face folder, a fairseq `.pt`, a run's working directory, or a
    hub id (`hf:org/name`). A classifier that it may have is not used."""
    out: Path
    """Gets `results.json`, `confusion.png`, the folds and their curves. An evaluation in it is
    resumed."""
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
    folds, the epoch is chosen on the fold that is reported, 7 s without a mask."""
    folds: int = 10
    seeds: tuple[int, ...] = (0,)
    """Repetitions: another division into folds (`grouped`), other heads and orders."""
    exclude_bad: bool = False
    """Leave out files that cannot be read, and say so in every output; without it they stop the
    evaluation before it begins."""
    export: bool = False
    """Write the model of the fold with the best selection score to `OUT/export`, for transformers
    too."""


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
    return arguments


def evaluate(arguments: Arguments) -> "Evaluation":
    """Runs what is missing.

    Raises:
        ConfigError, DataError, CheckpointError, ConversionError, ResultsError, UnlabelledError,
            TrainingDivergedError, PreemptedError: See the exit codes.
    """
    # Imported here, so that --help and a wrong flag answer at once.
    from data_pipelines.batches.fine_tuning import CorpusClips
    from voc2vec_jax.checkpoints import loading
    from voc2vec_jax.cli.corpus import open_labelled
    from voc2vec_jax.evaluation.cross_validation import cross_validate
    from voc2vec_jax.evaluation.fine_tuning import FineTuning

    places = DataConfig(
        name=arguments.dataset or DataConfig.name,
        folder=arguments.folder,
        table=arguments.table,
        data_dir=arguments.data_dir,
    )
    store, corpus = open_labelled(places, exclude_bad=arguments.exclude_bad)
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
    say(f"{len(corpus.ids)} clips of {len(corpus.class_names)} classes, {len(corpus.excluded)}"
         f" left out; {arguments.folds} folds, {len(arguments.seeds)} seeds")  # fmt: skip
    evaluation = cross_validate(
        row,
        arguments.model,
        corpus,
        arguments.protocol,
        arguments.out,
        folds=arguments.folds,
        seeds=arguments.seeds,
        settings={**arguments.recipe.settings(), "excluded_clips": len(corpus.excluded)},
        finished=functools.partial(_say_fold, arguments.protocol),
    )
    _finish(arguments, row, evaluation)
    return evaluation


def _finish(arguments: Arguments, row: "FineTuning", evaluation: "Evaluation") -> None:
    from voc2vec_jax.evaluation.folds import SELECTION_ON_TEST
    from voc2vec_jax.evaluation.plots import plot_confusion
    from voc2vec_jax.evaluation.report import summarise

    summary, out = summarise(evaluation), arguments.out
    plot_confusion(
        summary.confusion,
        evaluation.results[0].classes,
        f"{evaluation.dataset}, {evaluation.protocol}",
        out / "confusion.png",
    )
    scores = ", ".join(
        f"{name} {spread.mean:.3f} ± {spread.std:.3f} (pooled {getattr(summary.pooled, name):.3f})"
        for name, spread in summary.folds.items()
    )
    for warning in evaluation.warnings:
        say(f"note: {warning}")
    if evaluation.excluded:
        say(f"note: {len(evaluation.excluded)} files could not be read and were left out")
    marked = f" [{SELECTION_ON_TEST}]" if arguments.protocol == "paper" else ""
    say(f"{evaluation.folds_run} folds{marked}: {scores}\ndone: {out / 'results.json'}")
    if arguments.export:
        row.finish_card(f"{scores}{marked}")
        say(f"exported: {out / 'export'}")


def _say_fold(protocol: Protocol, result: "FoldResult") -> None:
    from voc2vec_jax.scores import confusion, scores_of

    counts = confusion(result.labels, result.predictions, len(result.classes))
    scores = scores_of(counts, protocol)
    facts = result.facts
    say(
        f"seed {result.seed} fold {result.fold}: clips={len(result.clip_ids)} uar={scores.uar:.3f}"
        f" macro_f1={scores.macro_f1:.3f} best_epoch={facts['best_epoch']}/{facts['epochs']}"
        f" {facts['selected_by']}={facts['selection_score']:.3f} seconds={facts['seconds']}"
        f" programs={facts['compiled_programs']}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""

    def work() -> None:
        evaluate(parse(sys.argv[1:] if argv is None else argv))

    return run(work, stopped="finished folds are kept, the one under way is run anew next time")
