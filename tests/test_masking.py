"""Span masks and negatives: exact rules on every length, statistics against both references."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from voc2vec_jax.config import MaskConfig
from voc2vec_jax.objectives.masking import counted_frames, sample_negatives, span_mask

TOTAL = 2_000
SAMPLERS = ("fairseq", "hf")
draw_masks = jax.jit(span_mask, static_argnums=(2, 3))
draw_negatives = jax.jit(sample_negatives, static_argnums=2)
some_frames = st.lists(st.integers(1, TOTAL) | st.integers(1, 40), min_size=4, max_size=4)
seeds = st.integers(0, 2**31)


def run_lengths(row: np.ndarray) -> np.ndarray:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return edges[1::2] - edges[::2]


@pytest.mark.unoptimised
@pytest.mark.parametrize("length", [1, 10])
@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(deadline=None, max_examples=60)
@given(frames=some_frames, seed=seeds)
def test_every_clip_keeps_a_frame_and_hides_enough(
    sampler: str, length: int, frames: list[int], seed: int
) -> None:
    config = MaskConfig(sampler=sampler, length=length)
    mask = np.asarray(draw_masks(jax.random.key(seed), jnp.array(frames), TOTAL, config))
    for row, count in zip(mask, frames, strict=True):
        hidden = row.sum()
        assert not row[count:].any(), "padding is never hidden"
        assert hidden < count, "at least one frame stays visible"
        assert hidden >= min(count - 1, 2), "two frames are hidden wherever three exist"
        most_spans = max(config.prob * count / length + 1, 2)
        if sampler == "fairseq" and count - length > most_spans:
            assert not row[count - 1], "fairseq never hides the last frame"
            # Where nothing had to be uncovered, every run is made of whole spans.
            assert run_lengths(row[: count - 1]).min() >= min(length, count - 1 - length)
        if sampler == "hf" and count > 2 * length:
            assert run_lengths(row).min() >= length, "spans are whole"


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("total", [1, 9, pytest.param(13, marks=pytest.mark.thorough)])
def test_batches_shorter_than_a_span_never_crash(sampler: str, total: int) -> None:
    """The padded length itself is too short, which stops transformers with an error."""
    frames = np.tile(np.arange(1, total + 1), 100)
    mask = draw_masks(jax.random.key(0), jnp.array(frames), total, MaskConfig(sampler=sampler))
    hidden = np.asarray(mask).sum(axis=1)
    assert (hidden < frames).all()
    assert (hidden >= np.minimum(frames - 1, 2)).all()


@pytest.mark.unoptimised
@settings(deadline=None, max_examples=30)
@given(frames=st.integers(1, TOTAL), sampler=st.sampled_from(SAMPLERS), seed=seeds)
def test_equalized_clips_hide_as_few_as_the_one_with_the_fewest(
    frames: int, sampler: str, seed: int
) -> None:
    config = MaskConfig(sampler=sampler, equalize=True)
    mask = np.asarray(draw_masks(jax.random.key(seed), jnp.full(4, frames), TOTAL, config))
    hidden = mask.sum(axis=1)
    assert (hidden == hidden[0]).all()
    assert min(frames - 1, 2) <= hidden[0] < max(frames, 1)
    assert not mask[:, frames:].any()


@pytest.mark.unoptimised
def test_equalizing_uncovers_frames_and_covers_none() -> None:
    plain, equal = (MaskConfig(), MaskConfig(equalize=True))
    key, frames = jax.random.key(0), jnp.full(6, 200)
    equalized = np.asarray(draw_masks(key, frames, 200, equal))
    whole = np.asarray(draw_masks(jax.random.split(key)[0], frames, 200, plain))
    assert not (equalized & ~whole).any()
    assert (equalized.sum(axis=1) == whole.sum(axis=1).min()).all()
    assert run_lengths(equalized[0]).min() < 10 <= run_lengths(whole[0]).min(), "spans get holes"


# Share of hidden frames among T, measured with the references themselves (400 trials).
FRAMES = (49, 99, 199, 499, 780)
SHARES = {
    ("fairseq", 1, 0.65): (0.501, 0.498, 0.495, 0.489, 0.490),
    ("fairseq", 4, 0.65): (0.405, 0.426, 0.446, 0.459, 0.468),
    ("hf", 1, 0.65): (0.510, 0.499, 0.495, 0.491, 0.491),
    ("fairseq", 1, 0.80): (0.580, 0.571, 0.571, 0.567, 0.565),
    ("fairseq", 4, 0.80): (0.467, 0.495, 0.516, 0.533, 0.540),
    ("hf", 1, 0.80): (0.580, 0.575, 0.568, 0.568, 0.569),
}
QUICK = {("fairseq", 4, 0.65), ("hf", 1, 0.65)}
TRIALS = 400


@functools.partial(jax.jit, static_argnums=(1, 3))
def draw_batches(key: jax.Array, clips: int, frames: jax.Array, config: MaskConfig) -> jax.Array:
    """Masks [TRIALS, clips, longest of FRAMES] of batches that share nothing."""
    keys = jax.random.split(key, TRIALS)
    return jax.vmap(
        lambda key: span_mask(key, jnp.broadcast_to(frames, (clips,)), FRAMES[-1], config)
    )(keys)


@pytest.mark.parametrize(
    ("sampler", "clips", "prob", "frames"),
    [
        pytest.param(*drawn, frames, marks=[pytest.mark.thorough] * (drawn not in QUICK))
        for drawn in SHARES
        for frames in FRAMES
    ],
)
def test_share_of_hidden_frames_is_the_references(
    sampler: str, clips: int, prob: float, frames: int
) -> None:
    """Within 3.5 standard errors: 400 trials here and 400 there, and the rounding of the table."""
    config = MaskConfig(prob=prob, sampler=sampler, equalize=clips > 1)
    masks = np.asarray(draw_batches(jax.random.key(1), clips, jnp.asarray(frames), config))
    assert not masks[:, :, frames:].any()
    shares = masks[:, :, :frames].mean(axis=(1, 2))
    error = shares.std() * np.sqrt(1 / TRIALS + 1 / 400) + 0.0005
    expected = SHARES[sampler, clips, prob][FRAMES.index(frames)]
    print(
        f"T={frames} mask.prob={prob} {sampler} B={clips}: {shares.mean():.3f}, "
        f"reference {expected}, standard error {error:.4f}"
    )
    assert abs(shares.mean() - expected) < 3.5 * error
    last = masks[:, :, frames - 1].mean()
    if sampler == "fairseq":
        assert last == 0, "the last frame is never hidden"
    else:
        assert 0.03 < last < 0.15


draw_many = jax.jit(
    lambda keys, sizes, config: jax.vmap(lambda key: span_mask(key, sizes, 60, config))(keys),
    static_argnums=2,
)
LENGTHS = {"equal": [60, 60, 60], "unequal": [60, 33, 12]}


@pytest.mark.parametrize(
    ("lengths", "prob"),
    [
        ("unequal", 0.65),
        pytest.param("unequal", 0.8, marks=pytest.mark.thorough),
        pytest.param("equal", 0.65, marks=pytest.mark.thorough),
        pytest.param("equal", 0.8, marks=pytest.mark.thorough),
    ],
)
def test_hf_masks_are_distributed_as_those_of_transformers(lengths: str, prob: float) -> None:
    """How often each frame is hidden, and how the counts of a batch spread and go together."""
    sizes, trials = np.array(LENGTHS[lengths]), 2_000
    config = MaskConfig(prob=prob, sampler="hf")
    keys = jax.random.split(jax.random.key(0), trials)
    ours = np.asarray(draw_many(keys, jnp.array(sizes), config))
    attention = torch.tensor((np.arange(60) < sizes[:, None]).astype(np.int64))
    state = np.random.get_state()  # noqa: NPY002, transformers draws from the global generator
    np.random.seed(0)  # noqa: NPY002
    theirs = np.stack(
        [
            _compute_mask_indices((3, 60), prob, 10, attention_mask=attention, min_masks=2)
            for _ in range(trials)
        ]
    )
    np.random.set_state(state)  # noqa: NPY002
    # Both are means of 2,000 draws; 240 of them are compared, hence 4.5 standard errors.
    share = (ours.mean(0) + theirs.mean(0)) / 2
    # A clip of 12 frames is hidden whole in one of nine draws there, and keeps one frame here.
    kept = theirs.sum(2) == sizes
    share_error = np.sqrt(share * (1 - share) * 2 / trials)
    allowed = kept.mean(0)[:, None] / sizes[:, None]
    difference = (theirs.mean(0) - allowed * (np.arange(60) < sizes[:, None])) - ours.mean(0)
    assert (np.abs(difference) <= 4.5 * share_error + 1e-9).all()
    counts, their_counts = ours.sum(2), theirs.sum(2) - kept
    error = np.sqrt((counts.var(0) + their_counts.var(0)) / trials)
    assert (np.abs(counts.mean(0) - their_counts.mean(0)) <= 4 * error).all()
    # The standard error of a standard deviation is 1/√(2n) of it: 2.2 % for their difference.
    assert counts.std(0) == pytest.approx(their_counts.std(0), rel=0.1, abs=0.05)


@pytest.mark.unoptimised
def test_the_batch_shares_its_rounding_under_hf_only() -> None:
    """60 frames at .65 get 3 or 4 spans; with length 1 spans do not overlap, so they show."""
    frames = jnp.full(50, 40)
    for sampler in SAMPLERS:
        config = MaskConfig(prob=0.6125, length=1, min_spans=1, sampler=sampler)
        masks = jax.vmap(lambda key, config=config: draw_masks(key, frames, 40, config))(
            jax.random.split(jax.random.key(0), 40)
        )
        spans = np.asarray(masks).sum(axis=2)  # [batches, clips], 24 or 25
        assert set(np.unique(spans)) == {24, 25}
        alike = (spans == spans[:, :1]).all(axis=1)
        assert alike.all() if sampler == "hf" else not alike.any()


@pytest.mark.unoptimised
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_clip_is_masked_alike_in_any_company(sampler: str) -> None:
    frames = jnp.array([300, 80, 17, 5])
    config = MaskConfig(sampler=sampler)
    mask = draw_masks(jax.random.key(3), frames, 300, config)
    others = draw_masks(jax.random.key(3), frames.at[1:].set(200), 300, config)
    np.testing.assert_array_equal(mask[0], others[0])
    assert (np.asarray(mask[1]) != np.asarray(others[1])).any()
    assert (
        np.asarray(mask) != np.asarray(draw_masks(jax.random.key(4), frames, 300, config))
    ).any()


@pytest.mark.thorough
@pytest.mark.unoptimised
@pytest.mark.parametrize("config", [MaskConfig(), MaskConfig(sampler="hf", equalize=True)], ids=str)
def test_masks_do_not_depend_on_the_devices(config: MaskConfig) -> None:
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    frames = jnp.array([300, 80, 17, 5, 200, 200, 41, 300])
    one = draw_masks(jax.random.key(3), frames, 300, config)
    many = jax.jit(span_mask, static_argnums=(2, 3), out_shardings=spread)(
        jax.random.key(3), jax.device_put(frames, spread), 300, config
    )
    assert len(many.sharding.device_set) == 4
    np.testing.assert_array_equal(one, many)


@pytest.mark.unoptimised
@settings(deadline=None, max_examples=40)
@given(
    frames=st.lists(st.integers(1, TOTAL), min_size=2, max_size=2),
    sampler=st.sampled_from(SAMPLERS),
    seed=seeds,
)
def test_negatives_are_other_hidden_frames_of_the_clip(
    frames: list[int], sampler: str, seed: int
) -> None:
    config = MaskConfig(sampler=sampler)
    hidden = np.asarray(draw_masks(jax.random.key(seed), jnp.array(frames), TOTAL, config))
    negatives = np.asarray(draw_negatives(jax.random.key(seed + 1), jnp.array(hidden), 9))
    assert negatives.shape == (2, TOTAL, 9)
    for clip in range(2):
        if hidden[clip].sum() < 2:
            continue
        own = np.flatnonzero(hidden[clip])
        assert hidden[clip, negatives[clip, own]].all()
        assert (negatives[clip, own] != own[:, None]).all()


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
