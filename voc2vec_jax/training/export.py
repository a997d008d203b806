"""What a finished run leaves to the world: its curves and its model."""

import sys
from pathlib import Path

from voc2vec_jax.checkpoints import model_card, pretrained, saving
from voc2vec_jax.config import Config
from voc2vec_jax.models.parameters import Params
from voc2vec_jax.objectives import Task
from voc2vec_jax.training.first_step import peak_memory_mib
from voc2vec_jax.training.log import curves
from voc2vec_jax.training.log.metrics_file import read_events, read_metrics


def export_run(config: Config, task: Task, corpus: str, params: Params, workdir: Path) -> None:
    """Writes `curves.png` and `export/`, and says where they are.

    Args:
        config: The run.
        task: Its objective.
        corpus: The name of what it was trained on, for the model card.
        params: By path, whole.
        workdir: Has its `metrics.jsonl`.
    """
    metrics = workdir / "metrics.jsonl"
    alarms = [event["step"] for event in read_events(metrics, "collapse_alarm")]
    curves.plot_metrics(read_metrics(metrics), workdir / "curves.png", alarms)
    saving.save_pretrained(
        pretrained.PretrainedModel(
            task.architecture,
            config.model,
            params,
            preprocessor=pretrained.Preprocessor.of_training(config.data.normalize),
        ),
        workdir / "export",
        facts=model_card.facts_of_run(config, corpus),
        trained_padding=config.classify.padding if config.task == "classify" else "masked",
    )
    print(
        f"done: {workdir / 'export'} (Hugging Face folder), {workdir / 'curves.png'}, "
        f"{metrics}; peak memory {peak_memory_mib()} MiB",
        file=sys.stderr,
        flush=True,
    )
