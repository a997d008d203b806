"""What every run is handed: a corpus under a plan, with the clips that are held out."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Generic, TypeVar

from data_pipelines.batches.augment import Augmentation
from data_pipelines.batches.clip_plan import ClipPlan
from data_pipelines.batches.pipeline import ALL_ROWS, Share
from data_pipelines.batches.window_plan import WindowPlan
from data_pipelines.stores.flat_store import FlatStore
from voc2vec_jax.config import DataConfig

Plan = TypeVar("Plan", WindowPlan, ClipPlan)
PLACES = ("name", "folder", "table", "data_dir")
"""Where a corpus lies; it may move without becoming another one."""
ALWAYS_COUNTED = (
    *("mixture_temperature", "normalize", "min_seconds", "max_seconds", "bucket_seconds"),
    *("batch_seconds", "batch_clips", "batch_multiple", "gain_db", "noise_snr_db", "eval_share"),
    *("labels", "label_rate_hz", "label_alignment"),
)
"""The fields that the first runs knew. A later one counts only where it has another value than its
default, so that a run which did not know it goes on."""


def counted_rules(data: DataConfig, *left_out: str) -> dict[str, Any]:
    """What of a configuration belongs into the fingerprint of the batches that it makes."""
    defaults = {field.name: field.default for field in fields(data)}
    return {
        name: value
        for name, value in asdict(data).items()
        if name not in PLACES + left_out and (name in ALWAYS_COUNTED or value != defaults[name])
    }


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedCorpus(Generic[Plan]):
    """A corpus under a plan; see `training.starting_point.TrainingData`."""

    store: FlatStore
    data: DataConfig
    plan: Plan
    eval_plan: Plan | None = None
    """Of the clips that are held out, if any are."""
    share: Share = ALL_ROWS
    """The rows of each batch that this process reads."""

    @property
    def batches_per_epoch(self) -> int:
        """Updates in which everything is heard once."""
        return self.plan.batches_per_epoch

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Clips in a batch, each number that occurs."""
        plans = (self.plan, self.eval_plan) if self.eval_plan else (self.plan,)
        return tuple(sorted({rows for plan in plans for rows, _ in plan.shapes}))

    @property
    def padded_samples(self) -> tuple[int, ...]:
        """Samples in a row of a batch, each number that occurs in training."""
        return tuple(samples for _, samples in self.plan.shapes)

    @property
    def eval_padded_samples(self) -> tuple[int, ...]:
        """The same of held-out batches."""
        return tuple(samples for _, samples in self.eval_plan.shapes) if self.eval_plan else ()

    @property
    def corpus_hours(self) -> float:
        """Duration of what an epoch hears."""
        return self.plan.heard_seconds_per_epoch / 3600

    @property
    def augmentation(self) -> Augmentation | None:
        """How the sound is changed in training; None if it is not."""
        if not (self.data.gain_db or self.data.noise_snr_db):
            return None
        return Augmentation(self.plan.seed, self.data.gain_db, self.data.noise_snr_db)
