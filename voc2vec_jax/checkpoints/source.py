"""Checkpoints of any kind, as one thing: an architecture, a configuration and named tensors."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.checkpoints import hubert_head
from voc2vec_jax.checkpoints.formats.fairseq import read_fairseq
from voc2vec_jax.checkpoints.formats.huggingface import read_safetensors, read_tensors
from voc2vec_jax.checkpoints.hf_config import config_from_hf
from voc2vec_jax.checkpoints.orbax import find_checkpoints, read_weights
from voc2vec_jax.checkpoints.pretrained import Preprocessor
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.errors import CheckpointError, ConfigError

ALLOWED_FILES = ("*.json", "model*.safetensors", hubert_head.FILE)
ALLOWED_WITHOUT_SAFETENSORS = ("pytorch_model*.bin",)


@dataclass(frozen=True)
class CheckpointSource:
    """What a checkpoint holds, whatever wrote it."""

    place: Path
    """Its folder or file, for messages."""
    architecture: str
    """Name of its class, such as `Wav2Vec2ForPreTraining`."""
    config: ModelConfig
    preprocessor: Preprocessor
    tensors: Mapping[str, np.ndarray]
    """By Hugging Face name, in Hugging Face's layout."""
    left_behind: tuple[str, ...] = ()
    """Names in the file of what no model here has a place for."""
    old_weighted_sum: bool = False
    """Whether it was saved by a transformers release with the older last hidden state, by a
    model whose output that changes."""


def read_source(location: str | os.PathLike[str], revision: str | None = None) -> CheckpointSource:
    """Reads a checkpoint.

    Args:
        location: A Hugging Face folder, a fairseq file (`.pt`), a training run's working
            directory or its `checkpoints` (Orbax), or a hub id.
        revision: Branch, tag or commit of the hub repository.

    Raises:
        CheckpointError: A missing, unreadable or unsupported file.
        ConfigError: It describes no supported model.
    """
    place = resolve(location, revision)
    if place.is_file():
        return _from_fairseq(place)
    checkpoints = find_checkpoints(place)
    return _from_orbax(checkpoints) if checkpoints else _from_hf_folder(place)


def resolve(location: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The local folder or file of a checkpoint; a hub id is downloaded into the hub's cache.

    The cache lies where `HF_HOME` or `HF_HUB_CACHE` say. What is in it serves without a
    connection; `HF_HUB_OFFLINE=1` does not even try one.

    Raises:
        CheckpointError: Neither a path nor a reachable hub id.
    """
    text = os.fspath(location)
    if text and not text.startswith("hf:") and Path(text).exists():
        if Path(text).is_file() and Path(text).suffix != ".pt":
            raise CheckpointError(
                f"{text}: is a file; give the folder that holds it, or a fairseq checkpoint (.pt)"
            )
        return Path(text)
    repository = text.removeprefix("hf:")
    if text.startswith((".", "/", "~")) or repository.count("/") > 1 or not repository:
        raise CheckpointError(f"{text!r}: no such folder, and not a hub id (org/name)")
    # Imported here: it costs a second that local work need not pay.
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(repository, revision=revision, allow_patterns=list(ALLOWED_FILES))
        )
        if not any(folder.glob(ALLOWED_FILES[1])):
            snapshot_download(
                repository, revision=revision, allow_patterns=list(ALLOWED_WITHOUT_SAFETENSORS)
            )
        return folder
    except Exception as error:  # its HTTP library, and that one's errors, change between releases
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{text}: no such folder, and the Hugging Face hub did not give it ({reason}); give a "
            "folder, or check the id and the connection"
        ) from None


def _from_hf_folder(folder: Path) -> CheckpointSource:
    path = folder / "config.json"
    fields = read_json(path)
    try:
        config = config_from_hf(fields)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    names = fields.get("architectures") or [_encoder_name(config)]
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise CheckpointError(f"{path}: architectures={names!r}; must be a list of a class name")
    architecture, tensors = names[0], read_tensors(folder)
    left_behind: tuple[str, ...] = ()
    head = folder / hubert_head.FILE
    if head.is_file():
        if architecture == hubert_head.ENCODER:
            architecture = hubert_head.WITH_HEAD
            tensors = hubert_head.WithHead(tensors, read_safetensors(head))
        else:  # of what the folder held before
            left_behind = (head.name,)
    return CheckpointSource(
        place=folder,
        architecture=architecture,
        config=config,
        preprocessor=_read_preprocessor(folder, config),
        tensors=tensors,
        left_behind=left_behind,
        old_weighted_sum=(
            config.use_weighted_layer_sum
            and config.do_stable_layer_norm
            and str(fields.get("transformers_version", "")).startswith("4.")
        ),
    )


def _encoder_name(config: ModelConfig) -> str:
    return {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel"}[config.model_type]


def _read_preprocessor(folder: Path, config: ModelConfig) -> Preprocessor:
    path = folder / "preprocessor_config.json"
    fields = read_json(path) if path.is_file() else {}
    rate = fields.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise CheckpointError(f"{path}: sampling_rate={rate}; only {SAMPLE_RATE} is supported")
    values = {
        "do_normalize": fields.get("do_normalize", True),
        "return_attention_mask": fields.get(
            "return_attention_mask", config.feat_extract_norm == "layer"
        ),
    }
    for name, value in values.items():
        if type(value) is not bool:
            raise CheckpointError(f"{path}: {name}={value!r}; must be true or false")
    return Preprocessor(**values)


def _from_fairseq(path: Path) -> CheckpointSource:
    checkpoint = read_fairseq(path)
    try:
        config = config_from_hf(checkpoint.config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return CheckpointSource(
        place=path,
        architecture=checkpoint.architecture,
        config=config,
        preprocessor=Preprocessor(
            do_normalize=checkpoint.normalize,
            return_attention_mask=config.feat_extract_norm == "layer",
        ),
        tensors=checkpoint.tensors,
        left_behind=checkpoint.left_behind,
    )


def _from_orbax(directory: Path) -> CheckpointSource:
    saved = read_weights(directory)
    return CheckpointSource(
        place=directory,
        architecture=saved.architecture,
        config=saved.config,
        preprocessor=saved.preprocessor,
        tensors=saved.tensors,
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: No such file, or something else in it.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; is this a Hugging Face folder?") from None
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: holds {type(fields).__name__}, expected an object")
    return fields
