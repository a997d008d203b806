"""The architecture of a model, under the names of Hugging Face configurations."""

import math
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from voc2vec_jax.audio.frame_grid import receptive_field_samples
from voc2vec_jax.errors import ConfigError

MAX_CONV_LAYERS = 64
MAX_LABELS = 16_384


def require(condition: bool, field_name: str, value: object, fix: str) -> None:
    if not condition:
        raise ConfigError(f"{field_name}={value!r}: {fix}")


def require_share(prefix: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(0 <= value < 1, f"{prefix}.{name}", value, "must lie in [0, 1)")


def require_types(prefix: str, config: object) -> None:
    """Refuses a value that is not of its field's type; numbers must be finite too."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        require(_is_of(value, hint), f"{prefix}.{name}", value, f"must be {_in_words(hint)}")


def _is_of(value: object, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin in (Union, UnionType):
        return any(_is_of(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        items = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(items) and all(map(_is_of, value, items))
    if hint in (int, float):
        kinds = (int,) if hint is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) < math.inf
    return isinstance(value, hint)


def _in_words(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(parts)}"
    if origin in (Union, UnionType):
        return " or ".join(map(_in_words, parts))
    if origin is tuple:
        if parts[-1] is Ellipsis:
            return f"a tuple, each item {_in_words(parts[0])}"
        return f"({', '.join(map(_in_words, parts))})"
    words = {int: "a whole number", float: "a finite number", bool: "True or False", str: "text"}
    return words.get(hint, "None" if hint is NoneType else f"a {hint.__name__}")


@dataclass(frozen=True)
class ModelConfig:
    """Architecture, under the names and with the defaults of transformers 5.23.

    `Wav2Vec2Config` and `HubertConfig` agree wherever they share a field. The defaults are what a
    missing key of a `config.json` means; they are no training recipe (`configs/` has those).
    """

    model_type: Literal["wav2vec2", "hubert"] = "wav2vec2"
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: Literal["gelu"] = "gelu"
    feat_extract_activation: Literal["gelu"] = "gelu"
    feat_extract_norm: Literal["group", "layer"] = "group"
    """`group`: one group norm, over time, after the first convolution (base). `layer`: a layer
    norm after every convolution (large)."""
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    """Taps of the positional convolution, in frames."""
    num_conv_pos_embedding_groups: int = 16
    do_stable_layer_norm: bool = False
    """False: layer norm after each residual sum (base). True: before each block, and once more
    after the last (large)."""
    layer_norm_eps: float = 1e-5
    hidden_dropout: float = 0.1
    activation_dropout: float = 0.1
    attention_dropout: float = 0.1
    feat_proj_layer_norm: bool = True
    """Whether features are normalised before they are projected; only HuBERT can go without."""
    feat_proj_dropout: float = 0.0
    feat_quantizer_dropout: float = 0.0
    layerdrop: float = 0.1
    apply_spec_augment: bool = True
    """Whether fine-tuning hides spans of frames and of channels; pre-training masks by `mask.*`."""
    mask_time_prob: float = 0.05
    """Expected share of hidden frames in fine-tuning. If this and `mask_feature_prob` are 0,
    transformers leaves `masked_spec_embed` out of the model."""
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    num_codevectors_per_group: int = 320
    num_codevector_groups: int = 2
    codevector_dim: int = 256
    proj_codevector_dim: int = 256
    num_negatives: int = 100
    contrastive_logits_temperature: float = 0.1
    diversity_loss_weight: float = 0.1
    final_dim: int = 256
    """Width in which HuBERT compares frames with the embeddings of labels. This and the next two
    carry fairseq's meaning; they are no fields of transformers, which has no head for them."""
    num_clusters: int = 500
    """k of the k-means whose clusters HuBERT predicts."""
    num_special_classes: int = 0
    """Label embeddings before that of cluster 0: 4 in checkpoints of fairseq, whose dictionaries
    begin with <s>, <pad>, </s> and <unk>. No frame has these labels; the softmax counts them."""
    use_weighted_layer_sum: bool = False
    """Whether a classifier reads a learned average of all hidden states, not only the last."""
    final_norm_in_hidden_states: bool = False
    """Whether the last hidden state of a pre-norm model has passed the final norm, as in
    transformers up to 4.57. It moves the weighted layer sum. Not a field of transformers."""
    classifier_proj_size: int = 256
    classifier_activation: Literal["none", "gelu"] = "none"
    """What lies between the two layers of a classifier; transformers knows `none` only. Not a field
    of transformers."""
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    """Class names in the order of the logits; transformers keeps them as `id2label`."""
    other_fields: tyro.conf.Suppress[str] = "{}"
    """JSON object of the `config.json` keys that this package does not read, so that an export
    hands them on unchanged."""

    def __post_init__(self) -> None:
        for name in ("conv_dim", "conv_kernel", "conv_stride", "labels"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        require_types("model", self)
        layers = {len(self.conv_dim), len(self.conv_kernel), len(self.conv_stride)}
        require(
            len(layers) == 1 and 1 <= max(layers) <= MAX_CONV_LAYERS,
            "model.conv_dim",
            self.conv_dim,
            "conv_dim, conv_kernel and conv_stride need the same length, from 1 to "
            f"{MAX_CONV_LAYERS}",
        )
        sizes = {
            "hidden_size": 16_384,
            "num_hidden_layers": 1_024,
            "num_attention_heads": 1_024,
            "intermediate_size": 131_072,
            "num_conv_pos_embeddings": 4_096,
            "num_conv_pos_embedding_groups": 4_096,
            "num_codevectors_per_group": 65_536,
            "num_codevector_groups": 64,
            "codevector_dim": 16_384,
            "proj_codevector_dim": 16_384,
            "num_negatives": 65_536,
            "final_dim": 16_384,
            "num_clusters": 65_536,
            "classifier_proj_size": 16_384,
            "mask_time_length": 4_096,
            "mask_feature_length": 4_096,
        }
        for name, limit in sizes.items():
            value = getattr(self, name)
            require(
                1 <= value <= limit,
                f"model.{name}",
                value,
                f"must be a whole number from 1 to {limit}",
            )
        for name in ("conv_dim", "conv_kernel", "conv_stride"):
            require(
                all(1 <= v <= 16_384 for v in getattr(self, name)),
                f"model.{name}",
                getattr(self, name),
                "needs whole numbers from 1 to 16384",
            )
        for name, divisor in (
            ("hidden_size", "num_attention_heads"),
            ("hidden_size", "num_conv_pos_embedding_groups"),
            ("codevector_dim", "num_codevector_groups"),
        ):
            require(
                getattr(self, name) % getattr(self, divisor) == 0,
                f"model.{name}",
                getattr(self, name),
                f"must be a multiple of model.{divisor}={getattr(self, divisor)}",
            )
        require_share(
            "model",
            self,
            "hidden_dropout",
            "activation_dropout",
            "attention_dropout",
            "feat_proj_dropout",
            "feat_quantizer_dropout",
            "layerdrop",
            "mask_time_prob",
            "mask_feature_prob",
        )
        for name in ("layer_norm_eps", "contrastive_logits_temperature"):
            value = getattr(self, name)
            require(value > 0, f"model.{name}", value, "must be positive")
        for name in ("diversity_loss_weight", "mask_time_min_masks", "mask_feature_min_masks"):
            value = getattr(self, name)
            require(value >= 0, f"model.{name}", value, "must not be negative")
        require(
            0 <= self.num_special_classes <= 64,
            "model.num_special_classes",
            self.num_special_classes,
            "must be a whole number from 0 to 64 (fairseq's checkpoints have 4)",
        )
        require(
            self.feat_proj_layer_norm or self.model_type == "hubert",
            "model.feat_proj_layer_norm",
            self.feat_proj_layer_norm,
            "wav2vec 2.0 always normalises here; only HuBERT can go without",
        )
        require(
            1 <= len(self.labels) == len(set(self.labels)) <= MAX_LABELS,
            "model.labels",
            self.labels[:10],
            f"needs 1 to {MAX_LABELS} different names",
        )

    @property
    def has_mask_embedding(self) -> bool:
        """Whether `masked_spec_embed` exists, by the rule of transformers."""
        return self.mask_time_prob > 0 or self.mask_feature_prob > 0

    @property
    def num_label_classes(self) -> int:
        """Label embeddings of HuBERT, N."""
        return self.num_special_classes + self.num_clusters

    @property
    def receptive_field_samples(self) -> int:
        """Samples that the first frame sees, which is the shortest possible clip."""
        return receptive_field_samples(self.conv_kernel, self.conv_stride)
