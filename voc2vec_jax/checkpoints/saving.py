"""Writing a folder that `transformers` and `from_pretrained` load."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voc2vec_jax.checkpoints import convert, model_card
from voc2vec_jax.checkpoints.formats.huggingface import MAX_SHARD_BYTES, writing_tensors
from voc2vec_jax.checkpoints.hf_config import config_to_hf
from voc2vec_jax.checkpoints.hubert_head import apart, as_exported, remove_head, writing_head
from voc2vec_jax.checkpoints.pretrained import PretrainedModel
from voc2vec_jax.checkpoints.source import read_source
from voc2vec_jax.files import write_text
from voc2vec_jax.models.wav2vec2 import Padding


def save_pretrained(
    model: PretrainedModel,
    folder: str | os.PathLike[str],
    *,
    facts: Mapping[str, str] | None = None,
    trained_padding: Padding = "masked",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a folder that `transformers` and `from_pretrained` load.

    `config.json`, `preprocessor_config.json`, `model.safetensors` (or shards of it with their
    index) and a model card; the head of a `HubertForPreTraining` goes into
    `pretraining_head.safetensors`, and transformers sees a `HubertModel`. Each file appears whole
    or not at all; tensor bytes depend on the weights only.

    Args:
        model: What to write.
        folder: Made if missing.
        facts: Rows for the model card, such as training data and steps.
        trained_padding: How padding was treated in training, for the model card.
        max_shard_bytes: Split the weights into files of at most this size.

    Raises:
        FreshHeadError: Random weights would pass as trained ones.
        OSError: The folder cannot be written, or is full; what was in it is still whole.
    """
    model.refuse_fresh_head("a file of it would pass for a trained one")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = model.architecture.__name__
    config = config_to_hf(model.config, as_exported(name))
    card = model_card.render(name, model.config, facts, trained_padding)
    weights, head = apart(name, convert.to_hf(model.known_params))
    with writing_head(folder, head), writing_tensors(folder, weights, max_shard_bytes):
        remove_head(folder)
        _write_json(folder / "config.json", config)
        _write_json(folder / "preprocessor_config.json", model.preprocessor.to_hf())
        write_text(folder / "README.md", card)


def write_card(folder: Path, facts: Mapping[str, str], trained_padding: Padding) -> None:
    """Writes the model card of an exported folder anew; arguments as `save_pretrained`."""
    held = read_source(folder)
    write_text(
        folder / "README.md",
        model_card.render(held.architecture, held.config, facts, trained_padding),
    )


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(fields, indent=2, sort_keys=True) + "\n")
