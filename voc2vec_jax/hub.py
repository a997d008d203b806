"""Hugging Face folders: loading a model from one, calling it, and writing one."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from safetensors import SafetensorError
from safetensors.numpy import save_file

from voc2vec_jax import convert, model_card
from voc2vec_jax.audio import SAMPLE_RATE
from voc2vec_jax.config import ConfigError, ModelConfig
from voc2vec_jax.models import Wav2Vec2ForPreTraining, Wav2Vec2Model
from voc2vec_jax.models.parameters import describe
from voc2vec_jax.models.wav2vec2 import Padding
from voc2vec_jax.pretrained import Architecture, Preprocessor, PretrainedModel
from voc2vec_jax.tensor_files import SAFETENSORS, TORCH_BIN, CheckpointError, read_tensors

ARCHITECTURES: dict[str, Architecture] = {
    "Wav2Vec2Model": Wav2Vec2Model,
    "Wav2Vec2ForPreTraining": Wav2Vec2ForPreTraining,
}
FUNCTION_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "feat_extract_norm",
    "conv_dim",
    "conv_kernel",
    "conv_stride",
    "conv_bias",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
    "do_stable_layer_norm",
    "layer_norm_eps",
)
"""What decides the encoder's function; dropouts and heads may differ when training goes on."""


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    architecture: Architecture | None = None,
    padding: Padding = "hf",
    attention_mask: bool | None = None,
) -> PretrainedModel:
    """Loads a Hugging Face checkpoint.

    Args:
        source: A folder with `config.json` and `model.safetensors` (or `pytorch_model.bin`, which
            needs PyTorch), or a hub id (`org/name`, with or without `hf:` before it), which is
            downloaded.
        revision: Branch, tag or commit of the hub repository.
        architecture: Load this class instead of the one that `config.json` names:
            `Wav2Vec2Model` drops whatever head the checkpoint has.
        padding: See `Wav2Vec2Model`.
        attention_mask: Whether, under `padding="hf"`, lengths mask the attention. None follows
            `preprocessor_config.json`; where that is silent, models with a layer norm in every
            convolution use a mask and the others do not, as they were trained.

    Raises:
        CheckpointError: A missing, unreadable or unsupported file.
        ConfigError: A `config.json` that describes no supported model.
        ConversionError: Tensors that do not fit it, all of them listed.
    """
    folder = resolve(source, revision)
    config, fields = _read_config(folder)
    drop_heads = architecture is not None
    if architecture is None:
        names = fields.get("architectures") or ["Wav2Vec2Model"]
        if not isinstance(names, list) or names[0] not in tuple(ARCHITECTURES):
            raise CheckpointError(
                f"{folder / 'config.json'}: architectures={names}; supported: "
                f"{', '.join(ARCHITECTURES)}. Give architecture=Wav2Vec2Model for its encoder alone"
            )
        architecture = ARCHITECTURES[names[0]]
    params, ledger = _read_params(folder, architecture, config, drop_heads=drop_heads)
    preprocessor = _read_preprocessor(folder, config)
    return PretrainedModel(
        architecture,
        config,
        {path: jax.numpy.asarray(value) for path, value in params.items()},
        preprocessor=preprocessor,
        padding=padding,
        attention_mask=(
            preprocessor.return_attention_mask if attention_mask is None else attention_mask
        ),
        ledger=ledger,
    )


def load_params(
    source: str | os.PathLike[str],
    architecture: Architecture,
    config: ModelConfig,
    *,
    redrawn: tuple[str, ...] = (),
) -> tuple[convert.Tensors, convert.Ledger]:
    """Weights to start a training run from.

    The encoder must fit completely. A head that the checkpoint lacks is left to its fresh
    initialisation, one that the run has no use for is dropped; the ledger says which. So are
    parameters whose path begins with one of `redrawn`, which are in the ledger both as new and
    as dropped.

    Raises:
        ConfigError: The checkpoint computes something else than `config`, even if its shapes fit.
        CheckpointError, ConversionError: As `from_pretrained`.
    """
    folder = resolve(source)
    theirs, _ = _read_config(folder)
    differing = [
        f"model.{name} is {getattr(config, name)} in the run, {getattr(theirs, name)} there"
        for name in FUNCTION_FIELDS
        if getattr(config, name) != getattr(theirs, name)
    ]
    if differing:
        raise ConfigError(f"{folder}: another architecture ({'; '.join(differing)})")
    params, ledger = _read_params(folder, architecture, config, new_heads=True, drop_heads=True)
    return convert.without(redrawn, params, ledger)


def save_pretrained(
    model: PretrainedModel,
    folder: str | os.PathLike[str],
    *,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Writes a folder that `transformers` and `from_pretrained` load.

    `config.json`, `preprocessor_config.json`, `model.safetensors` and a model card. Each file
    appears whole or not at all, and none is touched before the tensors are on disk; tensor bytes
    depend on the weights only.

    Args:
        model: What to write.
        folder: Made if missing.
        facts: Rows for the model card, such as training data and steps.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "model.safetensors.part"
    try:
        save_file(convert.to_hf(model.params), unfinished, metadata={"format": "pt"})
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, SafetensorError):
            raise OSError(f"{unfinished}: could not be written ({error}); make room") from None
        raise
    config = convert.config_to_hf(model.config, model.architecture.__name__)
    _write_json(folder / "config.json", config)
    _write_json(folder / "preprocessor_config.json", model.preprocessor.to_hf())
    _write_text(
        folder / "README.md", model_card.render(model.architecture.__name__, model.config, facts)
    )
    os.replace(unfinished, folder / "model.safetensors")


def resolve(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The local folder of a checkpoint; a hub id is downloaded into the hub's cache.

    Args:
        source: A folder, or a hub id.
        revision: Branch, tag or commit of the hub repository.

    Raises:
        CheckpointError: Neither a folder nor a reachable hub id.
    """
    text = os.fspath(source)
    if text and not text.startswith("hf:") and Path(text).exists():
        if not Path(text).is_dir():
            raise CheckpointError(f"{text}: is a file; give the folder that holds it")
        return Path(text)
    repository = text.removeprefix("hf:")
    if text.startswith((".", "/", "~")) or repository.count("/") > 1 or not repository:
        raise CheckpointError(f"{text!r}: no such folder, and not a hub id (org/name)")
    # Imported here: it costs a second that local work need not pay.
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(repository, revision=revision, allow_patterns=["*.json", SAFETENSORS])
        )
        if not (folder / SAFETENSORS).exists():
            snapshot_download(repository, revision=revision, allow_patterns=[TORCH_BIN])
        return folder
    except Exception as error:  # its HTTP library, and that one's errors, change between releases
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{text}: no such folder, and the Hugging Face hub did not give it ({reason}); give a "
            "folder, or check the id and the connection"
        ) from None


def _read_params(
    folder: Path,
    architecture: Architecture,
    config: ModelConfig,
    *,
    new_heads: bool = False,
    drop_heads: bool = False,
) -> tuple[convert.Tensors, convert.Ledger]:
    tensors = read_tensors(folder)
    # Describing thousands of layers takes hours; a file without a tensor for each cannot fit.
    if config.num_hidden_layers > len(tensors):
        raise CheckpointError(
            f"{folder}: config.json has num_hidden_layers={config.num_hidden_layers}, but "
            f"the file of weights ({SAFETENSORS} or {TORCH_BIN}) holds {len(tensors)} tensors; put "
            "back the files that belong together"
        )
    _, expected = describe(architecture, config)
    try:
        return convert.from_hf(tensors, expected, new_heads=new_heads, drop_heads=drop_heads)
    except convert.ConversionError as error:
        raise convert.ConversionError(f"{folder}: {error}") from None


def _read_config(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    fields = _read_json(folder / "config.json")
    try:
        return convert.config_from_hf(fields), fields
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.json'}: {error}") from None


def _read_preprocessor(folder: Path, config: ModelConfig) -> Preprocessor:
    path = folder / "preprocessor_config.json"
    fields = _read_json(path) if path.is_file() else {}
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; is this a Hugging Face folder?") from None
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: holds {type(fields).__name__}, expected an object")
    return fields


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(fields, indent=2, sort_keys=True) + "\n")


def _write_text(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
