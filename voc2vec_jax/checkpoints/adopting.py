"""The architecture of a run that starts from trained weights: theirs, not that of its recipe."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from voc2vec_jax.checkpoints.checksums import newest_whole
from voc2vec_jax.checkpoints.loading import FUNCTION_FIELDS
from voc2vec_jax.checkpoints.metadata import read_metadata, saved_steps
from voc2vec_jax.checkpoints.source import CheckpointSource
from voc2vec_jax.config import Config, ModelConfig
from voc2vec_jax.errors import ConfigError

CODEBOOK = ("num_codevectors_per_group", "num_codevector_groups", "codevector_dim")
HEADS = {
    "wav2vec2": (*CODEBOOK, "proj_codevector_dim"),
    "hubert": ("final_dim", "num_special_classes"),
    "classify": (),
}
"""What weights may decide of the heads of a task. `num_clusters` is decided by the labels."""


@dataclass(frozen=True)
class Architecture:
    """Fields of `model.*` that are decided already, and by what."""

    place: str
    fields: Mapping[str, Any]
    began_with: str | None = None
    """Of a run: the source of its first weights, as `Progress` has it."""


def of_source(held: CheckpointSource, config: Config) -> Architecture:
    """What weights decide that `config` starts from: the encoder, and heads that it keeps."""
    names = list(FUNCTION_FIELDS)
    if config.task == "wav2vec2":
        if "project_hid.weight" in held.tensors:  # kept whatever becomes of the codebook
            names.append("proj_codevector_dim")
        if "quantizer.codevectors" in held.tensors and config.objective.codebook == "keep":
            names += CODEBOOK
    fields = {name: getattr(held.config, name) for name in names}
    if config.task == "hubert":
        if "final_proj.weight" in held.tensors:  # no config.json of transformers says its width
            fields["final_dim"] = int(held.tensors["final_proj.weight"].shape[0])
        if "label_embs_concat" in held.tensors and config.objective.label_embeddings == "keep":
            fields["num_special_classes"] = held.config.num_special_classes
    return Architecture(str(held.place), fields)


def of_run(workdir: Path, task: str) -> Architecture | None:
    """What the checkpoints of a run decide, None if it has none yet; the weights are not read.

    Raises:
        CorruptCheckpointError: None of them is whole.
    """
    directory = workdir / "checkpoints"
    for step in saved_steps(directory):
        meta = read_metadata(directory, step)
        if meta is not None:
            # A field that the run is too old to know had its default.
            then = {**asdict(ModelConfig()), **meta["config"]["model"]}
            names = (*FUNCTION_FIELDS, *HEADS[task])
            fields = {name: then[name] for name in names}
            began_with = meta.get("progress", {}).get("began_with")
            return Architecture(str(directory / str(step)), fields, began_with)
    newest_whole(directory)  # refuses where there are checkpoints, but none whose words are left
    return None


def adopt(
    config: Config, architecture: Architecture, given: Collection[str]
) -> tuple[Config, list[str]]:
    """A configuration with the architecture of weights.

    Args:
        config: The recipe, with what the command line changes in it.
        architecture: What the weights decide.
        given: Fields of `model.*` that stand on the command line.

    Returns:
        The configuration, and a line for each field that had another value.

    Raises:
        ConfigError: The task trains models of another type, or the command line contradicts.
    """
    place, family = architecture.place, architecture.fields["model_type"]
    if config.task not in ("classify", family):
        raise ConfigError(
            f"{place}: holds a {family} model, and task={config.task!r} trains {config.task} ones; "
            f"give a recipe of task={family!r}, or of task='classify' to fine-tune it"
        )
    taken, lines = {}, []
    for name, value in architecture.fields.items():
        theirs, ours = _plain(value), getattr(config.model, name)
        if theirs == ours:
            continue
        if name in given:
            raise ConfigError(
                f"--model.{name.replace('_', '-')}={ours}: {place} has {theirs}; leave the flag "
                "out, or start from other weights"
            )
        taken[name] = theirs
        lines.append(f"model.{name}: {theirs} of the checkpoint, not {ours} of the recipe")
    return replace(config, model=replace(config.model, **taken)), lines


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
