"""Fine-tune one model on one labelled corpus, fold by fold, and score it on clips it never saw.

Each fold starts from the same pre-trained encoder with a fresh classifier. Run the same command
again to go on: finished folds are read, the others are run.

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

from voc2vec_jax.cli.train import BAD_DATA, DONE, PREEMPTED, WRONG_USAGE
from voc2vec_jax.config import ConfigError, DataConfig
from voc2vec_jax.evaluation.folds import Protocol
from voc2vec_jax.evaluation.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    from data_pipelines.stores.flat_store import FlatStore
    from voc2vec_jax.evaluation.cross_validation import LabelledCorpus
    from voc2vec_jax.evaluation.fine_tuning import FineTuning
    from voc2vec_jax.evaluation.results import Evaluation, FoldResult

SHOWN_FILES = 20


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    model: str
    """Encoder to fine-tune: a Hugging Face folder, a fairseq `.pt`, a run's working directory, or a
    hub id (`hf:org/name`). A classifier that it may have is not used."""
    out: Path
    """Gets `results.json`, `confusion.png`, the folds and their curves; an evaluation in it is gone
    on with."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    dataset: str | None = None
    """A prepared dataset, or `synthetic`."""
    folder: str | None = None
    """Recordings in one folder for each class, instead of a dataset."""
    table: str | None = None
    """CSV with the columns `path`, `label` and, if known, `group`, instead of a dataset."""
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


def open_corpus(
    data: DataConfig, *, exclude_bad: bool = False
) -> "tuple[FlatStore, LabelledCorpus]":
    """Decodes the corpus that `data` names if this is its first use.

    Raises:
        ConfigError: No such corpus.
        DataError: It cannot be read, or a file of it cannot, and it is not to be excluded.
    """
    from data_pipelines.batches.fine_tuning import dropped_files
    from data_pipelines.corpora import sources
    from data_pipelines.stores.building import DataError, from_int16
    from voc2vec_jax.evaluation.cross_validation import LabelledCorpus

    store = sources.open_corpus(data, classes=True)
    dropped = dropped_files(store)
    if dropped and not exclude_bad:
        lines = [f"  {drop['file']}: {drop['reason']}" for drop in dropped[:SHOWN_FILES]]
        if len(dropped) > SHOWN_FILES:
            lines.append(f"  … and {len(dropped) - SHOWN_FILES} more (report.json has them all)")
        raise DataError(
            f"{len(dropped)} files cannot be used:\n" + "\n".join(lines) + "\nmend or remove them "
            "(then they are read again), or leave them out with --exclude-bad"
        )
    own = data.folder or data.table
    return store, LabelledCorpus(
        name=Path(own).stem if own else data.name.replace("/", "-"),
        ids=store.ids,
        labels=store.labels,
        groups=store.groups,
        class_names=store.class_names,
        fingerprint=store.fingerprint,
        waveforms=lambda: (
            from_int16(store.read(clip, 0, int(length)))
            for clip, length in enumerate(store.lengths)
        ),
        excluded=dropped,
    )


def evaluate(arguments: Arguments) -> "Evaluation":
    """Runs what is missing.

    Raises:
        ConfigError, DataError, CheckpointError, ConversionError, ResultsError, UnlabelledError,
            TrainingDivergedError, PreemptedError: See the exit codes.
    """
    # Imported here, so that --help and a wrong flag answer at once.
    from data_pipelines.batches.fine_tuning import CorpusClips
    from voc2vec_jax.checkpoints import loading
    from voc2vec_jax.checkpoints.source import read_source
    from voc2vec_jax.evaluation.cross_validation import cross_validate
    from voc2vec_jax.evaluation.fine_tuning import FineTuning
    from voc2vec_jax.models.architectures import ENCODERS

    places = DataConfig(
        name=arguments.dataset or DataConfig.name,
        folder=arguments.folder,
        table=arguments.table,
        data_dir=arguments.data_dir,
    )
    store, corpus = open_corpus(places, exclude_bad=arguments.exclude_bad)
    family = read_source(arguments.model).config.model_type
    encoder = loading.from_pretrained(arguments.model, architecture=ENCODERS[family])
    row = FineTuning(
        encoder,
        corpus,
        CorpusClips(store),
        arguments.protocol,
        arguments.recipe,
        arguments.out,
        arguments.export,
    )
    _say(f"{len(corpus.ids)} clips of {len(corpus.class_names)} classes, {len(corpus.excluded)}"
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
        _say(f"note: {warning}")
    if evaluation.excluded:
        _say(f"note: {len(evaluation.excluded)} files could not be read and were left out")
    marked = f" [{SELECTION_ON_TEST}]" if arguments.protocol == "paper" else ""
    _say(f"{evaluation.folds_run} folds{marked}: {scores}\ndone: {out / 'results.json'}")
    if arguments.export:
        row.finish_card(f"{scores}{marked}")
        _say(f"exported: {out / 'export'}")


def _say_fold(protocol: Protocol, result: "FoldResult") -> None:
    from voc2vec_jax.evaluation.scores import confusion, scores_of

    counts = confusion(result.labels, result.predictions, len(result.classes))
    scores = scores_of(counts, protocol)
    facts = result.facts
    _say(
        f"seed {result.seed} fold {result.fold}: clips={len(result.clip_ids)} uar={scores.uar:.3f}"
        f" macro_f1={scores.macro_f1:.3f} best_epoch={facts['best_epoch']}/{facts['epochs']}"
        f" {facts['selected_by']}={facts['selection_score']:.3f} seconds={facts['seconds']}"
        f" programs={facts['compiled_programs']}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _exit_code(error: Exception) -> int | None:
    """The documented exit code of an expected error; None for a bug, which keeps its traceback."""
    from voc2vec_jax.cli.train import exit_code
    from voc2vec_jax.evaluation.folds import UnlabelledError
    from voc2vec_jax.evaluation.results import ResultsError

    if isinstance(error, UnlabelledError | ResultsError):
        return BAD_DATA
    return exit_code(error)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""
    try:
        evaluate(parse(sys.argv[1:] if argv is None else argv))
    except ConfigError as error:
        _say(f"error: {error}")
        return WRONG_USAGE
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        if code == PREEMPTED:
            _say("stopped: finished folds are kept, the one under way is run anew next time")
        else:
            _say(f"error: {error}")
        return code
    return DONE
