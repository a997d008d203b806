"""How a model is taught: masking, the objectives, and the optimiser."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from voc2vec_jax.config.model import require, require_share, require_types

Protocol = Literal["grouped", "paper", "given"]
"""How a corpus is divided for an evaluation, and whose rules its scores follow; see
`evaluation.folds`."""


@dataclass(frozen=True)
class MaskConfig:
    """Span masking of pre-training (wav2vec 2.0, section 3.1)."""

    prob: float = 0.65
    """Expected share of masked frames before spans overlap: fairseq's `mask_prob` and
    transformers' `mask_time_prob`; a tenth of it is the paper's p at span length 10."""
    length: int = 10
    """Frames in a span."""
    min_spans: int = 2
    """Spans of a clip, at least; both samplers lower it where a clip is too short for them."""
    sampler: Literal["fairseq", "hf"] = "fairseq"
    """`fairseq`: each clip rounds its number of spans by a draw of its own, and its last frame is
    never masked. `hf`: as in transformers, one draw rounds for the whole batch, the spans laid end
    to end must fit the padded length, and the last frame can be masked."""
    equalize: bool = False
    """Uncover random frames until all clips of a batch have as few masked ones as the clip with
    the fewest, as fairseq does; refused where a batch can hold clips of different lengths."""

    def __post_init__(self) -> None:
        require_types("mask", self)
        require(0 < self.prob <= 1, "mask.prob", self.prob, "must lie in (0, 1]")
        require(self.length >= 1, "mask.length", self.length, "must be at least 1 frame")
        require(self.min_spans >= 0, "mask.min_spans", self.min_spans, "must not be negative")


@dataclass(frozen=True)
class ObjectiveConfig:
    """The parts of the pre-training objectives that no `config.json` holds.

    wav2vec 2.0's number of negatives, logit temperature and diversity weight are `model.*`, because
    transformers keeps them there. Each task reads its own fields; the first two are common to both.
    """

    feature_grad_mult: float = 0.1
    """Gradients that enter the convolutional encoder are multiplied by this (large: 1.0)."""
    feature_penalty_weight: float = 10.0
    """Weight of the mean squared convolutional feature (large: 0)."""
    gumbel_temperature_start: float = 2.0
    """At the first update of a run, also of one that starts from trained weights: no checkpoint of
    transformers says where it had got to. Which codes are drawn does not depend on it, the gradient
    of the quantizer does; to go on as the source would have, give the value that its training ended
    with (after fairseq's recipe 0.5 for base, 0.1 for large)."""
    gumbel_temperature_stop: float = 0.5
    gumbel_temperature_decay: float = 0.999995
    """Factor per update done; a resumed run goes on where it was."""
    codebook: Literal["keep", "reset"] = "keep"
    """What becomes of the quantizer and `project_q` of trained weights that a run starts from:
    `reset` draws them anew, as for sounds that the old codes do not tell apart."""
    masked_weight: float = 1.0
    """HuBERT: weight of the cross entropy of masked frames (α of the paper)."""
    unmasked_weight: float = 0.0
    """HuBERT: weight of the cross entropy of the other frames."""
    logit_temperature: float = 0.1
    """HuBERT: divides the cosine of a frame and a label embedding."""
    label_embeddings: Literal["keep", "reset"] = "reset"
    """HuBERT: what becomes of the label embeddings of trained weights that a run starts from;
    `keep` goes on with the very labels that they were trained with."""

    def __post_init__(self) -> None:
        require_types("objective", self)
        require(
            self.feature_grad_mult >= 0,
            "objective.feature_grad_mult",
            self.feature_grad_mult,
            "must not be negative (0 freezes the convolutional encoder)",
        )
        require(
            self.feature_penalty_weight >= 0,
            "objective.feature_penalty_weight",
            self.feature_penalty_weight,
            "must not be negative",
        )
        for name in ("masked_weight", "unmasked_weight"):
            value = getattr(self, name)
            require(value >= 0, f"objective.{name}", value, "must not be negative")
        require(
            self.masked_weight + self.unmasked_weight > 0,
            "objective.masked_weight",
            self.masked_weight,
            "it or objective.unmasked_weight must be above 0",
        )
        require(
            self.logit_temperature > 0,
            "objective.logit_temperature",
            self.logit_temperature,
            "must be positive",
        )
        require(
            0 < self.gumbel_temperature_stop <= self.gumbel_temperature_start,
            "objective.gumbel_temperature_stop",
            self.gumbel_temperature_stop,
            "must be positive and at most gumbel_temperature_start",
        )
        require(
            0 < self.gumbel_temperature_decay <= 1,
            "objective.gumbel_temperature_decay",
            self.gumbel_temperature_decay,
            "must lie in (0, 1]",
        )


@dataclass(frozen=True)
class OptimConfig:
    """Adam with decoupled decay, linear warm-up and linear decay to 0 (fairseq's recipe)."""

    learning_rate: float = 5e-4
    """Peak, reached after `warmup_steps` updates."""
    warmup_steps: int = 32_000
    warmup_share: float | None = None
    """Share of `train.num_steps` to warm up over, rounded up; wins over `warmup_steps`."""
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-6
    epsilon_placement: Literal["fairseq", "torch"] = "fairseq"
    """Where epsilon is added: `fairseq` to √v before the bias correction, `torch` to √v̂ after it,
    as PyTorch and optax do."""
    weight_decay: float = 0.01
    """Decays every parameter, norms and code vectors included, as fairseq does."""
    weight_decay_by_path: tuple[tuple[str, float], ...] = ((".*", 1.0),)
    """Pairs of a regular expression and a factor on `weight_decay`. The first expression that
    matches a parameter's whole path decides; together they must cover every parameter."""
    learning_rate_by_path: tuple[tuple[str, float], ...] = ((".*", 1.0),)
    """The same for factors on `learning_rate`."""
    frozen: tuple[str, ...] = ()
    """Regular expressions; a parameter whose whole path matches one is neither updated nor decayed,
    and has no optimiser state."""
    clip_norm: float | None = None
    """Norm to clip the gradient of all trained parameters to; wav2vec 2.0 does not clip."""

    def __post_init__(self) -> None:
        for name in ("weight_decay_by_path", "learning_rate_by_path"):
            rules = getattr(self, name)
            if isinstance(rules, list | tuple):  # JSON knows lists only
                pairs = tuple(tuple(r) if isinstance(r, list) else r for r in rules)
                object.__setattr__(self, name, pairs)
        if isinstance(self.frozen, list):
            object.__setattr__(self, "frozen", tuple(self.frozen))
        require_types("optim", self)
        self._require_rules()
        require(
            0 < self.learning_rate < math.inf,
            "optim.learning_rate",
            self.learning_rate,
            "must be positive",
        )
        require(
            self.warmup_steps >= 0, "optim.warmup_steps", self.warmup_steps, "must not be negative"
        )
        require(
            self.warmup_share is None or 0 <= self.warmup_share < 1,
            "optim.warmup_share",
            self.warmup_share,
            "must lie in [0, 1), or be None for optim.warmup_steps",
        )
        require_share("optim", self, "beta1", "beta2")
        require(self.epsilon > 0, "optim.epsilon", self.epsilon, "must be positive")
        require(
            self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "must not be negative"
        )
        require(
            self.clip_norm is None or self.clip_norm > 0,
            "optim.clip_norm",
            self.clip_norm,
            "must be positive, or None for no clipping",
        )

    def _require_rules(self) -> None:
        patterns = [("frozen", pattern) for pattern in self.frozen]
        for name in ("weight_decay_by_path", "learning_rate_by_path"):
            rules = getattr(self, name)
            patterns += [(name, pattern) for pattern, _ in rules]
            fix = "factors must not be negative"
            require(all(factor >= 0 for _, factor in rules), f"optim.{name}", rules, fix)
        require(
            all(factor > 0 for _, factor in self.learning_rate_by_path),
            "optim.learning_rate_by_path",
            self.learning_rate_by_path,
            "factors must be positive; what must not change belongs into optim.frozen",
        )
        for name, pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                fix = f"{pattern!r} is not a regular expression ({error})"
                require(False, f"optim.{name}", getattr(self, name), fix)


@dataclass(frozen=True)
class ClassifyConfig:
    """Fine-tuning on labelled clips. SpecAugment and dropout are those of `model.*`."""

    class_weights: Literal["balanced", "none"] = "balanced"
    """`balanced`: a clip counts n / (k · n_c), of n training clips in k classes, n_c of them of its
    own; a class counts as much as any other then."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    padding: Literal["masked", "hf"] = "masked"
    """`masked`: padding has no effect on a clip's score. `hf`: transformers without an attention
    mask, where the norm over time, the attention and the mean over frames all see the padding."""
    crop: Literal["random", "first"] = "random"
    """What is heard of a clip longer than `data.max_seconds`. `random`: in training another part
    in each epoch, in evaluation all of it, in windows whose scores are averaged. `first`: its
    beginning, as if the clip ended there, also for `data.normalize`."""

    def __post_init__(self) -> None:
        require_types("classify", self)
        require_share("classify", self, "label_smoothing")
