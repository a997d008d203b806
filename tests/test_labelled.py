"""Batches of labelled clips: each clip counts once, whatever fills up its batch."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from data_pipelines.batches.clip_plan import ClipPlan
from data_pipelines.batches.fine_tuning import class_weights, dropped_files, labelled_clips
from data_pipelines.stores.flat_store import from_int16
from tests.labelled_corpus import CLASSES, MODEL, corpus
from voc2vec_jax.config import ClassifyConfig, Config, DataConfig
from voc2vec_jax.errors import ConfigError, DataError

RULES = {"max_seconds": 0.5, "bucket_seconds": (0.1, 0.25, 0.5)}
LENGTHS = st.lists(st.integers(400, 40_000), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from(["crop", "first"]))
def test_an_epoch_counts_every_clip_once(
    lengths: list[int], rows: int, seed: int, heard: str
) -> None:
    data = DataConfig(**RULES, batch_clips=rows)
    sizes = np.array(lengths)
    chosen = np.arange(0, len(sizes), 2)
    plan = ClipPlan(sizes, chosen, data, seed, heard=heard, shuffled=True)  # type: ignore[arg-type]
    for epoch in (0, 1):
        first = epoch * plan.batches_per_epoch
        batches = [plan.batch(first + i) for i in range(plan.batches_per_epoch)]
        counted = np.concatenate([batch.clips[batch.real] for batch in batches])
        assert sorted(counted) == chosen.tolist()
        for batch in batches:
            assert batch.real.any()
            assert (len(batch.clips), batch.bucket_samples) in plan.shapes
            assert np.all(batch.lengths <= batch.bucket_samples)
            assert np.all(batch.lengths == np.minimum(sizes[batch.clips], 8_000))
            assert np.all(batch.starts >= 0)
            assert np.all(batch.starts + batch.lengths <= sizes[batch.clips])
            if heard == "first":
                assert not batch.starts.any()


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 9))
def test_windows_of_an_evaluation_share_nothing_and_leave_nothing_out(
    lengths: list[int], rows: int
) -> None:
    data = DataConfig(**RULES, batch_clips=rows)
    sizes = np.array(lengths)
    plan = ClipPlan(sizes, np.arange(len(sizes)), data, 0, heard="windows", shuffled=False)
    heard = [np.zeros(size, int) for size in sizes]
    for step in range(plan.batches_per_epoch):
        batch = plan.batch(step)
        for clip, start, length in zip(
            batch.clips[batch.real],
            batch.starts[batch.real],
            batch.lengths[batch.real],
            strict=True,
        ):
            heard[clip][start : start + length] += 1
    assert all(np.all(clip == 1) for clip in heard)


def test_batches_follow_from_seed_and_step() -> None:
    sizes = np.random.default_rng(0).integers(400, 20_000, 50)
    data = DataConfig(**RULES, batch_clips=8)

    def clips(seed: int, step: int) -> list[int]:
        plan = ClipPlan(sizes, np.arange(50), data, seed, heard="crop", shuffled=True)
        return [*plan.batch(step).clips.tolist(), *plan.batch(step).starts.tolist()]

    plan = ClipPlan(sizes, np.arange(50), data, 3, heard="crop", shuffled=True)
    assert clips(3, 5) == clips(3, 5)
    assert clips(3, 5) != clips(4, 5)
    assert clips(3, 5) != clips(3, 5 + plan.batches_per_epoch)


def test_nothing_to_hear_is_refused() -> None:
    sizes, data = np.array([40_000]), DataConfig(**RULES, batch_clips=2)
    with pytest.raises(DataError, match="no clip is left"):
        ClipPlan(sizes, np.array([], int), data, 0, heard="first", shuffled=False)
    short = DataConfig(max_seconds=0.03, bucket_seconds=(0.03,), batch_clips=2)
    with pytest.raises(ConfigError, match=r"max_seconds=0\.03.*at least 0\.05"):
        ClipPlan(np.array([500]), np.array([0]), short, 0, heard="windows", shuffled=False)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.array([0, 0, 0, 2, 2, 3])
    expected = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=labels)
    found = class_weights(labels, 5, "balanced")
    np.testing.assert_allclose(found[[0, 2, 3]], expected, rtol=1e-6)
    assert found[[1, 4]].tolist() == [1, 1]
    assert class_weights(labels, 5, "none").tolist() == [1] * 5


def test_a_class_that_was_not_trained_on_still_counts_in_evaluation(tmp_path: Path) -> None:
    store = corpus(tmp_path)
    config = Config(
        task="classify",
        model=MODEL,
        data=DataConfig(**RULES, batch_clips=4),
    )
    config = with_labels(config)
    train = np.flatnonzero(store.labels != 2)
    held = np.flatnonzero(store.labels == 2)
    data = labelled_clips(config, store, train, held, store.labels)
    real = sum(int((batch["weight"] > 0).sum()) for batch in data.eval_batches())
    assert real >= len(held)
    assert {int(clip) for b in data.eval_batches() for clip in b["clips"][b["weight"] > 0]} == set(
        held.tolist()
    )


def test_training_batches_are_augmented_and_evaluation_is_not(tmp_path: Path) -> None:
    store = corpus(tmp_path)
    clips = np.arange(len(store.labels))
    data = DataConfig(**RULES, batch_clips=4)
    plain = with_labels(Config(task="classify", model=MODEL, data=data))
    louder = dataclasses.replace(plain, data=dataclasses.replace(data, gain_db=6.0))
    before, after = (
        labelled_clips(config, store, clips[:20], clips[20:], store.labels)
        for config in (plain, louder)
    )
    for a, b in zip(before.batches(0, 3), after.batches(0, 3), strict=True):
        gains = np.abs(b["waveform"]).max(axis=1) / np.abs(a["waveform"]).max(axis=1)
        assert len(set(gains.round(4))) == len(gains)
        np.testing.assert_allclose(b["waveform"], a["waveform"] * gains[:, None], atol=1e-5)
    for a, b in zip(before.eval_batches(), after.eval_batches(), strict=True):
        np.testing.assert_array_equal(a["waveform"], b["waveform"])


def with_labels(config: Config) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, labels=CLASSES))


def test_the_paper_protocol_hears_what_the_feature_extractor_of_transformers_returns(
    tmp_path: Path,
) -> None:
    """Cut to the beginning, padded with zeros, normalised together with the padding."""
    store = corpus(tmp_path)
    config = with_labels(
        Config(
            task="classify",
            model=MODEL,
            data=DataConfig(
                normalize="padded", max_seconds=0.4, bucket_seconds=(0.4,), batch_clips=16
            ),
            classify=ClassifyConfig(padding="hf", crop="first"),
        )
    )
    every = np.arange(len(store.ids))
    assert (store.lengths > 6_400).any()
    assert (store.lengths < 6_400).any()
    data = labelled_clips(config, store, every, None, store.labels)
    extractor = transformers.Wav2Vec2FeatureExtractor(
        do_normalize=True, return_attention_mask=False
    )
    for batch in data.batches(0, data.batches_per_epoch):
        clips = [from_int16(store.read(c, 0, int(store.lengths[c]))) for c in batch["clips"]]
        expected = extractor(
            clips, sampling_rate=16_000, padding="max_length", max_length=6_400, truncation=True
        )["input_values"]
        np.testing.assert_array_equal(batch["waveform"], np.array(expected, np.float32))
        np.testing.assert_array_equal(batch["labels"], store.labels[batch["clips"]])


def test_a_good_corpus_has_dropped_nothing(tmp_path: Path) -> None:
    assert dropped_files(corpus(tmp_path)) == ()


def test_a_corpus_that_moved_is_the_same(tmp_path: Path) -> None:
    """So that a run can be resumed where its table has another path."""
    store = corpus(tmp_path)
    clips = np.arange(len(store.ids))

    def fingerprint(**data: object) -> str:
        config = Config(
            task="classify",
            model=dataclasses.replace(MODEL, labels=CLASSES),
            data=DataConfig(**RULES, batch_clips=4, **data),  # type: ignore[arg-type]
        )
        return labelled_clips(config, store, clips, None, store.labels).fingerprint

    here = fingerprint(table="clips.csv")
    assert here == fingerprint(table="/elsewhere/clips.csv") == fingerprint(folder="clips")
    assert here == fingerprint(data_dir="/elsewhere", name="clips")
    assert here != fingerprint(normalize="none")
