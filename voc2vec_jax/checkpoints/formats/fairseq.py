"""Checkpoints of fairseq, in which wav2vec 2.0 and HuBERT were first published, as Hugging Face's.

What `source.read_source` needs of a file, without fairseq or PyTorch:

    found = read_fairseq(path)  # for config_from_hf(found.config), from_hf(found.tensors, …)

Sizes, biases and the norms of the convolutions are read off the tensors. What no tensor shows
(strides, attention heads, where the norms of a layer stand) is the configuration's to say; where
it says more, it must agree. See fairseq/models/wav2vec/wav2vec2.py and fairseq/models/hubert.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voc2vec_jax.checkpoints.convert import Tensors
from voc2vec_jax.checkpoints.formats.fairseq_config import (
    FairseqConfigs,
    contradictions,
    conv_feature_layers,
    find_configs,
    hf_fields,
    shown,
)
from voc2vec_jax.checkpoints.formats.pytorch import read_torch
from voc2vec_jax.errors import CheckpointError

FINETUNED_PREFIXES = ("w2v_encoder.w2v_model.", "encoder.w2v_model.")
"""Of models with a CTC head, and with a decoder."""

_WB = r"(weight|bias)"
_I = r"\d{1,4}"
ENCODER_NAMES = (
    (r"mask_emb", r"masked_spec_embed"),
    (rf"feature_extractor\.conv_layers\.({_I})\.0\.{_WB}",
     r"feature_extractor.conv_layers.\1.conv.\2"),
    (rf"feature_extractor\.conv_layers\.({_I})\.2(?:\.1)?\.{_WB}",
     r"feature_extractor.conv_layers.\1.layer_norm.\2"),
    (rf"layer_norm\.{_WB}", r"feature_projection.layer_norm.\1"),
    (rf"post_extract_proj\.{_WB}", r"feature_projection.projection.\1"),
    (r"encoder\.pos_conv\.0\.(bias|weight_g|weight_v|parametrizations\.weight\.original[01])",
     r"encoder.pos_conv_embed.conv.\1"),
    (rf"encoder\.layer_norm\.{_WB}", r"encoder.layer_norm.\1"),
    (rf"encoder\.layers\.({_I})\.self_attn\.([qkv]|out)_proj\.{_WB}",
     r"encoder.layers.\1.attention.\2_proj.\3"),
    (rf"encoder\.layers\.({_I})\.self_attn_layer_norm\.{_WB}", r"encoder.layers.\1.layer_norm.\2"),
    (rf"encoder\.layers\.({_I})\.fc1\.{_WB}",
     r"encoder.layers.\1.feed_forward.intermediate_dense.\2"),
    (rf"encoder\.layers\.({_I})\.fc2\.{_WB}", r"encoder.layers.\1.feed_forward.output_dense.\2"),
    (rf"encoder\.layers\.({_I})\.final_layer_norm\.{_WB}",
     r"encoder.layers.\1.final_layer_norm.\2"),
)  # fmt: skip
HEAD_NAMES = {
    "wav2vec2": (
        (r"quantizer\.vars", r"quantizer.codevectors"),
        (rf"quantizer\.weight_proj\.{_WB}", r"quantizer.weight_proj.\1"),
        (rf"project_q\.{_WB}", r"project_q.\1"),
        (rf"final_proj\.{_WB}", r"project_hid.\1"),
    ),
    # No Hugging Face model has these; the names are fairseq's.
    "hubert": (
        (rf"final_proj\.{_WB}", r"final_proj.\1"),
        (r"label_embs_concat", r"label_embs_concat"),
    ),
}
CLASSES = {
    "wav2vec2": ("Wav2Vec2Model", "Wav2Vec2ForPreTraining"),
    "hubert": ("HubertModel", "HubertForPreTraining"),
}
"""Of a bare encoder, whose names have no prefix, and of one with its pre-training head."""
SPECIAL_SYMBOLS = 4
"""With which fairseq's dictionaries begin, those of cluster labels too."""
WITHOUT_EFFECT = re.compile(r"(^|\.)_?ema(\.|$)|(^|\.)version$")
"""Averaged copies of weights, and a counter of formats."""
PARTS = (
    "feature_extractor", "post_extract_proj", "layer_norm", "encoder", "quantizer", "project_q",
    "final_proj", "target_glu", "input_quantizer", "project_inp",
)  # fmt: skip
"""Modules whose tensors take part in the function: unknown ones mean another architecture."""


