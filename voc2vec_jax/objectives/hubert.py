"""HuBERT pre-training: predicting the cluster labels of frames that the encoder does not see."""

import jax
import jax.numpy as jnp
from flax import nnx, struct

from voc2vec_jax.audio.frame_grid import frames_from_samples
from voc2vec_jax.config import Config
from voc2vec_jax.models import HubertForPreTraining
from voc2vec_jax.models.layers import RowKeys
from voc2vec_jax.objectives import losses, masking
from voc2vec_jax.objectives.losses import MaskedPrediction, Ratio
from voc2vec_jax.objectives.task import Batch, Metrics, Task, heard_rows


@struct.dataclass
class HubertDraws:
    """All randomness of one HuBERT update, to be drawn or to be given by a test."""

    span_mask: jax.Array  # [B, T] bool
    model_key: RowKeys | None  # dropout and layer drop; None for neither
    counted_share: jax.Array  # [] frames in the loss, over all frames of the whole batch


@struct.dataclass
class HubertSums:
    """What the objective is made of, summed over clips."""

    masked: MaskedPrediction
    unmasked: MaskedPrediction
    penalty: jax.Array  # [] mean square of the features of each frame
    frames: jax.Array  # [] that are not padding
    hidden: jax.Array  # [] that are masked, with or without a label


class HubertTask(Task):
    """HuBERT pre-training: cross entropy of the labels of masked frames + feature penalty.

    Batches carry `targets` [B, T] int32, the clusters of frames, -1 where a frame has none. The
    recipe is fairseq's; clips are padded and the padding excluded, as in `Wav2Vec2Task`.
    """

    architecture = HubertForPreTraining

    def __init__(self, config: Config):
        self.config = config
        reset = config.objective.label_embeddings == "reset"
        self.redrawn: tuple[str, ...] = ("label_embs_concat",) if reset else ()

    def restart_rules(self) -> str:
        """See `Task.restart_rules`; all of them are settings, none is guessed."""
        return (
            "restart: optimiser state, updates done and learning rate begin anew\n"
            f"restart: label embeddings {self.config.objective.label_embeddings} "
            "(objective.label_embeddings; keep goes on with those of the source, which mean "
            "something only to the labels that they were trained with)\n"
            "restart: final_proj is that of the source where it has one"
        )

    def init(self, key: jax.Array) -> HubertForPreTraining:
        """A fresh model, initialised as fairseq does."""
        return HubertForPreTraining(self.config.model, rngs=nnx.Rngs(key))

    def draw(
        self, lengths: jax.Array, samples: int, key: jax.Array, *, train: bool = True
    ) -> HubertDraws:
        """Masks for clips of `lengths` [B] padded to `samples`; without `train`, no dropout."""
        model, objective = self.config.model, self.config.objective
        mask_key, model_key = jax.random.split(key)
        total = frames_from_samples(samples, model.conv_kernel, model.conv_stride)
        frames = frames_from_samples(lengths, model.conv_kernel, model.conv_stride)
        hidden = masking.span_mask(mask_key, frames, total, self.config.mask)
        masked, valid = jnp.sum(hidden), jnp.sum(frames)
        counted = jnp.zeros((), jnp.int32)
        if objective.masked_weight > 0:
            counted += masked
        if objective.unmasked_weight > 0:
            counted += valid - masked
        return HubertDraws(
            span_mask=hidden,
            model_key=RowKeys(model_key, jnp.arange(lengths.shape[0])) if train else None,
            counted_share=counted / jnp.maximum(valid, 1),
        )

    def sums(
        self, model: HubertForPreTraining, batch: Batch, draws: HubertDraws, step: jax.Array
    ) -> HubertSums:
        """See `Task.sums`.

        Logits are made of all frames whatever the weights, for the accuracy of both sets; they cost
        a thousandth of the encoder.
        """
        objective = self.config.objective
        out = model(
            batch["waveform"],
            batch["lengths"],
            padding="masked",
            span_mask=draws.span_mask,
            feature_grad_mult=objective.feature_grad_mult,
            key=draws.model_key,
        )
        logits = losses.label_logits(
            out.predictions, model.label_embs_concat[...], objective.logit_temperature
        )
        heard = heard_rows(batch)
        valid = out.frame_mask & heard
        labelled = valid & (batch["targets"] >= 0)
        targets = batch["targets"] + self.config.model.num_special_classes
        return HubertSums(
            masked=losses.masked_prediction(logits, targets, labelled & draws.span_mask),
            unmasked=losses.masked_prediction(logits, targets, labelled & ~draws.span_mask),
            penalty=losses.feature_penalty(out.encoder.conv_features, valid),
            frames=jnp.sum(valid).astype(jnp.float32),
            hidden=jnp.sum(draws.span_mask & heard).astype(jnp.float32),
        )

    def weigh(
        self, sums: HubertSums, draws: HubertDraws, step: jax.Array
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """See `Task.weigh`: α · Σ CE of masked frames + α' · Σ CE of the others + S · β · penalty.

        α, α' and β are `objective.masked_weight`, `unmasked_weight` and `feature_penalty_weight`; S
        counts the frames of the sets whose weight is not 0.
        """
        return self._weigh(sums, draws.counted_share)

    def figures(self, sums: HubertSums) -> Metrics:
        """See `AddsUp.figures`; how labels are spread is that of all clips together."""
        objective = self.config.objective
        counted = jnp.zeros(())
        if objective.masked_weight > 0:
            counted += sums.hidden
        if objective.unmasked_weight > 0:
            counted += sums.frames - sums.hidden
        loss, count, metrics = self._weigh(sums, counted / jnp.maximum(sums.frames, 1))
        return {"loss": Ratio(loss, count), **metrics}

    def _weigh(
        self, sums: HubertSums, counted_share: jax.Array
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Loss, count and metrics; `counted_share` is that of the whole batch."""
        objective, masked, unmasked = self.config.objective, sums.masked, sums.unmasked
        loss, count = jnp.zeros(()), jnp.zeros(())
        for part, weight in (
            (masked, objective.masked_weight),
            (unmasked, objective.unmasked_weight),
        ):
            if weight > 0:
                loss += weight * part.loss
                count += part.frames
        # As S · penalty, were the batch not split; a frame that is masked but has no label, which
        # is rare, is in this S.
        penalty = sums.penalty * counted_share
        loss += objective.feature_penalty_weight * penalty

        metrics = {
            "masked_loss": Ratio(masked.loss, masked.frames),
            "unmasked_loss": Ratio(unmasked.loss, unmasked.frames),
            "masked_accuracy": Ratio(masked.correct, masked.frames),
            "unmasked_accuracy": Ratio(unmasked.correct, unmasked.frames),
            "feature_penalty": Ratio(penalty, count),
            "masked_share": Ratio(sums.hidden, sums.frames),
            **_spread(masked),
        }
        return loss, count, metrics


def _spread(masked: MaskedPrediction) -> Metrics:
    """How the labels of the masked frames of a (micro-)batch and their predictions are spread.

    `majority_rate` is the accuracy of always predicting the commonest label of this very batch,
    which nobody could know beforehand: what is above it has learnt more than frequencies.
    """
    one = jnp.ones(())
    entropy = losses.entropy_of_counts(masked.targets)
    return {
        "majority_rate": Ratio(jnp.max(masked.targets), masked.frames),
        "target_entropy": Ratio(entropy, one),
        "target_perplexity": Ratio(jnp.exp(entropy), one),
        "prediction_perplexity": Ratio(jnp.exp(losses.entropy_of_counts(masked.predictions)), one),
    }
