"""How `voc2vec_jax.evaluate` fine-tunes: one recipe for each protocol, and its configuration."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from voc2vec_jax.config import (
    ClassifyConfig,
    Config,
    DataConfig,
    OptimConfig,
    TrainConfig,
)
from voc2vec_jax.config.model import require, require_share, require_types
from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.config.train import Precision

if TYPE_CHECKING:  # models need JAX, and --help reads this file
    from voc2vec_jax.checkpoints.pretrained import PretrainedModel

BUCKET_SECONDS = (1.0, 2.0, 4.0, 8.0, 12.0, 16.0)
"""Padded lengths, except under `paper`, up to `max_seconds`; one compilation each."""


@dataclass(frozen=True)
class Recipe:
    """How each fold is trained. SpecAugment, dropout and layer drop are the checkpoint's."""

    epochs: int = 50
    """At most; the learning rate falls to 0 over so many."""
    batch: int = 16
    """Clips per update; the last, smaller one of an epoch is kept."""
    learning_rate: float | None = None
    """Peak; None: 1e-4, or 1e-3 with a frozen encoder."""
    warmup_steps: int | None = None
    """Updates until the peak; wins over `warmup_share`."""
    warmup_share: float = 0.1
    """Share of all updates until the peak."""
    patience: int | None = 5
    """Stop after so many epochs without a better one; None: train all epochs."""
    select_by: Literal["uar", "macro_f1", "accuracy", "loss"] = "uar"
    """Figure of the validation part that chooses the epoch."""
    max_seconds: float = 10.0
    """Of a longer clip, another part is heard in each epoch and all of it in evaluation, in windows
    whose scores are averaged; under `paper` its beginning."""
    class_weights: Literal["balanced", "none"] = "balanced"
    label_smoothing: float = 0.0
    head: Literal["linear", "mlp"] = "linear"
    """`linear`: projection, mean over frames, linear layer, as in transformers. `mlp`: with a GELU
    before the last layer."""
    freeze_encoder: bool = False
    """Train the head alone. The encoder then runs once over the corpus, without SpecAugment and
    dropout, and each fold trains on its mean hidden states."""
    freeze: tuple[str, ...] = ()
    """Regular expressions; parameters whose whole path matches one stay as they are, such as
    'wav2vec2.feature_extractor.*'."""
    weighted_layer_sum: bool = False
    """Read a learned average of all hidden states instead of the last one."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer to the one below it; 1: all learn alike."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        require_types("recipe", self)
        for name, value in (("batch", self.batch), ("learning-rate", self.learning_rate)):
            require(value is None or value > 0, f"--{name}", value, "must be above 0")
        require(self.epochs >= 1, "--epochs", self.epochs, "must be at least 1")
        require(0 < self.layer_decay <= 1, "--layer-decay", self.layer_decay, "must lie in (0, 1]")
        require_share("recipe", self, "warmup_share", "label_smoothing")
        require(
            not (self.freeze_encoder and (self.freeze or self.layer_decay < 1)),
            "--freeze-encoder",
            True,
            "leaves nothing for --freeze and --layer-decay to decide; drop those",
        )

    @property
    def peak_rate(self) -> float:
        """The peak learning rate, also where none was given."""
        return self.learning_rate or (1e-3 if self.freeze_encoder else 1e-4)

    def settings(self) -> dict[str, Any]:
        """What decides the numbers, as plain values."""
        return {**dataclasses.asdict(self), "learning_rate": self.peak_rate}


RECIPES: dict[Protocol, Recipe] = {
    "grouped": Recipe(),
    "given": Recipe(),
    "paper": Recipe(learning_rate=1e-4, warmup_steps=500, select_by="macro_f1", max_seconds=7.0),
}
"""The defaults of each protocol; those of `paper` are the voc2vec repository's."""


def fold_config(
    recipe: Recipe,
    protocol: Protocol,
    encoder: "PretrainedModel",
    labels: tuple[str, ...],
    seed: int,
    held_share: float,
) -> Config:
    """The configuration of a fold, all but its number of updates.

    Args:
        recipe: How to train.
        protocol: `paper` pads all clips to `max_seconds`, normalises them together with their
            padding (or by what is left of each, if the checkpoint's feature extractor masks the
            padding) and masks nothing.
        encoder: What is fine-tuned.
        labels: Classes, in the order of the corpus.
        seed: Of the head, the order of clips, crops, SpecAugment and dropout.
        held_share: Clips that select, of those and the training clips.
    """
    paper, frozen = protocol == "paper", recipe.freeze_encoder
    longest = recipe.max_seconds
    shorter = tuple(bucket for bucket in BUCKET_SECONDS if bucket < longest)
    normalize: Literal["none", "clip", "padded"] = "none"
    if encoder.preprocessor.do_normalize:
        masked = not paper or encoder.preprocessor.return_attention_mask
        normalize = "clip" if masked else "padded"
    model = dataclasses.replace(
        encoder.config,
        labels=labels,
        use_weighted_layer_sum=recipe.weighted_layer_sum,
        classifier_activation="gelu" if recipe.head == "mlp" else "none",
    )
    from voc2vec_jax.training.optimizer import layer_wise_rates

    rates = layer_wise_rates(model, recipe.layer_decay) if recipe.layer_decay < 1 else None
    return Config(
        task="classify",
        model=model,
        data=DataConfig(
            normalize=normalize,
            max_seconds=longest,
            bucket_seconds=(longest,) if paper or frozen else (*shorter, longest),
            batch_clips=recipe.batch,
            eval_share=held_share,
        ),
        classify=ClassifyConfig(
            class_weights=recipe.class_weights,
            label_smoothing=recipe.label_smoothing,
            padding="hf" if paper else "masked",
            crop="first" if paper else "random",
        ),
        optim=OptimConfig(
            learning_rate=recipe.peak_rate,
            warmup_steps=recipe.warmup_steps or 0,
            warmup_share=recipe.warmup_share if recipe.warmup_steps is None else None,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8,
            epsilon_placement="torch",
            weight_decay=0.0,
            learning_rate_by_path=rates or ((".*", 1.0),),
            frozen=recipe.freeze,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            seed=seed,
            precision=recipe.precision,
            export_checkpoint="best" if held_share else "last",
            best_by=recipe.select_by,
            patience=recipe.patience if held_share else None,
        ),
    )
