"""Labelled clips for fine-tuning: batches in which every clip counts once an epoch.

No TensorFlow: such corpora are small, and a batch takes milliseconds.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_pipelines.batches.augment import Augmentation
from data_pipelines.batches.clip_plan import ClipPlan, Ints
from data_pipelines.batches.pipeline import assemble
from data_pipelines.batches.planned_corpus import PlannedCorpus, counted_rules
from data_pipelines.batches.window_plan import long_enough
from data_pipelines.corpora.held_out import held_out
from data_pipelines.corpora.sources import open_corpus
from data_pipelines.stores.flat_store import FlatStore
from data_pipelines.stores.report import read_report
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.config import Config, ModelConfig
from voc2vec_jax.errors import ConfigError, DataError

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledClips(PlannedCorpus[ClipPlan]):
    """Clips to train on and clips to judge by; see `training.starting_point.TrainingData`.

    Batches have `labels` [B] int32, `weight` [B] float32 and `clips` [B] int32, the index in the
    corpus, besides `lengths` and either `waveform` or `features`.
    """

    labels: Ints
    """[clips of the corpus] class, in the order of the model's logits; -1 where unknown."""
    class_weights: NDArray[np.float32]
    """[classes] what a clip of each class counts."""
    features: NDArray[np.float32] | None = None
    """[clips of the corpus, K, D] in place of samples, for a frozen encoder."""

    @property
    def fingerprint(self) -> str:
        """Equal if, and only if, every step reads the same."""
        rules = counted_rules(self.data)
        facts = [self.store.fingerprint, self.plan.seed, self.plan.heard, rules]
        facts += [self.labels.tolist(), self.class_weights.tolist()]
        over_heard = self.features is None and self._normalize(self.plan) == "heard"
        if over_heard and self.store.lengths.max() > self.plan.longest:
            facts.append("normalised over what is heard")  # not so at first
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def batches(self, start_step: int, stop_step: int) -> Iterator[Arrays]:
        """The batches of the updates from `start_step` up to `stop_step`, in order."""
        plan, change = self.plan, self.augmentation
        return (self._arrays(plan, step, change) for step in range(start_step, stop_step))

    def eval_batches(self) -> Iterator[Arrays]:
        """The held-out clips, always in the same batches."""
        if self.eval_plan is None:
            return iter(())
        plan = self.eval_plan
        return (self._arrays(plan, step) for step in range(plan.batches_per_epoch))

    def _normalize(self, plan: ClipPlan) -> str:
        """How: where only the beginning of a clip is heard, the clip ends there."""
        cut = plan.heard == "first" and self.data.normalize == "clip"
        return "heard" if cut else self.data.normalize

    def _arrays(self, plan: ClipPlan, step: int, change: Augmentation | None = None) -> Arrays:
        whole = plan.batch(step)
        numbers = self.share.rows(len(whole.clips))
        batch = whole.rows(numbers)
        labels = self.labels[batch.clips]
        arrays: Arrays = {
            "lengths": batch.lengths,
            "labels": labels,
            "weight": np.where(batch.real, self.class_weights[labels], 0).astype(np.float32),
            "clips": batch.clips,
        }
        if self.features is None:
            waveform = assemble(self.store, batch, self._normalize(plan), change, numbers)
            return {"waveform": waveform, **arrays}
        return {"features": self.features[batch.clips], **arrays}

    def summary(self) -> str:
        """What is trained on."""
        shapes = ", ".join(f"{rows}x{s / SAMPLE_RATE:g}s" for rows, s in self.plan.shapes)
        held = self.eval_plan.clips if self.eval_plan else 0
        return (
            f"corpus={self.store.name} clips={self.plan.clips} held_out={held}"
            f" corpus_hours={self.corpus_hours:.3f} batches_per_epoch={self.batches_per_epoch}\n"
            f"shapes={shapes}"
        )


def class_weights(
    labels: Ints, classes: int, kind: Literal["balanced", "none"]
) -> NDArray[np.float32]:
    """What a clip of each class counts, [classes] float32; 1 for a class that has no clip.

    `balanced`: n / (k · n_c) for n clips in the k classes that occur, as scikit-learn has it.
    """
    counts = np.bincount(labels, minlength=classes)
    if kind == "none":
        return np.ones(classes, np.float32)
    weights = len(labels) / ((counts > 0).sum() * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 1).astype(np.float32)


