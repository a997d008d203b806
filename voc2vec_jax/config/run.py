"""A whole run: the parts of its configuration, and what must hold between them."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.config.data import DataConfig
from voc2vec_jax.config.model import ModelConfig, require, require_types
from voc2vec_jax.config.recipe import ClassifyConfig, MaskConfig, ObjectiveConfig, OptimConfig
from voc2vec_jax.config.train import MeshConfig, TrainConfig


@dataclass(frozen=True)
class Config:
    """A whole run; what `get_config()` of a file in `configs/` returns."""

    task: Literal["wav2vec2", "hubert", "classify"] = "wav2vec2"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        require_types("config", self)
        require(
            self.task == "classify"  # the published recipe often stops before its peak
            or self.optim.warmup_share is not None
            or self.optim.warmup_steps < self.train.num_steps,
            "optim.warmup_steps",
            self.optim.warmup_steps,
            f"must be less than train.num_steps={self.train.num_steps}",
        )
        for name, off in (
            ("eval_every_steps", None),
            ("export_checkpoint", "last"),
            ("patience", None),
        ):
            value = getattr(self.train, name)
            require(
                value == off or self.data.eval_share > 0,
                f"train.{name}",
                value,
                "nothing is held out; give data.eval_share, such as 0.05",
            )
        require(
            self.train.best_by == "loss" or self.task == "classify",
            "train.best_by",
            self.train.best_by,
            f"task {self.task} is judged by its loss alone",
        )
        require(
            self.model.has_mask_embedding or self.task == "classify",
            "model.mask_time_prob",
            self.model.mask_time_prob,
            "pre-training needs the mask embedding, which exists only where it or"
            " model.mask_feature_prob is above 0",
        )
        shortest = self.model.receptive_field_samples / SAMPLE_RATE
        require(
            self.data.min_seconds >= shortest,
            "data.min_seconds",
            self.data.min_seconds,
            f"the convolutions of this model need {shortest} s for their first frame",
        )

        self._require_what_the_task_needs()

    def _require_what_the_task_needs(self) -> None:
        require(
            self.task == "classify" or self.model.model_type == self.task,
            "model.model_type",
            self.model.model_type,
            f"task={self.task!r} trains models of the type {self.task}",
        )
        if self.task == "hubert":
            require(
                self.data.labels is not None,
                "data.labels",
                self.data.labels,
                "HuBERT predicts cluster labels; make them with python -m tools.make_labels, and "
                "give the folder that it wrote",
            )
        else:
            require(
                self.data.labels is None,
                "data.labels",
                self.data.labels,
                f"task={self.task!r} predicts no frame labels; leave it out, or give task='hubert'",
            )

    @property
    def eval_every_steps(self) -> int | None:
        """How often the held-out clips are heard; None if there are none."""
        if self.data.eval_share == 0:
            return None
        return self.train.eval_every_steps or self.train.checkpoint_every_steps

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values (tuples become lists), equal after a trip through JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain
