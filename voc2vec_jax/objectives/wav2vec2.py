"""wav2vec 2.0 pre-training: telling a masked frame's code from those of other masked frames."""

import math

import jax
import jax.numpy as jnp
from flax import nnx, struct

from voc2vec_jax.audio.frame_grid import frames_from_samples
from voc2vec_jax.config import Config
from voc2vec_jax.models import Wav2Vec2ForPreTraining
from voc2vec_jax.models.layers import RowKeys
from voc2vec_jax.objectives import losses, masking
from voc2vec_jax.objectives.losses import Ratio
from voc2vec_jax.objectives.task import Batch, Metrics, Task, heard_rows


@struct.dataclass
class Draws:
    """All randomness of one wav2vec 2.0 update, to be drawn or to be given by a test."""

    span_mask: jax.Array  # [B, T] bool
    negatives: jax.Array  # [B, T, K] int32
    gumbel: jax.Array | None  # [B, T, G, V]; None for the likeliest code (evaluation)
    model_key: RowKeys | None  # dropout and layer drop; None for neither
    counted_share: jax.Array  # [] frames in the loss, over all frames of the whole batch


@struct.dataclass
class Wav2Vec2Sums:
    """What the objective is made of, summed over clips."""

    contrastive: losses.Contrastive
    codes: losses.CodeCounts
    penalty: jax.Array  # [] mean square of the features of each frame
    frames: jax.Array  # [] that are not padding
    masked: jax.Array  # []


