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
from voc2vec_jax.checkpoints.hf_config import config_from_hf, label_notes
from voc2vec_jax.checkpoints.orbax import find_checkpoints, read_weights
from voc2vec_jax.checkpoints.pretrained import Preprocessor
from voc2vec_jax.checkpoints.wrappers import Unwrapped, wrapper_of
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.errors import CheckpointError, ConfigError
from voc2vec_jax.models.architectures import CLASSIFIERS, ENCODERS

ALLOWED_FILES = ("*.json", "model*.safetensors", hubert_head.FILE)
ADAPTER = "adapter_config.json"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
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
    notes: tuple[str, ...] = ()
    """Sentences about what it does not say, and what is assumed instead."""
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
    if (folder / ADAPTER).is_file() and not path.is_file():
        raise CheckpointError(
            f"{folder}: is an adapter of PEFT, not a model; merge it into its base model in "
            "PyTorch (merge_and_unload), and save that"
        )
    fields = read_json(path)
    if "quantization_config" in fields:
        raise CheckpointError(
            f"{path}: describes quantised weights, which are not read; save the model in float32, "
            "float16 or bfloat16"
        )
    try:
        config = config_from_hf(fields)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    tensors, notes = read_tensors(folder), list(label_notes(fields))
    wrapper = wrapper_of(tensors, folder)
    if wrapper:
        tensors = Unwrapped(tensors, wrapper, folder)
        notes.append(f"its tensors begin with {wrapper!r}, which is left out")
    names = fields.get("architectures")
    if not names:
        names = [_class_by_tensors(tensors, config)]
        notes.append(f"config.json names no architecture; its tensors are those of a {names[0]}")
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise CheckpointError(f"{path}: architectures={names!r}; must be a list of a class name")
    architecture = names[0]
    preprocessor, assumed = _read_preprocessor(folder, config)
    notes += assumed
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
        preprocessor=preprocessor,
        tensors=tensors,
        left_behind=left_behind,
        notes=tuple(notes),
        old_weighted_sum=(
            config.use_weighted_layer_sum
            and config.do_stable_layer_norm
            and str(fields.get("transformers_version", "")).startswith("4.")
        ),
    )


def _class_by_tensors(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> str:
    """The classifier where both of its layers are there, else the encoder."""
    kinds = CLASSIFIERS if {"projector.weight", "classifier.weight"} <= set(tensors) else ENCODERS
    return kinds[config.model_type].__name__


def _read_preprocessor(folder: Path, config: ModelConfig) -> tuple[Preprocessor, list[str]]:
    """How the folder wants its signals, from where transformers looks; and what is assumed."""
    path, fields = _preprocessing_fields(folder)
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
    preprocessor = Preprocessor(**values)
    if path is not None:
        return preprocessor, []
    return preprocessor, [
        f"holds neither {PREPROCESSOR} nor a {PROCESSOR} with a feature extractor, so that "
        f"do_normalize={preprocessor.do_normalize} and "
        f"return_attention_mask={preprocessor.return_attention_mask} are assumed"
    ]


def _preprocessing_fields(folder: Path) -> tuple[Path | None, Mapping[str, Any]]:
    """Those of the feature extractor, and their file; None if there is no such file.

    transformers 5 nests them in the file of the processor, and reads that first.
    """
    path = folder / PROCESSOR
    if path.is_file():
        processor = read_json(path)
        for name in ("feature_extractor", "audio_processor"):
            if name in processor:
                nested = processor[name]
                if not isinstance(nested, dict):
                    raise CheckpointError(f"{path}: {name}={nested!r:.100}; must be an object")
                return path, nested
    path = folder / PREPROCESSOR
    return (path, read_json(path)) if path.is_file() else (None, {})


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