def labelled_clips(
    config: Config,
    store: FlatStore,
    train: Ints,
    held: Ints | None,
    labels: Ints,
    features: NDArray[np.float32] | None = None,
) -> LabelledClips:
    """Clips to train on and to judge by, under the rules of a configuration.

    Args:
        config: The run.
        store: The corpus.
        train: Index of the clips to train on.
        held: Index of the clips to judge by, if any.
        labels: [clips of the corpus] class, in the order of `config.model.labels`.
        features: See `LabelledClips`.
    """
    first = config.classify.crop == "first" or features is not None
    eval_plan = None if held is None else evaluation_plan(config, store, held, first=first)
    plan = ClipPlan(
        store.lengths,
        train,
        config.data,
        config.train.seed,
        heard="first" if first else "crop",
        shuffled=True,
    )
    weights = class_weights(labels[train], len(config.model.labels), config.classify.class_weights)
    return LabelledClips(
        store=store,
        data=config.data,
        plan=plan,
        eval_plan=eval_plan,
        labels=labels,
        class_weights=weights,
        features=features,
    )


def evaluation_plan(config: Config, store: FlatStore, clips: Ints, *, first: bool) -> ClipPlan:
    """One epoch of clips in a fixed order: their beginnings, or all of them in windows."""
    return ClipPlan(
        store.lengths,
        clips,
        config.data,
        config.train.seed,
        heard="first" if first else "windows",
        shuffled=False,
    )


def open_labelled_corpus(config: Config) -> tuple[Config, LabelledClips]:
    """The corpus of a configuration, with `data.eval_share` of its groups held out.

    Returns:
        The configuration, with the classes of the corpus for `model.labels` where those are the
        default, and the clips.

    Raises:
        ConfigError: No such corpus, or its classes are not `model.labels`.
        DataError: It cannot be read, or holds no labelled clip.
    """
    store = open_corpus(config.data, classes=True)
    if config.model.labels == ModelConfig().labels and store.class_names:
        model = dataclasses.replace(config.model, labels=tuple(store.class_names))
        config = dataclasses.replace(config, model=model)
    check_labels(config, store)
    usable = long_enough(store.lengths, config.data) & (store.labels >= 0)
    if not usable.any():
        raise DataError(f"{store.name}: no clip of it has a label; fine-tuning needs classes")
    held = None
    if config.data.eval_share > 0:
        share, seed = config.data.eval_share, config.train.seed
        chosen = held_out(store.ids, store.groups, usable, share, seed)
        usable, held = usable & ~chosen, np.flatnonzero(chosen)
    return config, labelled_clips(config, store, np.flatnonzero(usable), held, store.labels)


def check_labels(config: Config, store: FlatStore) -> None:
    """Refuses a model whose classes are not those of the corpus, in its order.

    Raises:
        ConfigError: Naming both.
    """
    if list(config.model.labels) != store.class_names:
        raise ConfigError(
            f"model.labels={list(config.model.labels)[:10]}: the corpus has the classes"
            f" {store.class_names[:10]}; give these, or leave model.labels at its default"
        )


@dataclass(frozen=True, eq=False)
class CorpusClips:
    """A corpus as `voc2vec_jax.evaluation.fine_tuning` wants it."""

    store: FlatStore

    def fold(
        self,
        config: Config,
        train: Ints,
        held: Ints,
        labels: Ints,
        features: NDArray[np.float32] | None = None,
    ) -> LabelledClips:
        """See `labelled_clips`."""
        return labelled_clips(config, self.store, train, held, labels, features)

    def judged(
        self,
        config: Config,
        clips: Ints,
        labels: Ints,
        features: NDArray[np.float32] | None = None,
    ) -> Iterator[Arrays]:
        """Batches in which each of some clips is heard once, as in evaluation."""
        held = labelled_clips(config, self.store, clips, clips, labels, features)
        return held.eval_batches()


LeftOut = dict[str, tuple[dict[str, str], ...]]
"""`file` and `reason` of files of a corpus that are no clips: those that could not be read or
understood (`dropped`), `copies` of others, and what was `excluded` on purpose."""


def left_out(store: FlatStore) -> LeftOut:
    """What was left out when the corpus was decoded, by `report.json`."""
    reports = [read_report(directory) for directory in store.directories]
    kinds = ("dropped", "copies", "excluded")
    return {kind: tuple(drop for report in reports for drop in report[kind]) for kind in kinds}
