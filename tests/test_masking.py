"""Span masks and negatives: exact rules on every length, statistics against fairseq's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voc2vec_jax.config import MaskConfig
from voc2vec_jax.masking import counted_frames, sample_negatives, span_mask

TOTAL = 2_000
draw_masks = jax.jit(span_mask, static_argnums=(2, 3))
draw_negatives = jax.jit(sample_negatives, static_argnums=2)


def run_lengths(row: np.ndarray) -> np.ndarray:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return edges[1::2] - edges[::2]


@settings(deadline=None, max_examples=60)
@given(frames=st.lists(st.integers(1, TOTAL), min_size=4, max_size=4), seed=st.integers(0, 2**31))
def test_every_clip_keeps_a_frame_and_hides_enough(frames: list[int], seed: int) -> None:
    config = MaskConfig()
    mask = np.asarray(draw_masks(jax.random.key(seed), jnp.array(frames), TOTAL, config))
    for row, count in zip(mask, frames, strict=True):
        hidden = row.sum()
        assert not row[count:].any(), "padding is never hidden"
        assert hidden < count, "at least one frame stays visible"
        assert hidden >= min(count - 1, 2), "two frames are hidden wherever three exist"
        if count > 12:
            assert not row[count - 1], "fairseq never hides the last frame"
            # Where nothing had to be uncovered, every run is made of whole spans.
            assert run_lengths(row[: count - 1]).min() >= min(config.length, count - 1 - 10)


# Share of hidden frames that fairseq's sampler gives to one clip of T frames (400 trials).
FAIRSEQ_SHARE = {
    0.65: {49: 0.501, 99: 0.498, 199: 0.495, 499: 0.489, 780: 0.490},
    0.80: {49: 0.580, 99: 0.571, 199: 0.571, 499: 0.567, 780: 0.565},
}


@pytest.mark.parametrize("prob", FAIRSEQ_SHARE)
@pytest.mark.parametrize("frames", FAIRSEQ_SHARE[0.65])
def test_share_of_hidden_frames_is_fairseqs(prob: float, frames: int) -> None:
    trials = 2_000
    masks = np.asarray(
        draw_masks(jax.random.key(1), jnp.full(trials, frames), frames, MaskConfig(prob=prob))
    )
    shares = masks.mean(axis=1)
    # Sampling error of both: ours over 2,000 trials, the table's over 400, rounded to three places.
    error = shares.std() * np.sqrt(1 / trials + 1 / 400) + 0.0005
    assert abs(shares.mean() - FAIRSEQ_SHARE[prob][frames]) < 3.5 * error


def test_a_clip_is_masked_alike_in_any_company() -> None:
    frames = jnp.array([300, 80, 17, 5])
    config = MaskConfig()
    mask = draw_masks(jax.random.key(3), frames, 300, config)
    others = draw_masks(jax.random.key(3), frames.at[1:].set(200), 300, config)
    np.testing.assert_array_equal(mask[0], others[0])
    assert (np.asarray(mask[1]) != np.asarray(others[1])).any()
    assert (
        np.asarray(mask) != np.asarray(draw_masks(jax.random.key(4), frames, 300, config))
    ).any()


@settings(deadline=None, max_examples=40)
@given(frames=st.lists(st.integers(1, 120), min_size=3, max_size=3), seed=st.integers(0, 2**31))
def test_negatives_are_other_hidden_frames_of_the_clip(frames: list[int], seed: int) -> None:
    hidden = np.asarray(draw_masks(jax.random.key(seed), jnp.array(frames), 120, MaskConfig()))
    negatives = np.asarray(draw_negatives(jax.random.key(seed + 1), jnp.array(hidden), 9))
    assert negatives.shape == (3, 120, 9)
    for clip in range(3):
        if hidden[clip].sum() < 2:
            continue
        for frame in np.flatnonzero(hidden[clip]):
            assert hidden[clip, negatives[clip, frame]].all()
            assert (negatives[clip, frame] != frame).all()


def test_negatives_are_drawn_evenly() -> None:
    hidden = np.zeros((1, 12), bool)
    hidden[0, [1, 4, 5, 9]] = True
    draws = 30_000
    negatives = np.asarray(draw_negatives(jax.random.key(0), jnp.array(hidden), draws))[0, 4]
    counts = np.bincount(negatives, minlength=12)
    assert set(np.flatnonzero(counts)) == {1, 5, 9}
    np.testing.assert_allclose(counts[[1, 5, 9]] / draws, 1 / 3, atol=4 * np.sqrt(2 / 9 / draws))


def test_frames_without_a_partner_do_not_count() -> None:
    hidden = jnp.array([[True, False, False], [True, True, False], [False, False, False]])
    expected = [[False, False, False], [True, True, False], [False, False, False]]
    np.testing.assert_array_equal(counted_frames(hidden), expected)
