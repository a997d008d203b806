"""The equations.

Losses of frames are sums beside their counts, never means: how many frames are masked differs from
clip to clip and from device to device, and only sums add up. The division happens once, in the
update. Diversity is that of one micro-batch, which the task weighs. Everything here is float32.
"""

import jax
import jax.numpy as jnp
from flax import struct

from voc2vec_jax import ops
from voc2vec_jax.models.quantizer import Quantized

ENTROPY_EPSILON = 1e-7
"""fairseq takes log(p + 1e-7); transformers p·log p with 0·log 0 = 0."""


@struct.dataclass
class Ratio:
    """A sum and its denominator; add both over batches, divide at the end."""

    total: jax.Array
    count: jax.Array


@struct.dataclass
class Contrastive:
    """Sums of the contrastive task over the counted frames."""

    loss: jax.Array
    frames: jax.Array
    correct: jax.Array


@jax.named_scope("contrastive_loss")
def contrastive_loss(
    predictions: jax.Array,
    targets: jax.Array,
    codes: jax.Array,
    counted: jax.Array,
    negatives: jax.Array,
    temperature: float,
) -> Contrastive:
    """InfoNCE over the true target and the drawn negatives (wav2vec 2.0, equation 3).

    Instead of gathering [B, T, K, P] negative vectors, the similarity of all pairs of frames in a
    clip is computed once, and each pair weighs as often as it was drawn. A negative with the same
    codes as the target is left out of the denominator, as in both reference implementations.

    Args:
        predictions: [B, T, P].
        targets: [B, T, P].
        codes: [B, T, G] int, what `targets` were made of.
        counted: [B, T] bool, frames that enter the loss.
        negatives: [B, T, K] int frame indices within the clip.
        temperature: κ, divides the cosine.

    Returns:
        Sums over the counted frames. A frame is correct if no negative is more similar than the
        target and at least one is less similar; one whose negatives all carry the target's own
        codes is not (fairseq counts it as correct, which makes a collapsed codebook look perfect).
    """
    predictions, targets = _unit(predictions), _unit(targets)
    similarity = jnp.einsum("btp,bsp->bts", predictions, targets, precision=ops.exact(targets))
    similarity /= temperature
    batch, frames, _ = similarity.shape
    rows = jnp.arange(batch)[:, None, None], jnp.arange(frames)[None, :, None]
    drawn = jnp.zeros_like(similarity).at[(*rows, negatives)].add(1.0)  # [B, T, T]
    same = jnp.all(codes[:, :, None, :] == codes[:, None, :, :], axis=-1)
    weight = jnp.where(same, 0.0, drawn)

    positive = jnp.diagonal(similarity, axis1=1, axis2=2)  # [B, T]
    present = weight > 0
    lowest = jnp.finfo(similarity.dtype).min
    hardest = jnp.max(jnp.where(present, similarity, lowest), axis=-1)
    peak = jax.lax.stop_gradient(jnp.maximum(positive, hardest))
    shifted = jnp.where(present, similarity - peak[:, :, None], 0.0)
    denominator = jnp.exp(positive - peak) + jnp.sum(weight * jnp.exp(shifted), axis=-1)
    loss = jnp.where(counted, jnp.log(denominator) + peak - positive, 0.0)

    easiest = jnp.min(jnp.where(present, similarity, -lowest), axis=-1)
    chosen = jnp.any(present, axis=-1) & (positive >= hardest) & (positive > easiest)
    return Contrastive(
        loss=jnp.sum(loss),
        frames=jnp.sum(counted).astype(jnp.float32),
        correct=jnp.sum(counted & chosen).astype(jnp.float32),
    )


@struct.dataclass
class MaskedPrediction:
    """Sums of HuBERT's task over a set of frames, and how labels and predictions are spread."""

    loss: jax.Array  # [] cross entropy
    frames: jax.Array  # []
    correct: jax.Array  # []
    targets: jax.Array  # [N] frames by label
    predictions: jax.Array  # [N] frames by likeliest label


@jax.named_scope("label_logits")
def label_logits(predictions: jax.Array, embeddings: jax.Array, temperature: float) -> jax.Array:
    """Cosine of frames and label embeddings over `temperature` (HuBERT, equation 3), in float32.

    fairseq puts the true label into a column of its own and -inf into its old place, which is the
    same softmax over all labels.

    Args:
        predictions: [B, T, P].
        embeddings: [N, P].
        temperature: τ.

    Returns:
        [B, T, N].
    """
    predictions, embeddings = _unit(predictions), _unit(embeddings)
    cosines = jnp.einsum("btp,np->btn", predictions, embeddings, precision=ops.exact(embeddings))
    return cosines / temperature


