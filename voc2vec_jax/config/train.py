"""How a run is carried out: its devices, its length and its rhythm; not what it learns."""

from dataclasses import dataclass
from typing import Literal

from voc2vec_jax.config.model import require, require_types

Precision = Literal["fp32", "bf16"]
Remat = Literal["none", "layers", "all"]


@dataclass(frozen=True)
class MeshConfig:
    """How many devices share each kind of work; -1 takes the rest."""

    data: int = -1
    """Batch split, parameters replicated."""
    fsdp: int = 1
    """Batch split, parameters and optimiser state split too."""
    tensor: int = 1
    """Attention heads and feed-forward width split, every clip on all of them; for models whose
    layers are too large for one device."""

    def __post_init__(self) -> None:
        require_types("mesh", self)
        sizes = (self.data, self.fsdp, self.tensor)
        require(
            all(s == -1 or s >= 1 for s in sizes) and sizes.count(-1) <= 1,
            "mesh",
            f"(data={self.data}, fsdp={self.fsdp}, tensor={self.tensor})",
            "needs positive numbers of devices, at most one of them -1",
        )


@dataclass(frozen=True)
class TrainConfig:
    """Length, rhythm and randomness of a run."""

    num_steps: int = 400_000
    """Updates; the learning rate reaches 0 here."""
    seed: int = 0
    """Decides initialisation, data order, masks, negatives, noise and dropout."""
    accumulate_steps: int = 1
    """Micro-batches that an update's batch is split into, one after the other, to save memory;
    every one of them must divide over the devices."""
    precision: Precision = "fp32"
    """`bf16`: the encoder's products in bfloat16; parameters, optimiser, norms, softmax, quantizer
    and losses in float32. For accelerators: a CPU gains nothing by it."""
    remat: Remat = "none"
    """What is computed again in the backward pass instead of being kept, to save memory: the inner
    values of every block of the transformer (`layers`), or of every convolution too (`all`). No
    loss and no gradient changes. docs/scaling.md says what it costs and saves."""
    gradients_added_in: Precision = "fp32"
    """How gradients are added up over devices. `bf16` exchanges half the bytes and rounds each sum
    to 8 bits."""
    max_skipped_updates: int = 10
    """An update whose loss, gradient or step is not finite is skipped. So many in a row, or all
    that there are, end the run; one that is resumed goes on counting."""
    log_every_steps: int = 50
    eval_every_steps: int | None = None
    """How often the held-out clips are heard; None: at every checkpoint. Needs data.eval_share."""
    checkpoint_every_steps: int = 1_000
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep; the best one by held-out figure is kept too (in
    pre-training a loss near 0 does not count: it is that of a collapsed codebook)."""
    export_checkpoint: Literal["last", "best"] = "last"
    """What becomes the export; `best` is by `best_by` and needs data.eval_share."""
    best_by: Literal["loss", "uar", "macro_f1", "accuracy"] = "loss"
    """The held-out figure that says which checkpoint is best; all but the loss are of `classify`,
    where the highest wins."""
    patience: int | None = None
    """Stop after so many evaluations in a row that were no better than the best; None: never."""
    tracking: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Who is told the figures, besides `metrics.jsonl`; needs the extra `tracking`."""

    def __post_init__(self) -> None:
        if isinstance(self.tracking, list):
            object.__setattr__(self, "tracking", tuple(self.tracking))
        require_types("train", self)
        for name in (
            "num_steps",
            "accumulate_steps",
            "max_skipped_updates",
            "log_every_steps",
            "checkpoint_every_steps",
            "keep_checkpoints",
        ):
            value = getattr(self, name)
            require(value >= 1, f"train.{name}", value, "must be at least 1")
        require(
            self.eval_every_steps is None or self.eval_every_steps >= 1,
            "train.eval_every_steps",
            self.eval_every_steps,
            "must be at least 1, or None for every checkpoint",
        )
        require(
            self.patience is None or self.patience >= 1,
            "train.patience",
            self.patience,
            "must be at least 1 evaluation, or None",
        )
        require(0 <= self.seed < 2**32, "train.seed", self.seed, "must lie in [0, 2**32)")