@dataclass(frozen=True)
class FairseqCheckpoint:
    """A fairseq model under Hugging Face's names."""

    architecture: str
    """`Wav2Vec2Model` or `HubertModel`, or `Wav2Vec2ForPreTraining` or `HubertForPreTraining` where
    the head of the pre-training is there."""
    config: dict[str, Any]
    """The fields of a `config.json`."""
    tensors: Tensors
    normalize: bool
    """Whether the model was trained on clips of zero mean and unit variance."""
    left_behind: tuple[str, ...]
    """The file's names of what has no place in the model, such as a CTC head."""


def read_fairseq(path: Path) -> FairseqCheckpoint:
    """Reads a `.pt` of fairseq, pre-trained or fine-tuned, or one that s3prl converted.

    Every tensor of the file is in the result, under another name, or its name is in
    `left_behind`. The mask embedding is left behind where both mask probabilities are 0, since
    transformers has none there.

    Raises:
        CheckpointError: Not such a file, an architecture that Hugging Face's models do not have,
            or a configuration that contradicts the tensors; all contradictions are listed.
    """
    checkpoint = read_torch(path)
    try:
        return _convert(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _convert(checkpoint: object) -> FairseqCheckpoint:
    state = _state(checkpoint)
    prefix = next((p for p in FINETUNED_PREFIXES if any(n.startswith(p) for n in state)), "")
    model = {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}
    left_behind = [name for name in state if not name.startswith(prefix)]
    configs = find_configs(checkpoint, finetuned=bool(prefix))
    family = _family(model, configs)
    with_head = _has_head(model, family)

    encoder: Tensors = {}
    head: Tensors = {}
    unknown = []
    for name, value in model.items():
        encoder_name = _renamed(name, ENCODER_NAMES)
        head_name = _renamed(name, HEAD_NAMES[family])
        if encoder_name is not None:
            _add(encoder, encoder_name, name, value)
        elif head_name is not None and with_head:
            _add(head, head_name, name, value)
        elif head_name is None and name.split(".")[0] in PARTS and not WITHOUT_EFFECT.search(name):
            unknown.append(name)
        else:
            left_behind.append(prefix + name)
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} tensors are of no {family} that transformers has "
            f"({', '.join(unknown[:20])})"
        )
    layer_mode = any(re.match(r"feature_extractor\.conv_layers\.\d+\.2\.1\.", n) for n in model)
    sizes = _sizes(encoder, layer_mode=layer_mode)
    fields = hf_fields(configs.model, family)
    strides = [stride for _, _, stride in conv_feature_layers(configs.model)]
    head_sizes: dict[str, int] = {}
    if with_head:
        head_sizes = _quantizer_sizes(head, configs) if family == "wav2vec2" else _label_sizes(head)
    problems = contradictions(configs.model, {**sizes, **head_sizes})
    if problems:
        raise CheckpointError(
            "its configuration contradicts its tensors:\n  " + "\n  ".join(problems)
        )
    masks = fields["mask_time_prob"] or fields["mask_feature_prob"]
    if not masks and encoder.pop("masked_spec_embed", None) is not None:
        left_behind.append(f"{prefix}mask_emb")
    architecture = CLASSES[family][with_head]
    if with_head:
        encoder = {f"{family}.{name}": value for name, value in encoder.items()}
    return FairseqCheckpoint(
        architecture=architecture,
        config={
            "architectures": [architecture],
            "model_type": family,
            **fields,
            **sizes,
            **head_sizes,
            "conv_stride": strides,
        },
        tensors={**encoder, **head},
        normalize=configs.normalize,
        left_behind=tuple(left_behind),
    )


def _state(checkpoint: object) -> dict[str, object]:
    for name in ("model", "model_weight"):  # fairseq's, s3prl's
        state = checkpoint.get(name) if isinstance(checkpoint, dict) else None
        if isinstance(state, dict) and state and all(type(key) is str for key in state):
            return state
    raise CheckpointError("not a fairseq checkpoint: holds no tensors under 'model'")


def _family(model: dict[str, object], configs: FairseqConfigs) -> str:
    by_tensors = {
        "wav2vec2": any(name.startswith(("quantizer.", "project_q.")) for name in model),
        "hubert": "label_embs_concat" in model,
    }
    seen = {family for family, there in by_tensors.items() if there}
    families = seen | ({configs.family} if configs.family else set())
    if len(families) != 1:
        raise CheckpointError(
            f"is of {' and of '.join(sorted(families)) or 'unknown architecture'}: its tensors "
            f"look like {' and '.join(sorted(seen)) or 'either'}, its configuration names "
            f"{configs.family or 'neither'}; wav2vec 2.0 and HuBERT can be read"
        )
    return families.pop()