@jax.named_scope("masked_prediction")
def masked_prediction(
    logits: jax.Array, targets: jax.Array, counted: jax.Array
) -> MaskedPrediction:
    """Cross entropy of the frames' labels (HuBERT, section 2.2).

    Args:
        logits: [B, T, N].
        targets: [B, T] int, read where `counted` only.
        counted: [B, T] bool, frames that enter the sums.

    Returns:
        Sums over the counted frames. A frame is correct if no label is likelier than its own, and
        at least one is less likely, as in fairseq: equal logits are no hit.
    """
    labels = logits.shape[-1]
    own = jnp.take_along_axis(logits, jnp.where(counted, targets, 0)[:, :, None], axis=-1)[:, :, 0]
    loss = jax.nn.logsumexp(logits, axis=-1) - own
    correct = (own >= jnp.max(logits, axis=-1)) & (own > jnp.min(logits, axis=-1))

    def by_label(which: jax.Array) -> jax.Array:
        return jnp.sum(jax.nn.one_hot(which, labels) * counted[:, :, None], axis=(0, 1))

    return MaskedPrediction(
        loss=jnp.sum(jnp.where(counted, loss, 0.0)),
        frames=jnp.sum(counted).astype(jnp.float32),
        correct=jnp.sum(counted & correct).astype(jnp.float32),
        targets=by_label(targets),
        predictions=by_label(jnp.argmax(logits, axis=-1)),
    )


def entropy_of_counts(counts: jax.Array) -> jax.Array:
    """Entropy in nats of how `counts` [N] are spread; 0 of no counts."""
    shares = counts / jnp.maximum(jnp.sum(counts), 1)
    return -jnp.sum(jax.scipy.special.xlogy(shares, shares))


def _unit(vectors: jax.Array) -> jax.Array:
    # The floor is that of torch.cosine_similarity.
    vectors = vectors.astype(jnp.float32)
    squared = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squared, 1e-16))


@struct.dataclass
class CodeUse:
    """How evenly the codebooks are used, between G (one entry each) and G·V (all entries)."""

    probability_perplexity: jax.Array  # [] soft, what the diversity loss rewards
    code_perplexity: jax.Array  # [] of the hard choices, for the log only
    probability_perplexity_per_group: jax.Array  # [G]


@struct.dataclass
class CodeCounts:
    """How often the entries of the codebooks were used, summed over frames."""

    probabilities: jax.Array  # [G, V] noise-free
    chosen: jax.Array  # [G, V] frames by code
    frames: jax.Array  # []


def code_counts(quantized: Quantized, counted: jax.Array) -> CodeCounts:
    """Sums over the frames that are `counted` [B, T] bool."""
    weight = counted.astype(jnp.float32)
    entries = quantized.probabilities.shape[-1]

    def total(values: jax.Array) -> jax.Array:  # [B, T, G, V] -> [G, V]
        return jnp.einsum("bt,btgv->gv", weight, values, precision=ops.exact(values))

    return CodeCounts(
        probabilities=total(quantized.probabilities),
        chosen=total(jax.nn.one_hot(quantized.codes, entries)),
        frames=jnp.sum(weight),
    )


def code_use(counts: CodeCounts) -> CodeUse:
    """Perplexity of the average code distribution (wav2vec 2.0, equation 4, exponentiated)."""

    def perplexity(total: jax.Array) -> jax.Array:  # [G, V] -> [G]
        mean = total / jnp.maximum(counts.frames, 1)
        entropy = -jnp.sum(mean * jnp.log(mean + ENTROPY_EPSILON), axis=-1)
        return jnp.exp(entropy)

    soft = perplexity(counts.probabilities)
    return CodeUse(jnp.sum(soft), jnp.sum(perplexity(counts.chosen)), soft)


def diversity_loss(use: CodeUse, entries: int) -> jax.Array:
    """(GV - Σ_g exp H(p̄_g)) / GV, the form of wav2vec 2.0's equation 4 that fairseq trains.

    0 when all of the G·V codebook `entries` are used alike, towards 1 when a few are.
    """
    return (entries - use.probability_perplexity) / entries


def feature_penalty(features: jax.Array, frame_mask: jax.Array) -> jax.Array:
    """Mean square of each frame's features before their norm, summed (fairseq's `features_pen`).

    Args:
        features: [B, T, C].
        frame_mask: [B, T] bool; padding does not count. (fairseq crops instead of padding.)
    """
    weight = frame_mask.astype(jnp.float32)[:, :, None]
    return jnp.sum(jnp.square(features.astype(jnp.float32)) * weight) / features.shape[-1]


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """-log p of each row's class; with smoothing, a share of the target lies on all classes alike.

    As `torch.nn.functional.cross_entropy` without a reduction and without class weights, which
    weigh a row as a whole here, while PyTorch weighs the smoothed share by the weights of all
    classes.

    Args:
        logits: [B, N].
        labels: [B] int.
        smoothing: Share that is spread.

    Returns:
        [B] float32.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    chosen = jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    return -(1 - smoothing) * chosen - smoothing * jnp.mean(log_p, axis=-1)
