"""A model's weights in Orbax: those of a training run, and those that are converted to it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from voc2vec_jax.checkpoints import convert
from voc2vec_jax.checkpoints.orbax import Checkpoints
from voc2vec_jax.checkpoints.pretrained import Preprocessor, PretrainedModel
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.errors import CheckpointError, ConfigError
from voc2vec_jax.models.architectures import CLASSIFIERS

ARCHITECTURE_OF_TASK = {"wav2vec2": "Wav2Vec2ForPreTraining", "hubert": "HubertForPreTraining"}


@dataclass(frozen=True)
class OrbaxWeights:
    """Weights with what is needed to use them."""

    architecture: str
    config: ModelConfig
    preprocessor: Preprocessor
    tensors: dict[str, np.ndarray]
    """By Hugging Face name."""


def find_checkpoints(folder: Path) -> Path | None:
    """The folder of Orbax checkpoints that `folder` is or, as a working directory, holds."""
    if (folder / "checkpoints").is_dir():
        return folder / "checkpoints"
    is_one = any(child.name.isdecimal() and (child / "state").is_dir() for child in _list(folder))
    return folder if is_one else None


def _list(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def read(directory: Path) -> OrbaxWeights:
    """The newest weights in a folder of checkpoints; optimiser state is not read.

    Raises:
        CheckpointError: None there, or a damaged one.
    """
    with Checkpoints(directory, keep=None) as checkpoints:
        step = checkpoints.latest_step()
        if step is None:
            raise CheckpointError(f"{directory}: holds no finished checkpoint")
        try:
            meta = checkpoints.read_meta(step)
            params = checkpoints.restore_params(step)
            return OrbaxWeights(
                architecture=_architecture(meta),
                config=ModelConfig(**meta["config"]["model"]),
                preprocessor=_preprocessor(meta),
                tensors=convert.to_hf(params),
            )
        except ConfigError as error:
            raise ConfigError(f"{directory / str(step)}: {error}") from None
        except (KeyError, TypeError, ValueError, OSError) as error:
            reason = f"{type(error).__name__}: {error}".split("\n")[0][:300]
            raise CheckpointError(
                f"{directory / str(step)}: not a whole checkpoint of voc2vec_jax ({reason})"
            ) from None


def _architecture(meta: Mapping[str, Any]) -> str:
    if "architecture" in meta:
        return str(meta["architecture"])
    config = meta["config"]
    if config["task"] == "classify":
        return CLASSIFIERS[config["model"]["model_type"]].__name__
    return ARCHITECTURE_OF_TASK[config["task"]]


def _preprocessor(meta: Mapping[str, Any]) -> Preprocessor:
    if "preprocessor" in meta:
        return Preprocessor(**meta["preprocessor"])
    return Preprocessor.of_training(meta["config"]["data"]["normalize"])


def write(model: PretrainedModel, directory: Path) -> None:
    """Writes a model as the only checkpoint of a folder, for `from_pretrained` and `--init-from`.

    Raises:
        CheckpointError: The folder holds something already.
        CheckpointWriteError: It could not be written.
    """
    if _list(directory):
        raise CheckpointError(f"{directory}: is not empty; give a new folder")
    meta = {
        "architecture": model.architecture.__name__,
        "config": {"model": asdict(model.config)},
        "preprocessor": asdict(model.preprocessor),
        "versions": {"jax": jax.__version__, "orbax": ocp.__version__},
    }
    directory.mkdir(parents=True, exist_ok=True)
    with Checkpoints(directory, keep=1) as checkpoints:
        checkpoints.save(0, {"params": model.params}, meta)
