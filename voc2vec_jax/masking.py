"""Span masks and negatives: pure functions of explicit keys and clip lengths.

Every clip has its own key, so that what is drawn for it depends neither on its neighbours nor on
how the batch is spread over devices.
"""

import jax
import jax.numpy as jnp

from voc2vec_jax.config import MaskConfig


def span_mask(
    key: jax.Array, frames: jax.Array, total_frames: int, config: MaskConfig
) -> jax.Array:
    """Frames to hide, in overlapping spans, by the rules of fairseq's `compute_mask_indices`.

    A clip of n frames gets floor(prob · n / length + u) spans, u uniform in [0, 1), at least
    `min_spans`, at distinct starts before n - length; the last frame is never hidden unless the
    clip is too short for that rule. In two respects this differs from fairseq: counts are not
    equalised over the batch (that assumes equally long clips), and where the spans would cover a
    whole clip, which stops fairseq with an error, one frame chosen at random stays visible.

    Args:
        key: Random key.
        frames: [B] int, valid frames of each clip.
        total_frames: T.
        config: Masking parameters.

    Returns:
        [B, T] bool, True where hidden; False beyond a clip's frames. A clip of one frame has no
        hidden frame.
    """
    keys = jax.random.split(key, frames.shape[0])
    return jax.vmap(lambda key, count: _clip_span_mask(key, count, total_frames, config))(
        keys, frames
    )


def _clip_span_mask(
    key: jax.Array, frames: jax.Array, total_frames: int, config: MaskConfig
) -> jax.Array:
    count_key, start_key, visible_key = jax.random.split(key, 3)
    positions = jnp.arange(total_frames)
    spans = jnp.floor(config.prob * frames / config.length + jax.random.uniform(count_key)).astype(
        jnp.int32
    )
    spans = jnp.maximum(spans, config.min_spans)
    # Starts lie in [0, bound). A clip with too few of them gets one more start than spans.
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