class Wav2Vec2Task(Task):
    """wav2vec 2.0 pre-training: contrastive + diversity + feature penalty.

    The recipe is fairseq's, with one deliberate difference: fairseq crops all clips of a batch to
    the shortest, here they are padded to the bucket and the padding is excluded everywhere
    (`padding="masked"`), since clips of non-verbal sound differ in length by a factor of a hundred.
    Negatives never come from other clips (`cross_sample_negatives` is 0 in every recipe).
    """

    architecture = Wav2Vec2ForPreTraining

    def __init__(self, config: Config):
        self.config = config
        reset = config.objective.codebook == "reset"
        self.redrawn: tuple[str, ...] = ("quantizer.", "project_q.") if reset else ()

    def restart_rules(self) -> str:
        """See `Task.restart_rules`; all of them are settings, none is guessed."""
        objective = self.config.objective
        return (
            "restart: optimiser state, updates done and learning rate begin anew\n"
            f"restart: Gumbel temperature begins at {objective.gumbel_temperature_start} "
            "(objective.gumbel_temperature_start; give the value that the weights were last "
            "trained at to go on from there)\n"
            f"restart: codebook {objective.codebook} (objective.codebook; reset draws quantizer "
            "and project_q anew)"
        )

    def init(self, key: jax.Array) -> Wav2Vec2ForPreTraining:
        """A fresh model, initialised as fairseq does."""
        return Wav2Vec2ForPreTraining(self.config.model, rngs=nnx.Rngs(key))

    def draw(
        self, lengths: jax.Array, samples: int, key: jax.Array, *, train: bool = True
    ) -> Draws:
        """Masks, negatives and noise for clips of `lengths` [B] padded to `samples`.

        Without `train`, neither Gumbel noise nor dropout.
        """
        model = self.config.model
        mask_key, negative_key, gumbel_key, model_key = jax.random.split(key, 4)
        total = frames_from_samples(samples, model.conv_kernel, model.conv_stride)
        frames = frames_from_samples(lengths, model.conv_kernel, model.conv_stride)
        hidden = masking.span_mask(mask_key, frames, total, self.config.mask)
        noise_shape = (
            lengths.shape[0],
            total,
            model.num_codevector_groups,
            model.num_codevectors_per_group,
        )
        counted = jnp.sum(masking.counted_frames(hidden))
        return Draws(
            span_mask=hidden,
            negatives=masking.sample_negatives(negative_key, hidden, model.num_negatives),
            gumbel=jax.random.gumbel(gumbel_key, noise_shape) if train else None,
            model_key=RowKeys(model_key, jnp.arange(lengths.shape[0])) if train else None,
            counted_share=counted / jnp.maximum(jnp.sum(frames), 1),
        )

    def temperature(self, step: jax.Array) -> jax.Array:
        """Gumbel temperature after `step` updates."""
        objective = self.config.objective
        # The logarithm is taken in double precision: float32 cannot tell 0.999995 from 0.99999499.
        decay = jnp.exp(step * math.log(objective.gumbel_temperature_decay))
        return jnp.maximum(
            objective.gumbel_temperature_start * decay, objective.gumbel_temperature_stop
        )

    def sums(
        self, model: Wav2Vec2ForPreTraining, batch: Batch, draws: Draws, step: jax.Array
    ) -> Wav2Vec2Sums:
        """See `Task.sums`; without Gumbel noise the likeliest codes are chosen."""
        out = model(
            batch["waveform"],
            batch["lengths"],
            padding="masked",
            span_mask=draws.span_mask,
            temperature=None if draws.gumbel is None else self.temperature(step),
            gumbel=draws.gumbel,
            feature_grad_mult=self.config.objective.feature_grad_mult,
            key=draws.model_key,
        )
        heard = heard_rows(batch)
        counted = masking.counted_frames(draws.span_mask) & heard
        valid = out.encoder.frame_mask & heard
        return Wav2Vec2Sums(
            contrastive=losses.contrastive_loss(
                out.predictions,
                out.targets,
                out.quantized.codes,
                counted,
                draws.negatives,
                self.config.model.contrastive_logits_temperature,
            ),
            codes=losses.code_counts(out.quantized, counted),
            penalty=losses.feature_penalty(out.encoder.conv_features, valid),
            frames=jnp.sum(valid).astype(jnp.float32),
            masked=jnp.sum(draws.span_mask & heard).astype(jnp.float32),
        )

    def weigh(
        self, sums: Wav2Vec2Sums, draws: Draws, step: jax.Array
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """See `Task.weigh`: Σ CE + S · (α · diversity + β · penalty), and S.

        S is the number of counted frames, masked and with negatives, so that after the division by
        S the regularisers keep their weight whatever share of the frames was masked. Cross entropy
        and penalty add up over micro-batches to those of the whole batch; diversity is that of
        each one, weighted by S.
        """
        loss, frames, metrics = self._weigh(sums, draws.counted_share)
        if draws.gumbel is not None:
            metrics["temperature"] = Ratio(self.temperature(step), jnp.ones(()))
        return loss, frames, metrics

    def figures(self, sums: Wav2Vec2Sums) -> Metrics:
        """See `AddsUp.figures`; diversity and perplexities are those of all clips together."""
        share = sums.contrastive.frames / jnp.maximum(sums.frames, 1)
        loss, frames, metrics = self._weigh(sums, share)
        return {"loss": Ratio(loss, frames), **metrics}

    def _weigh(
        self, sums: Wav2Vec2Sums, counted_share: jax.Array
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        """Loss, count and metrics; `counted_share` is that of the whole batch."""
        config, objective = self.config.model, self.config.objective
        contrastive, use = sums.contrastive, losses.code_use(sums.codes)
        entries = config.num_codevector_groups * config.num_codevectors_per_group
        diversity = losses.diversity_loss(use, entries)
        frames = contrastive.frames
        penalty = sums.penalty * counted_share  # as S · penalty, were the batch not split
        loss = (
            contrastive.loss
            + frames * config.diversity_loss_weight * diversity
            + objective.feature_penalty_weight * penalty
        )

        one = jnp.ones(())
        groups = use.probability_perplexity_per_group
        metrics = {
            "contrastive_loss": Ratio(contrastive.loss, frames),
            "diversity_loss": Ratio(frames * diversity, frames),
            "feature_penalty": Ratio(penalty, frames),
            "accuracy": Ratio(contrastive.correct, frames),
            "code_perplexity": Ratio(use.code_perplexity, one),
            "probability_perplexity": Ratio(use.probability_perplexity, one),
            **{
                f"probability_perplexity_{group}": Ratio(groups[group], one)
                for group in range(groups.shape[0])
            },
            "masked_share": Ratio(sums.masked, sums.frames),
        }
        return loss, frames, metrics
