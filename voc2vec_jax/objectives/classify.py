"""Fine-tuning: telling labelled clips apart, by the whole model or by a head on fixed features."""

from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from numpy.typing import NDArray
from scipy.special import log_softmax

from voc2vec_jax.audio.frame_grid import frames_from_samples
from voc2vec_jax.config import Config
from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.models.architectures import CLASSIFIERS
from voc2vec_jax.models.classifier import PooledClassifier
from voc2vec_jax.models.layers import RowKeys
from voc2vec_jax.objectives import losses, masking
from voc2vec_jax.objectives.losses import Ratio
from voc2vec_jax.objectives.task import Batch, Judged, Metrics, Task
from voc2vec_jax.scores import confusion, scores_of

HEAD = ("projector.", "classifier.", "layer_weights")
"""Beginnings of the paths of a classifier's own parameters."""


@struct.dataclass
class ClassifyDraws:
    """All randomness of one update of fine-tuning."""

    span_mask: jax.Array | None  # [B, T] bool, frames that SpecAugment hides
    channel_mask: jax.Array | None  # [B, D] bool
    model_key: RowKeys | None  # dropout and layer drop; None for neither


@struct.dataclass
class ClassifySums:
    """What the objective is made of, summed over clips."""

    loss: jax.Array  # [] weighted
    weight: jax.Array  # []
    correct: jax.Array  # []
    clips: jax.Array  # []


