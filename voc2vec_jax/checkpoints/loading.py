"""Loading a model, or weights to start a run from, out of a checkpoint of any kind."""

import dataclasses
import logging
import os
from collections.abc import Sequence

import jax
from flax import nnx

from voc2vec_jax.checkpoints import convert
from voc2vec_jax.checkpoints.formats.huggingface import (
    SAFETENSORS,
    TORCH_BIN,
)
from voc2vec_jax.checkpoints.pretrained import PretrainedModel
from voc2vec_jax.checkpoints.source import CheckpointSource, read_source
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.errors import CheckpointError, ConfigError, ConversionError
from voc2vec_jax.models.architectures import ARCHITECTURES, CLASSIFIERS, ENCODERS, Architecture
from voc2vec_jax.models.parameters import Params, describe, split
from voc2vec_jax.models.wav2vec2 import Padding

FUNCTION_FIELDS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "feat_extract_norm",
    "conv_dim",
    "conv_kernel",
    "conv_stride",
    "conv_bias",
    "feat_proj_layer_norm",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
    "do_stable_layer_norm",
    "layer_norm_eps",
)
"""What decides the encoder's function; dropouts and heads may differ when training goes on."""

log = logging.getLogger(__name__)


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    architecture: Architecture | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    padding: Padding = "hf",
    attention_mask: bool | None = None,
    final_norm_in_hidden_states: bool | None = None,
) -> PretrainedModel:
    """Loads a checkpoint.

    The encoder must be there completely, but for the mask embedding, which only training reads. A
    head is kept if it belongs to the class that is loaded, and dropped if that has no place for it;
    what is dropped or fresh is logged as a warning, and so is what the checkpoint does not say.

    Args:
        source: A Hugging Face folder (`config.json` with safetensors or PyTorch's `.bin`, in one
            file or in shards), a fairseq `.pt` of wav2vec 2.0 or HuBERT, a training run's working
            directory, or a hub id (`org/name`, with or without `hf:` before it), which is
            downloaded once; `HF_HUB_OFFLINE=1` uses what was.
        revision: Branch, tag, commit or pull request (`refs/pr/1`) of the hub repository.
        architecture: Load this class instead of the checkpoint's own: `Wav2Vec2Model` or
            `HubertModel` drop whatever head it has.
        labels: Load a classifier of these classes. Its head is the checkpoint's if that one has
            the same classes in the same order, otherwise a fresh one, to be trained before use.
        seed: Draws a fresh head.
        padding: See `Wav2Vec2Model`.
        attention_mask: Whether, under `padding="hf"`, lengths mask the attention. None follows
            `preprocessor_config.json`; where that is silent, models with a layer norm in every
            convolution use a mask and the others do not, as they were trained.
        final_norm_in_hidden_states: Whether the last of the hidden states of a pre-norm model has
            passed the final norm, as in transformers up to 4.57; matters to a weighted sum of
            layers. None follows `config.json`, where it is False unless this package wrote it.

    Raises:
        CheckpointError: A missing, unreadable or unsupported file.
        ConfigError: A `config.json` that describes no supported model.
        ConversionError: Tensors that do not fit it, all of them listed.
    """
    held = read_source(source, revision)
    config, family = held.config, held.config.model_type
    if labels is not None:
        architecture = CLASSIFIERS[family] if architecture is None else architecture
        if architecture is not CLASSIFIERS[family]:
            raise ConfigError(
                f"labels={list(labels)[:5]}: {architecture.__name__} does not classify; leave "
                f"architecture out, or give {CLASSIFIERS[family].__name__}"
            )
        config = dataclasses.replace(config, labels=tuple(labels))
    if final_norm_in_hidden_states is not None:
        config = dataclasses.replace(
            config, final_norm_in_hidden_states=final_norm_in_hidden_states
        )
    elif held.old_weighted_sum:
        log.warning(
            "%s: its weighted sum of layers was saved by transformers 4, whose last hidden state "
            "included the final norm; final_norm_in_hidden_states=True reproduces it, False is "
            "what transformers 5 computes",
            held.place,
        )
    for note in held.notes:
        log.warning("%s: %s", held.place, note)
    own = ARCHITECTURES[family].get(held.architecture)
    chosen = _choose(held, own, architecture)
    fresh_head = labels is not None and (chosen is not own or config.labels != held.config.labels)
    tensors, ledger = _fill(held, chosen, config, replace_heads=fresh_head)
    # Popped, so that no more than one tensor is there twice.
    params = {path: jax.numpy.asarray(tensors.pop(path)) for path in list(tensors)}
    params |= _fresh(chosen, config, ledger.new, seed)
    if ledger.new or ledger.dropped:
        log.warning("%s as %s: %s", held.place, chosen.__name__, ledger)
    return PretrainedModel(
        chosen,
        config,
        params,
        preprocessor=held.preprocessor,
        padding=padding,
        attention_mask=(
            held.preprocessor.return_attention_mask if attention_mask is None else attention_mask
        ),
        ledger=ledger,
    )


def load_encoder(
    source: str | os.PathLike[str], *, revision: str | None = None, padding: Padding = "hf"
) -> PretrainedModel:
    """The encoder of a checkpoint of either family; what head it has is dropped.

    Arguments and errors are those of `from_pretrained`.
    """
    family = read_source(source, revision).config.model_type
    return from_pretrained(
        source, revision=revision, architecture=ENCODERS[family], padding=padding
    )


def _choose(
    held: CheckpointSource, own: Architecture | None, asked: Architecture | None
) -> Architecture:
    family = held.config.model_type
    chosen = asked or own
    if chosen is None:
        named_in = held.place / "config.json" if held.place.is_dir() else held.place
        raise CheckpointError(
            f"{named_in}: holds a {held.architecture}; supported: "
            f"{', '.join(ARCHITECTURES[family])}. Give architecture={ENCODERS[family].__name__} "
            "for its encoder alone"
        )
    if chosen.model_type != family:
        raise ConfigError(
            f"architecture={chosen.__name__}: {held.place} is of type {family}, for which there "
            f"are {', '.join(ARCHITECTURES[family])}"
        )
    return chosen


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
    held = read_source(source)
    differing = [
        f"model.{name} is {getattr(config, name)} in the run, {getattr(held.config, name)} there"
        for name in FUNCTION_FIELDS
        if getattr(config, name) != getattr(held.config, name)
    ]
    if differing:
        raise ConfigError(f"{held.place}: another architecture ({'; '.join(differing)})")
    return _fill(held, architecture, config, redrawn, new_heads=True)


def _fill(
    held: CheckpointSource,
    architecture: Architecture,
    config: ModelConfig,
    redrawn: tuple[str, ...] = (),
    **heads: bool,
) -> tuple[convert.Tensors, convert.Ledger]:
    # Describing thousands of layers takes hours; a file without a tensor for each cannot fit.
    if config.num_hidden_layers > len(held.tensors):
        raise CheckpointError(
            f"{held.place}: num_hidden_layers={config.num_hidden_layers}, but its weights are "
            f"{len(held.tensors)} tensors; put back the files that belong together "
            f"({SAFETENSORS} or {TORCH_BIN}, and config.json)"
        )
    _, expected = describe(architecture, config)
    try:
        tensors, ledger = convert.from_hf(held.tensors, expected, redrawn=redrawn, **heads)
    except ConversionError as error:
        raise ConversionError(f"{held.place}: {error}") from None
    return tensors, dataclasses.replace(ledger, dropped=(*ledger.dropped, *held.left_behind))


def _fresh(
    architecture: Architecture, config: ModelConfig, paths: Sequence[str], seed: int
) -> Params:
    """Initial values of some parameters; the compiler leaves out those of all others."""
    if not paths:
        return {}

    def init(key: jax.Array) -> Params:
        _, params = split(architecture(config, rngs=nnx.Rngs(key)))
        return {path: params[path] for path in paths}

    return jax.jit(init)(jax.random.key(seed))
