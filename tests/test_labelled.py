"""Batches of labelled clips: each clip counts once, whatever fills up its batch."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from data_pipelines.batches.buckets import permutation, random_bits
from data_pipelines.batches.clip_plan import ClipPlan, Heard
from data_pipelines.batches.fine_tuning import (
    CorpusClips,
    class_weights,
    labelled_clips,
    left_out,
)
from data_pipelines.batches.planned_corpus import counted_rules
from data_pipelines.corpora import sources
from tests.labelled_corpus import CLASSES, MODEL, corpus
from voc2vec_jax.cli.corpus import open_labelled
from voc2vec_jax.config import ClassifyConfig, Config, DataConfig
from voc2vec_jax.errors import ConfigError, DataError

RULES = {"max_seconds": 0.5, "bucket_seconds": (0.1, 0.25, 0.5)}
LENGTHS = st.lists(st.integers(400, 40_000), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from(["crop", "first"]))
def test_an_epoch_counts_every_clip_once(
    lengths: list[int], rows: int, seed: int, heard: Heard
) -> None:
    data = DataConfig(**RULES, batch_clips=rows)
    sizes = np.array(lengths)
    chosen = np.arange(0, len(sizes), 2)
    plan = ClipPlan(sizes, chosen, data, seed, heard=heard, shuffled=True)
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


@pytest.mark.parametrize("heard", ["crop", "first", "windows"])
def test_an_epoch_drawn_once_gives_the_batches_of_a_plan_that_draws_for_each(heard: Heard) -> None:
    """As the first versions drew them: all of an epoch's draws for each of its batches."""
    data = DataConfig(**RULES, batch_clips=5)
    sizes = np.random.default_rng(1).integers(400, 20_000, 60)
    clips = np.arange(3, 60, 2)
    shuffled = heard != "windows"
    plan = ClipPlan(sizes, clips, data, 9, heard=heard, shuffled=shuffled)
    own = sizes[clips]
    pieces = -(-own // 8_000) if heard == "windows" else np.ones_like(own)
    windows = [  # clip, first sample, length, room to move
        (clip, i * n // p, min((i + 1) * n // p - i * n // p, 8_000), n)
        for clip, n, p in zip(clips, own, pieces, strict=True)
        for i in range(p)
    ]
    lengths = np.array([length for _, _, length, _ in windows])
    number = np.searchsorted([1_600, 4_000, 8_000], lengths)
    buckets = [np.flatnonzero(number == bucket) for bucket in range(3)]
    batches = [(bucket, at) for bucket in range(3) for at in range(0, len(buckets[bucket]), 5)]
    for step in (0, 1, 4, len(batches) - 1, len(batches), 2 * len(batches) + 3, 2):
        epoch, place = divmod(step, len(batches))
        if shuffled:
            place = permutation(len(batches), 6, 9, epoch)[place]
        bucket, at = batches[place]
        rows = buckets[bucket]
        if shuffled:
            rows = rows[permutation(len(rows), 5, 9, epoch, bucket)]
        rows = rows[at : at + 5]
        starts = [windows[row][1] for row in rows]
        if heard == "crop":
            fraction = (random_bits(len(windows), 7, 9, epoch)[rows] >> np.uint64(11)) * 2.0**-53
            room = [windows[row][3] - windows[row][2] + 1 for row in rows]
            starts = (fraction * room).astype(int).tolist()
        batch = plan.batch(step)
        assert (batch.step, batch.epoch) == (step, epoch)
        assert batch.real.tolist() == [i < len(rows) for i in range(5)]
        assert batch.windows[batch.real].tolist() == rows.tolist()
        assert batch.clips[batch.real].tolist() == [windows[row][0] for row in rows]
        assert batch.starts[batch.real].tolist() == starts
        assert batch.lengths[batch.real].tolist() == lengths[rows].tolist()


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


@pytest.mark.parametrize("mask", [False, True])
def test_the_paper_protocol_hears_what_the_feature_extractor_of_transformers_returns(
    tmp_path: Path, mask: bool
) -> None:
    """Cut to the beginning, then normalised, with the padding unless a mask hides that."""
    store = corpus(tmp_path)
    config = with_labels(
        Config(
            task="classify",
            model=MODEL,
            data=DataConfig(
                normalize="clip" if mask else "padded",
                max_seconds=0.4,
                bucket_seconds=(0.4,),
                batch_clips=16,
            ),
            classify=ClassifyConfig(padding="hf", crop="first"),
        )
    )
    every = np.arange(len(store.ids))
    assert (store.lengths > 6_400).any()
    assert (store.lengths < 6_400).any()
    data = labelled_clips(config, store, every, every, store.labels)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=mask)
    judged = CorpusClips(store).judged(config, every, store.labels)
    trained = data.batches(0, data.batches_per_epoch)
    for batch in (*trained, *data.eval_batches(), *judged):
        clips = [store.waveform(clip) for clip in batch["clips"]]
        expected = extractor(
            clips, sampling_rate=16_000, padding="max_length", max_length=6_400, truncation=True
        )["input_values"]
        np.testing.assert_array_equal(batch["waveform"], np.array(expected, np.float32))
        np.testing.assert_array_equal(batch["labels"], store.labels[batch["clips"]])


def test_a_run_that_now_hears_cut_clips_otherwise_is_another_one(tmp_path: Path) -> None:
    store = corpus(tmp_path)
    every = np.arange(len(store.ids))

    def fingerprints(**rules: Any) -> tuple[str, str]:
        """Of a run that hears the beginnings of clips, and as the first versions made it."""
        data = DataConfig(bucket_seconds=(9.0,), batch_clips=16, **rules)
        config = with_labels(
            Config(task="classify", model=MODEL, data=data, classify=ClassifyConfig(crop="first"))
        )
        run = labelled_clips(config, store, every, None, store.labels)
        facts = [store.fingerprint, 0, "first", counted_rules(data)]
        facts += [store.labels.tolist(), run.class_weights.tolist()]
        then = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return run.fingerprint, then

    now, then = fingerprints(max_seconds=0.4)
    assert now != then
    for rules in ({"max_seconds": 9.0}, {"max_seconds": 0.4, "normalize": "padded"}):
        now, then = fingerprints(**rules)
        assert now == then


def test_only_what_is_unreadable_stops_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = corpus(tmp_path)
    monkeypatch.setattr(sources, "open_corpus", lambda data, classes: store)
    report = json.loads((store.directory / "report.json").read_text())
    report["excluded"] = [{"file": f"{n}.wav", "reason": "is on the list"} for n in range(3)]
    report["copies"] = [{"file": "copy.wav", "reason": "is a copy of 000.wav"}]
    (store.directory / "report.json").write_text(json.dumps(report))
    _, opened = open_labelled(DataConfig())
    assert opened.excluded == ()
    said = capsys.readouterr().err
    assert "note: tones: 3 files were left out on purpose, and 1 as copies of others" in said
    report["dropped"] = [{"file": "broken.wav", "reason": "is broken"}]
    (store.directory / "report.json").write_text(json.dumps(report))
    with pytest.raises(DataError, match=r"1 files cannot be used:\n  broken\.wav: is broken\n"):
        open_labelled(DataConfig())
    _, opened = open_labelled(DataConfig(), exclude_bad=True)
    assert opened.excluded == tuple(report["dropped"])


def test_a_good_corpus_has_dropped_nothing(tmp_path: Path) -> None:
    assert left_out(corpus(tmp_path)) == {"dropped": (), "copies": (), "excluded": ()}


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
