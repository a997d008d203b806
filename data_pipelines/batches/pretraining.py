"""What a pre-training run is handed: the corpus of its configuration, planned and batched."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines.batches.augment import Augmentation
from data_pipelines.batches.frame_targets import FrameTargets, open_targets
from data_pipelines.batches.pipeline import Batch, Joined, PlanColumn, batches
from data_pipelines.batches.planned_corpus import PlannedCorpus, counted_rules
from data_pipelines.batches.window_plan import WindowPlan, long_enough
from data_pipelines.corpora.held_out import held_out
from data_pipelines.corpora.sources import open_corpus
from data_pipelines.corpora.voc125 import mixture_rates
from data_pipelines.stores.report import read_report
from voc2vec_jax.audio.frame_grid import CONV_KERNELS, CONV_STRIDES
from voc2vec_jax.config import DataConfig

LABEL_FIELDS = ("labels", "label_rate_hz", "label_alignment")
"""What they bring about is in the fingerprint of what is joined."""


OF_HELD_OUT = (PlanColumn("window", "windows"), PlanColumn("weight", "real"))
"""What is drawn for a held-out window follows from its number; rows that fill up weigh 0."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingCorpus(PlannedCorpus[WindowPlan]):
    """A corpus under a plan; see `training.starting_point.TrainingData`."""

    joined: tuple[Joined, ...] = ()
    """What goes along with the samples."""

    @property
    def fingerprint(self) -> str:
        """Equal if, and only if, every step reads the same samples."""
        rules = counted_rules(self.data, *LABEL_FIELDS)
        facts = [self.store.fingerprint, self.plan.seed, rules]
        facts += [[item.name, item.fingerprint] for item in self.joined]
        identity = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """The batches of the updates from `start_step` up to `stop_step`, in order."""
        return self._batches(self.plan, self.joined, start_step, stop_step, self.augmentation)

    def eval_batches(self) -> Iterator[Batch]:
        """The held-out clips in the same windows whatever the size of batches.

        With `window` int32 [b] and `weight` int32 [b], which is 0 for the rows that fill up the
        last batch of each length.
        """
        if self.eval_plan is None:
            return iter(())
        joined = (*self.joined, *OF_HELD_OUT)
        return self._batches(self.eval_plan, joined, 0, self.eval_plan.batches_per_epoch)

    def _batches(
        self,
        plan: WindowPlan,
        joined: Sequence[Joined],
        start_step: int,
        stop_step: int,
        augmentation: Augmentation | None = None,
    ) -> Iterator[Batch]:
        return batches(
            self.store,
            plan,
            self.data,
            joined=joined,
            augmentation=augmentation,
            start_step=start_step,
            stop_step=stop_step,
            share=self.share,
        )

    def summary(self) -> str:
        """What is in the corpus, where it lies, and what an epoch hears of it."""
        lines = []
        for directory in self.store.directories:
            report = read_report(directory)
            lines.append(
                f"corpus={directory} unreadable_files={len(report['dropped'])}"
                f" copies={len(report['copies'])} excluded_files={len(report['excluded'])}"
                f" ignored_files={report['ignored_files']} (see report.json)"
            )
        lines.append(self.plan.summary())
        if self.eval_plan is not None:
            lines.append(f"held out: {self.eval_plan.summary()}")
        lines += [item.labels.summary() for item in self.joined if isinstance(item, FrameTargets)]
        return "\n".join(lines)


def open_training_corpus(
    data: DataConfig,
    seed: int,
    *,
    conv_kernel: Sequence[int] = CONV_KERNELS,
    conv_stride: Sequence[int] = CONV_STRIDES,
    clusters: int | None = None,
) -> TrainingCorpus:
    """Decodes the corpus if this is its first use, and plans its batches.

    Args:
        data: What to read and how to batch it.
        seed: Decides the order of batches, the cuts of long clips and what is held out.
        conv_kernel: Of the model that is trained; matters, like `conv_stride`, to `data.labels`.
        conv_stride: See there.
        clusters: How many the labels must have; None for any number.

    Raises:
        ConfigError: No such corpus, or rules that cannot work on it, or labels of another kind.
        DataError: It cannot be read, nothing of it is long enough, or clips have no labels.
    """
    store = open_corpus(data)
    rates = mixture_rates(store, data.mixture_temperature)
    usable = long_enough(store.lengths, data)
    joined: tuple[Joined, ...] = ()
    if data.labels is not None:
        targets = open_targets(
            Path(data.labels).expanduser(),
            store,
            usable,
            conv_kernel=conv_kernel,
            conv_stride=conv_stride,
            clusters=clusters,
            rate_hz=data.label_rate_hz,
            alignment=data.label_alignment,
        )
        joined = (targets,)
    if data.eval_share == 0 or not np.any(usable):
        plan = WindowPlan(store.lengths, data, seed, rates)
        return TrainingCorpus(store=store, data=data, plan=plan, joined=joined)
    held = held_out(store.ids, store.groups, usable, data.eval_share, seed)
    return TrainingCorpus(
        store=store,
        data=data,
        plan=WindowPlan(store.lengths, data, seed, rates, ~held),
        eval_plan=WindowPlan(store.lengths, data, seed, chosen=held, fit=True),
        joined=joined,
    )
