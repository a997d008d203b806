"""What is learnt. A task builds its model and turns a batch into a loss; the loop does the rest."""

from collections.abc import Callable

from voc2vec_jax.config import Config
from voc2vec_jax.objectives.classify import ClassifyTask, ProbeTask
from voc2vec_jax.objectives.hubert import HubertDraws, HubertTask
from voc2vec_jax.objectives.task import (
    AddsUp,
    Batch,
    HostBatch,
    Judged,
    Metrics,
    Predicts,
    Task,
)
from voc2vec_jax.objectives.wav2vec2 import Draws, Wav2Vec2Task

__all__ = [
    "AddsUp",
    "Batch",
    "ClassifyTask",
    "Draws",
    "HostBatch",
    "HubertDraws",
    "HubertTask",
    "Judged",
    "Metrics",
    "Predicts",
    "ProbeTask",
    "Task",
    "Wav2Vec2Task",
    "build_task",
]

TASKS: dict[str, Callable[[Config], Task]] = {
    "wav2vec2": Wav2Vec2Task,
    "hubert": HubertTask,
    "classify": ClassifyTask,
}


def build_task(config: Config) -> Task:
    """The task that `config.task` names."""
    return TASKS[config.task](config)
