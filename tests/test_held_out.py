"""What is held out: whole groups, the same for the same seed, and nothing of it is trained on."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.batches.window_plan import WindowPlan
from data_pipelines.corpora.held_out import held_out
from voc2vec_jax.config import DataConfig
from voc2vec_jax.errors import ConfigError

groups_of_clips = st.lists(st.sampled_from(["", "anna", "ben", "cleo", "dora"]), min_size=2)


def split(groups: list[str], share: float, seed: int = 0) -> np.ndarray:
    ids = [f"clip{i}" for i in range(len(groups))]
    return held_out(ids, groups, np.ones(len(groups), bool), share, seed)


@given(groups_of_clips, st.floats(0.01, 0.99), st.integers(0, 99))
def test_groups_stay_whole_and_both_sides_have_some(
    groups: list[str], share: float, seed: int
) -> None:
    names = [group or f"clip {i}" for i, group in enumerate(groups)]
    sizes = Counter(names)
    if len(sizes) < 2:
        with pytest.raises(ConfigError, match=r"data\.eval_share.* of 1 group"):
            split(groups, share, seed)
        return
    held = split(groups, share, seed)
    assert 0 < held.sum() < len(groups)
    ours = {name for name, out in zip(names, held, strict=True) if out}
    assert ours.isdisjoint(name for name, out in zip(names, held, strict=True) if not out)
    # No more than was asked for, unless even the smallest group is more.
    assert held.sum() <= max(share * len(groups), min(sizes.values()))
    assert (held == split(groups, share, seed)).all()


def test_clips_without_a_group_come_close_to_the_share() -> None:
    held = split([""] * 1_000, 0.05)
    assert held.sum() == 50
    assert (held != split([""] * 1_000, 0.05, seed=1)).any()


def test_a_split_does_not_depend_on_the_order_of_clips() -> None:
    ids, groups = [f"clip{i}" for i in range(40)], [f"speaker{i % 8}" for i in range(40)]
    usable = np.ones(40, bool)
    one = held_out(ids, groups, usable, 0.3, 5)
    other = held_out(ids[::-1], groups[::-1], usable, 0.3, 5)
    assert (one == other[::-1]).all()
    assert one.sum() == 10  # two speakers of five clips each; three would be too many


def test_training_never_hears_what_is_held_out() -> None:
    data = DataConfig(max_seconds=1.0, bucket_seconds=(0.5, 1.0), batch_seconds=4.0,
                      batch_multiple=4)  # fmt: skip
    lengths = np.random.default_rng(0).integers(200, 40_000, 60)
    usable = lengths >= 400
    held = held_out([str(i) for i in range(60)], [""] * 60, usable, 0.2, 0)
    assert not (held & ~usable).any()
    heard = {}
    for name, chosen in (("train", ~held), ("eval", held)):
        plan = WindowPlan(lengths, data, 0, chosen=chosen)
        steps = range(3 * plan.batches_per_epoch)
        heard[name] = {int(clip) for step in steps for clip in plan.batch(step).clips}
        assert plan.corpus_seconds == pytest.approx(lengths[chosen].sum() / 16_000)
    assert heard["eval"] == set(np.flatnonzero(held))
    assert heard["train"] == set(np.flatnonzero(~held & usable))
