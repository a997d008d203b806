"""What `evaluate` says: a line for each fold, and at the end for each class and for all."""

from pathlib import Path

from voc2vec_jax.cli.command import say
from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.evaluation.cross_validation import CrossValidation
from voc2vec_jax.evaluation.folds import SELECTION_ON_TEST
from voc2vec_jax.evaluation.report import Summary, summarise
from voc2vec_jax.evaluation.results import Evaluation, FoldResult
from voc2vec_jax.scores import confusion, scores_of


def say_fold(protocol: Protocol, result: FoldResult) -> None:
    """The scores of a fold, and how it came by them."""
    counts = confusion(result.labels, result.predictions, len(result.classes))
    scores = scores_of(counts, protocol)
    facts = result.facts
    say(
        f"seed {result.seed} fold {result.fold}: clips={len(result.clip_ids)} uar={scores.uar:.3f}"
        f" macro_f1={scores.macro_f1:.3f} best_epoch={facts['best_epoch']}/{facts['epochs']}"
        f" {facts['selected_by']}={facts['selection_score']:.3f} seconds={facts['seconds']}"
        f" programs={facts['compiled_programs']}"
    )


def say_results(evaluation: Evaluation, out: Path) -> None:
    """What a reader has to know, each class, and the scores over folds."""
    for warning in evaluation.warnings:
        say(f"note: {warning}")
    if evaluation.excluded:
        say(f"note: {len(evaluation.excluded)} files could not be read and were left out")
    if not evaluation.results:
        return
    summary = summarise(evaluation)
    for name, one in zip(evaluation.results[0].classes, summary.per_class, strict=True):
        shares = {"precision": one.precision, "recall": one.recall, "f1": one.f1}
        cells = " ".join(f"{k}={'–' if v is None else f'{v:.3f}'}" for k, v in shares.items())
        say(f"class {name}: {cells} tested={one.tested}")
    marked = f" [{SELECTION_ON_TEST}]" if evaluation.protocol == "paper" else ""
    say(f"{evaluation.folds_run} folds{marked}: {scores_over_folds(summary)}")
    say(f"done: {out / 'results.json'}")


def say_missing(validation: CrossValidation) -> None:
    """Which folds there are no results of, and who is at work on them as far as is known."""
    missing = validation.missing()
    if missing:
        folds = ", ".join(f"fold {number} of seed {seed}" for seed, number in missing)
        say(f"note: {len(missing)} folds are not there yet: {folds}")
    say_busy(validation)


def say_busy(validation: CrossValidation) -> None:
    """Who is at work on the folds that were left to others."""
    for why in validation.busy.values():
        say(f"note: left to others: {why}")


def scores_over_folds(summary: Summary) -> str:
    """Means and deviations, and the scores of all predictions together."""
    return ", ".join(
        f"{name} {spread.mean:.3f} ± {spread.std:.3f} (pooled {getattr(summary.pooled, name):.3f})"
        for name, spread in summary.folds.items()
    )
