"""Span masks and negatives: pure functions of explicit keys and clip lengths.

Every clip has its own key, so that what is drawn for it does not depend on how the batch is spread
over devices, nor on its neighbours, unless a rule of the reference says so (`equalize`).
"""

import jax
import jax.numpy as jnp

from voc2vec_jax.config import MaskConfig, ModelConfig


def span_mask(
    key: jax.Array, frames: jax.Array, total_frames: int, config: MaskConfig
) -> jax.Array:
    """Frames to hide, in overlapping spans, by the rules of one of two reference samplers.

    A clip of n frames gets floor(prob · n / length + u) spans, u uniform in [0, 1), and at least
    `min_spans`, at distinct starts.

    `fairseq` (`compute_mask_indices`): every clip draws its own u; starts lie before n - length, so
    the last frame is never hidden unless the clip is too short for that rule.

    `hf` (`_compute_mask_indices` of transformers): the batch shares one u; starts go up to
    n - length, so the last frame can be hidden; at most T // length spans, and no more than starts.
    Where a clip is shorter than a span, transformers raises an error or hides padding instead;
    here one span is cut at the clip's end.

    In two respects both differ from their references: without `equalize`, counts are not equalised
    over the batch (fairseq's do, which assumes equally long clips), and where the spans would cover
    a whole clip, which stops fairseq with an error and which transformers lets happen, one frame
    chosen at random stays visible.

    Args:
        key: Random key.
        frames: [B] int, valid frames of each clip.
        total_frames: T.
        config: Masking parameters.

    Returns:
        [B, T] bool, True where hidden; False beyond a clip's frames. A clip of one frame has no
        hidden frame.
    """
    if config.equalize:
        key, equalize_key = jax.random.split(key)
    keys = jax.random.split(key, frames.shape[0])
    if config.sampler == "hf":
        # No clip's key: `split` makes those by folding in the numbers below B.
        shared = jax.random.uniform(jax.random.fold_in(key, 2**32 - 1))
    else:
        shared = None
    hidden = jax.vmap(lambda key, count: _clip_span_mask(key, count, total_frames, config, shared))(
        keys, frames
    )
    return _equalized(equalize_key, hidden) if config.equalize else hidden


def spec_augment(
    key: jax.Array, frames: jax.Array, total_frames: int, model: ModelConfig
) -> tuple[jax.Array | None, jax.Array | None]:
    """What fine-tuning hides, as the checkpoint's configuration says (SpecAugment).

    The rules are those of transformers, with the exceptions that `span_mask` names. Spans of
    HuBERT keep off the padding too, where transformers lets them fall on it.

    Args:
        key: Random key.
        frames: [B] int, valid frames of each clip.
        total_frames: T.
        model: Says `apply_spec_augment`, and `mask_time_*` and `mask_feature_*`.

    Returns:
        Frames to hide, [B, T] bool, and channels to hide, [B, D] bool; None for either where
        nothing is to be hidden.
    """
    time_key, channel_key = jax.random.split(key)
    spans = channels = None
    if model.apply_spec_augment and model.mask_time_prob > 0:
        rule = MaskConfig(
            model.mask_time_prob, model.mask_time_length, model.mask_time_min_masks, "hf"
        )
        spans = span_mask(time_key, frames, total_frames, rule)
    if model.apply_spec_augment and model.mask_feature_prob > 0:
        rule = MaskConfig(
            model.mask_feature_prob, model.mask_feature_length, model.mask_feature_min_masks, "hf"
        )
        width = jnp.full_like(frames, model.hidden_size)
        channels = span_mask(channel_key, width, model.hidden_size, rule)
    return spans, channels


def _clip_span_mask(
    key: jax.Array,
    frames: jax.Array,
    total_frames: int,
    config: MaskConfig,
    shared_rounding: jax.Array | None,
) -> jax.Array:
    count_key, start_key, visible_key = jax.random.split(key, 3)
    positions = jnp.arange(total_frames)
    rounding = jax.random.uniform(count_key) if shared_rounding is None else shared_rounding
    spans = jnp.floor(config.prob * frames / config.length + rounding).astype(jnp.int32)
    spans = jnp.maximum(spans, config.min_spans)
    # Starts lie in [0, bound).
    if config.sampler == "hf":
        bound = jnp.maximum(frames - config.length + 1, 1)
        spans = jnp.minimum(spans, jnp.minimum(bound, max(total_frames // config.length, 1)))
    else:
        # A clip with too few of them gets one more start than spans.
        bound = jnp.where(frames - config.length <= spans, spans + 1, frames - config.length)
    # `spans` draws without replacement: the starts with the smallest scores.
    scores = jnp.where(positions < bound, jax.random.uniform(start_key, (total_frames,)), 2.0)
    is_start = (_rank(scores) < spans) & (positions < bound)
    # A frame is hidden if one of the `length` frames up to and including it starts a span.
    started = jnp.cumsum(is_start)
    before = jnp.pad(started, (config.length, 0))[:total_frames]
    valid = positions < frames
    hidden = (started > before) & valid
    visible = jnp.floor(jax.random.uniform(visible_key) * frames).astype(jnp.int32)
    covers_all = jnp.sum(hidden) == frames
    return hidden & ~(covers_all & (positions == visible))


def _equalized(key: jax.Array, hidden: jax.Array) -> jax.Array:
    """Uncovers single frames at random until every clip hides as few as the one with the fewest."""
    fewest = jnp.min(jnp.sum(hidden, axis=1))
    keys = jax.random.split(key, hidden.shape[0])

    def keep(key: jax.Array, hidden: jax.Array) -> jax.Array:
        scores = jnp.where(hidden, jax.random.uniform(key, hidden.shape), 2.0)
        return hidden & (_rank(scores) < fewest)

    return jax.vmap(keep)(keys, hidden)


def _rank(scores: jax.Array) -> jax.Array:
    return jnp.argsort(jnp.argsort(scores))


def counted_frames(hidden: jax.Array) -> jax.Array:
    """The hidden frames that the contrastive loss counts: those with another one in their clip.

    Args:
        hidden: [B, T] bool.

    Returns:
        [B, T] bool.
    """
    return hidden & (jnp.sum(hidden, axis=1, keepdims=True) >= 2)


def sample_negatives(key: jax.Array, hidden: jax.Array, count: int) -> jax.Array:
    """For every hidden frame, `count` other hidden frames of the same clip, with replacement.

    The distribution is that of fairseq (`cross_sample_negatives=0`) and of transformers'
    `_sample_negative_indices`.

    Args:
        key: Random key.
        hidden: [B, T] bool.
        count: K, negatives per frame.

    Returns:
        [B, T, K] int32 frame indices within the clip. Rows of frames that are not hidden, and of
        clips with fewer than two hidden frames, mean nothing.
    """
    keys = jax.random.split(key, hidden.shape[0])
    return jax.vmap(lambda key, hidden: _clip_negatives(key, hidden, count))(keys, hidden)


def _clip_negatives(key: jax.Array, hidden: jax.Array, count: int) -> jax.Array:
    total = jnp.sum(hidden)
    rank = jnp.cumsum(hidden) - 1  # [T], of a hidden frame among the hidden ones
    frame_of_rank = jnp.argsort(~hidden, stable=True)  # [T], hidden frames first
    draw = jax.random.randint(
        key, (hidden.shape[0], count), 0, jnp.maximum(total - 1, 1), dtype=jnp.int32
    )
    draw = draw + (draw >= rank[:, None])  # step over the frame itself
    return frame_of_rank[jnp.minimum(draw, hidden.shape[0] - 1)].astype(jnp.int32)