class _Classification(Task):
    """What both ways of classifying share.

    Batches have `labels` [B] int32 and `weight` [B] float32: what a clip counts in the loss. Rows
    that only fill up a batch have weight 0 and count nowhere.
    """

    redrawn: tuple[str, ...] = HEAD

    def __init__(self, config: Config, protocol: Protocol = "grouped"):
        """`protocol` says what classes count of which no held-out clip is: see `scores_of`."""
        self.config, self.protocol = config, protocol

    def restart_rules(self) -> str:
        """See `Task.restart_rules`."""
        return (
            "restart: optimiser state, updates done and learning rate begin anew\n"
            "restart: the classifier is drawn anew, whatever the weights had for one"
        )

    def _sums(self, logits: jax.Array, batch: Batch) -> ClassifySums:
        labels, weight = batch["labels"], batch["weight"]
        loss = losses.cross_entropy(logits, labels, self.config.classify.label_smoothing)
        real = (weight > 0).astype(jnp.float32)
        correct = real * (jnp.argmax(logits, axis=-1) == labels)
        return ClassifySums(
            jnp.sum(weight * loss), jnp.sum(weight), jnp.sum(correct), jnp.sum(real)
        )

    def weigh(
        self, sums: ClassifySums, draws: ClassifyDraws, step: jax.Array
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """See `Task.weigh`; counts the weights of clips."""
        return sums.loss, sums.weight, {"accuracy": Ratio(sums.correct, sums.clips)}

    def figures(self, judged: Judged) -> dict[str, float]:
        """Weighted cross entropy, UAR, macro F1 and accuracy of clips, their windows averaged."""
        clips = clip_scores(judged, self.config)
        predicted = clips.logits.argmax(axis=1)
        loss = -log_softmax(clips.logits, axis=1)[np.arange(len(predicted)), clips.labels]
        counts = confusion(clips.labels, predicted, len(self.config.model.labels))
        return {
            "loss": float((clips.weight * loss).sum() / clips.weight.sum()),
            **asdict(scores_of(counts, self.protocol)),
        }


class ClassifyTask(_Classification):
    """Class-weighted cross entropy of a classifier, PyTorch's weighted mean after the division.

    What is frozen (`optim.frozen`) costs no backward pass: only what is trained is differentiated.
    """

    def __init__(self, config: Config, protocol: Protocol = "grouped"):
        super().__init__(config, protocol)
        self.architecture = CLASSIFIERS[config.model.model_type]

    def init(self, key: jax.Array) -> nnx.Module:
        """A fresh model."""
        return self.architecture(self.config.model, rngs=nnx.Rngs(key))

    def draw(
        self, lengths: jax.Array, samples: int, key: jax.Array, *, train: bool = True
    ) -> ClassifyDraws:
        """SpecAugment as `model.*` says, dropout and layer drop; none of them without `train`."""
        if not train:
            return ClassifyDraws(None, None, None)
        model = self.config.model
        augment_key, model_key = jax.random.split(key)
        total = frames_from_samples(samples, model.conv_kernel, model.conv_stride)
        frames = frames_from_samples(lengths, model.conv_kernel, model.conv_stride)
        if self.config.classify.padding == "hf":  # without a mask nothing tells padding apart
            frames = jnp.full_like(frames, total)
        spans, channels = masking.spec_augment(augment_key, frames, total, model)
        return ClassifyDraws(spans, channels, RowKeys(model_key, jnp.arange(lengths.shape[0])))

    def sums(self, model: Any, batch: Batch, draws: ClassifyDraws, step: jax.Array) -> ClassifySums:
        """See `Task.sums`."""
        out = model(
            batch["waveform"],
            batch["lengths"],
            padding=self.config.classify.padding,
            span_mask=draws.span_mask,
            channel_mask=draws.channel_mask,
            key=draws.model_key,
        )
        return self._sums(out.logits, batch)

    def predict(self, model: Any, batch: Batch) -> jax.Array:
        """Logits [B, N] float32."""
        padding = self.config.classify.padding
        logits: jax.Array = model(batch["waveform"], batch["lengths"], padding=padding).logits
        return logits.astype(jnp.float32)


class ProbeTask(_Classification):
    """The same with a frozen encoder: batches have `features` [B, K, D] in place of samples.

    They are the encoder's hidden states, averaged over a clip's frames, of K layers. The head is
    linear up to that average, so that these are the classifier's own logits.
    """

    architecture = PooledClassifier

    def init(self, key: jax.Array) -> PooledClassifier:
        """A fresh head."""
        return PooledClassifier(self.config.model, rngs=nnx.Rngs(key))

    def draw(
        self, lengths: jax.Array, samples: int, key: jax.Array, *, train: bool = True
    ) -> ClassifyDraws:
        """Nothing: a frozen encoder runs as in evaluation."""
        return ClassifyDraws(None, None, None)

    def sums(self, model: Any, batch: Batch, draws: ClassifyDraws, step: jax.Array) -> ClassifySums:
        """See `Task.sums`."""
        return self._sums(model(batch["features"]), batch)

    def predict(self, model: Any, batch: Batch) -> jax.Array:
        """Logits [B, N] float32."""
        logits: jax.Array = model(batch["features"])
        return logits


@dataclass(frozen=True)
class ClipScores:
    """What a classifier says of clips, in ascending order of their index."""

    clips: NDArray[np.int32]
    """[clips] index in the corpus."""
    labels: NDArray[np.int32]
    weight: NDArray[np.float32]
    logits: NDArray[np.float32]
    """[clips, N]."""


def clip_scores(judged: Judged, config: Config) -> ClipScores:
    """Logits of clips: the mean over their windows, each weighed by its frames.

    The classifier reads a mean over frames, and what follows is linear (unless it has an
    activation), so that this is what it would say of the frames of all windows together.
    """
    columns = {
        name: np.concatenate([np.asarray(batch[name]) for batch, _ in judged])
        for name in ("clips", "labels", "weight", "lengths")
    }
    logits = np.concatenate([np.asarray(rows, np.float64) for _, rows in judged])
    real = columns["weight"] > 0
    clips, first, inverse = np.unique(
        columns["clips"][real], return_index=True, return_inverse=True
    )
    model = config.model
    frames = frames_from_samples(columns["lengths"][real], model.conv_kernel, model.conv_stride)
    sums = np.zeros((len(clips), logits.shape[1]))
    np.add.at(sums, inverse, frames[:, None] * logits[real])
    return ClipScores(
        clips=clips.astype(np.int32),
        labels=columns["labels"][real][first],
        weight=columns["weight"][real][first],
        logits=(sums / np.bincount(inverse, frames)[:, None]).astype(np.float32),
    )
