"""Hugging Face's `config.json` to a model configuration and back; unknown keys are handed on."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from voc2vec_jax.config import ModelConfig
from voc2vec_jax.config.model import MAX_LABELS
from voc2vec_jax.errors import ConfigError

REWRITTEN = {"architectures", "dtype", "torch_dtype", "transformers_version"}
LABEL_FIELDS = ("id2label", "label2id", "num_labels", "labels")
UNSUPPORTED = {
    "add_adapter": (False, "adapters are not supported"),
    "adapter_attn_dim": (None, "adapters are not supported"),
    "conv_pos_batch_norm": (
        False,
        "a batch norm before the positions is not supported",
    ),
}
OF_HUBERT_HEAD = ("final_dim", "num_clusters", "num_special_classes")
OURS_ALONE = ("final_norm_in_hidden_states", "classifier_activation", *OF_HUBERT_HEAD)
"""Fields that transformers does not know; written only where they differ from its behaviour."""
ONE_FAMILY = {
    "wav2vec2": (
        "feat_quantizer_dropout",
        "num_codevectors_per_group",
        "num_codevector_groups",
        "codevector_dim",
        "proj_codevector_dim",
        "num_negatives",
        "contrastive_logits_temperature",
        "diversity_loss_weight",
    ),
    "hubert": ("feat_proj_layer_norm", *OF_HUBERT_HEAD),
}
"""Fields that only one family has."""


def config_from_hf(fields: Mapping[str, Any]) -> ModelConfig:
    """A parsed `config.json` as a model configuration; missing keys mean transformers' defaults.

    Raises:
        ConfigError: A value of the wrong type, out of range, or asking for what is not supported.
    """
    for name, (supported, reason) in UNSUPPORTED.items():
        if fields.get(name, supported) != supported:
            raise ConfigError(f"{name}={fields[name]!r}: {reason}")
    ours = {field.name: field for field in dataclasses.fields(ModelConfig)}
    for name in ("other_fields", "labels"):
        ours.pop(name)
    read = {}
    for name, field in ours.items():
        if name in fields:
            read[name] = _typed(name, fields[name], field.default)
    known = {*ours, *REWRITTEN, *LABEL_FIELDS}
    others = {name: value for name, value in fields.items() if name not in known}
    read["labels"] = _labels_from_hf(fields)
    return ModelConfig(**read, other_fields=json.dumps(others, sort_keys=True))


def _labels_from_hf(fields: Mapping[str, Any]) -> tuple[str, ...]:
    names = fields.get("id2label")
    if names is None:
        count = fields.get("num_labels", 2)
        if type(count) is not int or not 1 <= count <= MAX_LABELS:
            raise ConfigError(f"num_labels={count!r}: must be a whole number to {MAX_LABELS}")
        return tuple(f"LABEL_{index}" for index in range(count))
    if not isinstance(names, Mapping):
        raise ConfigError(f"id2label={str(names)[:200]}: must give a name per class number")
    by_number = {str(number): str(name) for number, name in names.items()}
    wanted = [str(number) for number in range(len(by_number))]
    if sorted(by_number) != sorted(wanted):
        raise ConfigError(
            f"id2label={str(names)[:200]}: must number the classes from 0 to {len(names) - 1}"
        )
    in_order = [by_number[number] for number in wanted]
    # Classes are told apart by their names.
    return tuple(
        f"{name} ({number})" if in_order.count(name) > 1 else name
        for number, name in enumerate(in_order)
    )


def label_notes(fields: Mapping[str, Any]) -> Iterator[str]:
    """What was changed in the names of the classes, so that they are different pieces of text."""
    names = fields.get("id2label")
    held = list(names.values()) if isinstance(names, Mapping) else []
    if any(not isinstance(name, str) for name in held):
        yield "id2label has names that are no text; they are taken as written"
    texts = [str(name) for name in held]
    repeated = sorted({text for text in texts if texts.count(text) > 1})
    if repeated:
        yield (
            f"id2label has {', '.join(map(repr, repeated[:5]))} more than once; its number is added"
        )


def _typed(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(default, float) and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not type(default):
        raise ConfigError(f"{name}={value!r}: expected {type(default).__name__}")
    return value


def config_to_hf(config: ModelConfig, architecture: str) -> dict[str, Any]:
    """The `config.json` of a model, including the keys that were only carried along."""
    fields = dataclasses.asdict(config)
    others = json.loads(fields.pop("other_fields"))
    labels = fields.pop("labels")
    other_family = {
        name for kind, names in ONE_FAMILY.items() if kind != config.model_type for name in names
    }
    defaults = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
    for name in other_family.union(OURS_ALONE):
        if fields[name] == defaults[name]:
            del fields[name]
    if labels != defaults["labels"]:
        fields["id2label"] = {str(number): name for number, name in enumerate(labels)}
        fields["label2id"] = {name: number for number, name in enumerate(labels)}
    return {"architectures": [architecture], **others, **fields}