def _has_head(model: dict[str, object], family: str) -> bool:
    """Whether the head of the pre-training is there; one that predicts several sets of labels by
    projections of their own, which no model here does, is not taken for one."""
    projection, labels = model.get("final_proj.weight"), model.get("label_embs_concat")
    if not isinstance(projection, np.ndarray):
        return False
    if family == "wav2vec2" or not isinstance(labels, np.ndarray):
        return family == "wav2vec2"
    return labels.ndim == 2 and projection.shape[:1] == labels.shape[1:]


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


def _add(tensors: Tensors, hf_name: str, name: str, value: object) -> None:
    if not isinstance(value, np.ndarray):
        raise CheckpointError(f"{name} is a {type(value).__name__}, not a tensor")
    if hf_name in tensors:
        raise CheckpointError(f"{name}: another tensor of the file is {hf_name} too")
    tensors[hf_name] = value


def _shape(tensors: Tensors, rank: int, *names: str) -> tuple[int, ...]:
    """Of the first that is there."""
    for name in names:
        if name in tensors and tensors[name].ndim == rank and tensors[name].size:
            return tensors[name].shape
    raise CheckpointError(f"lacks a tensor for {names[0]} with {rank} axes")


def _sizes(encoder: Tensors, *, layer_mode: bool) -> dict[str, Any]:
    """Fields of `config.json` that the encoder's tensors decide."""
    layers = _numbers(encoder, r"encoder\.layers\.(\d{1,4})\.")
    convolutions = [
        _shape(encoder, 3, f"feature_extractor.conv_layers.{i}.conv.weight")
        for i in range(_numbers(encoder, r"feature_extractor\.conv_layers\.(\d{1,4})\."))
    ]
    hidden, _ = _shape(encoder, 2, "feature_projection.projection.weight")
    intermediate, _ = _shape(encoder, 2, "encoder.layers.0.feed_forward.intermediate_dense.weight")
    positional = "encoder.pos_conv_embed.conv."
    _, inputs_per_group, taps = _shape(
        encoder, 3, f"{positional}weight_v", f"{positional}parametrizations.weight.original1"
    )
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": intermediate,
        "conv_dim": [out for out, _, _ in convolutions],
        "conv_kernel": [kernel for _, _, kernel in convolutions],
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in encoder,
        "feat_extract_norm": "layer" if layer_mode else "group",
        "num_conv_pos_embeddings": taps,
        "num_conv_pos_embedding_groups": hidden // inputs_per_group,
    }


def _numbers(tensors: Tensors, pattern: str) -> int:
    """How many numbered modules there are; a gap or none at all is an error."""
    found = {int(match[1]) for name in tensors if (match := re.match(pattern, name))}
    if not found or found != set(range(len(found))):
        raise CheckpointError(f"has the numbers {sorted(found)} for {pattern!r}; tensors are lost")
    return len(found)


def _quantizer_sizes(head: Tensors, configs: FairseqConfigs) -> dict[str, int]:
    _, entries, entry_size = _shape(head, 3, "quantizer.codevectors")
    groups = configs.model.get("latent_groups", 2)
    if type(groups) is not int or groups < 1 or entries % groups:
        raise CheckpointError(
            f"latent_groups is {shown(groups)}, which does not divide {entries} codebook entries"
        )
    return {
        "num_codevectors_per_group": entries // groups,
        "num_codevector_groups": groups,
        "codevector_dim": entry_size * groups,
        "proj_codevector_dim": _shape(head, 2, "project_hid.weight")[0],
    }


def _label_sizes(head: Tensors) -> dict[str, int]:
    rows, width = _shape(head, 2, "label_embs_concat")
    if rows <= SPECIAL_SYMBOLS:
        raise CheckpointError(
            f"label_embs_concat has {rows} rows, but the first {SPECIAL_SYMBOLS} are those of "
            "<s>, <pad>, </s> and <unk>"
        )
    return {
        "final_dim": width,
        "num_clusters": rows - SPECIAL_SYMBOLS,
        "num_special_classes": SPECIAL_SYMBOLS,
    }
