"""What a training run is handed: the corpus of its configuration, planned and batched."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from data_pipelines.pipeline import Batch, batches
from data_pipelines.plan import BatchPlan
from data_pipelines.sources import open_corpus
from data_pipelines.store import FlatStore
from data_pipelines.voc125 import mixture_rates
from voc2vec_jax.config import DataConfig

PLACES = ("name", "folder", "table", "data_dir")
"""Where a corpus lies; it may move without becoming another one."""


@dataclass(frozen=True, eq=False)
class TrainingCorpus:
    """A corpus under a plan; see `voc2vec_jax.trainer.TrainingData`."""

    store: FlatStore
    plan: BatchPlan
    data: DataConfig

    @property
    def fingerprint(self) -> str:
        """Equal if, and only if, every step reads the same samples."""
        rules = {k: v for k, v in asdict(self.data).items() if k not in PLACES}
        identity = json.dumps([self.store.fingerprint, self.plan.seed, rules], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()

    @property
    def batches_per_epoch(self) -> int:
        """Updates in which the whole corpus is heard."""
        return self.plan.batches_per_epoch

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """The batches of the updates from `start_step` up to `stop_step`, in order."""
        return batches(self.store, self.plan, self.data, start_step=start_step, stop_step=stop_step)

    def summary(self) -> str:
        """What is in the corpus, where it lies, and what an epoch hears of it."""
        lines = []
        for directory in self.store.directories:
            report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
            lines.append(
                f"corpus={directory} unreadable_files={len(report['dropped'])}"
                f" ignored_files={report['ignored_files']} (see report.json)"
            )
        return "\n".join([*lines, self.plan.summary()])


def open_training_corpus(data: DataConfig, seed: int) -> TrainingCorpus:
    """Decodes the corpus if this is its first use, and plans its batches.

    Args:
        data: What to read and how to batch it.
        seed: Decides the order of batches and the cuts of long clips.

    Raises:
        ConfigError: No such corpus, or rules that cannot work on it.
        DataError: It cannot be read, or nothing of it is long enough.
    """
    store = open_corpus(data)
    rates = mixture_rates(store, data.mixture_temperature)
    return TrainingCorpus(store, BatchPlan(store.lengths, data, seed, rates), data)
