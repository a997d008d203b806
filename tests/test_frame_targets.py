"""Every frame has the label whose centre is nearest; what does not fit is refused before a step."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.batches.frame_targets import (
    FrameTargets,
    fairseq_labels,
    nearest_labels,
    open_targets,
)
from data_pipelines.batches.pipeline import batches
from data_pipelines.batches.pretraining import open_training_corpus
from data_pipelines.batches.window_plan import PlannedBatch, WindowPlan
from data_pipelines.frame_labels.building import building, finish
from data_pipelines.frame_labels.label_store import Grid, LabelStore, Manifest
from data_pipelines.stores.building import build_store
from data_pipelines.stores.flat_store import Clip, FlatStore
from tests.test_labels import as_version_1
from voc2vec_jax.audio.frame_grid import CONV_KERNELS, CONV_STRIDES, frames_from_samples
from voc2vec_jax.config import DataConfig
from voc2vec_jax.errors import ConfigError, DataError

FRAMES = Grid(400, 320)
MFCC, LAYER = Grid(400, 160), Grid(400, 320)
KINDS = pytest.mark.parametrize("labels", [MFCC, LAYER], ids=["100 Hz", "50 Hz"])


def windows(count: int = 1_000) -> list[tuple[int, int, int]]:
    """Length of a clip, and start and length of a window in it."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        clip = int(random.integers(400, 60_000))
        length = int(random.integers(400, clip + 1))
        found.append((clip, int(random.integers(0, clip - length + 1)), length))
    return [*found, (400, 0, 400), (719, 319, 400), (16_100, 0, 16_100)]


@KINDS
def test_the_target_is_the_label_with_the_nearest_centre(labels: Grid) -> None:
    """By measuring the distance of every label to every frame, in samples."""
    odd = 0
    for clip, start, length in windows():
        available = labels.count(clip)
        frames = frames_from_samples(length)
        found = np.clip(nearest_labels(start, frames, FRAMES, labels), 0, available - 1)
        frame_centres = start + 320 * np.arange(frames) + 199.5
        label_centres = labels.hop_samples * np.arange(available) + 199.5
        distances = np.abs(label_centres[None] - frame_centres[:, None])
        np.testing.assert_array_equal(found, distances.argmin(axis=1))  # the earlier of equals
        assert distances[np.arange(frames), found].max() <= labels.hop_samples
        odd += (length - 400) % 320 < 160
    assert odd > 300  # windows at whose end fairseq loses a frame


@KINDS
def test_grids_that_are_not_centred_alike(labels: Grid) -> None:
    """A model with another receptive field."""
    frame_grid = Grid(720, 640)
    found = nearest_labels(1_000, 9, frame_grid, labels)
    centres = 1_000 + 640 * np.arange(9) + 719 / 2
    distances = np.abs(centres[:, None] - labels.hop_samples * np.arange(80) - 199.5)
    np.testing.assert_array_equal(found, distances.argmin(axis=1))


def fairseq(start: int, samples: int, labels: list[int], rate: float) -> list[int]:
    """A window's labels by fairseq's steps, one clip in the batch; -1 for frames that it drops."""
    per_sample = rate / 16_000
    first, count = round(start * per_sample), round(samples * per_sample)
    count = min(count, len(labels) - first)
    targets = labels[first : first + count]
    ratio = rate * 320 / 16_000
    frames = frames_from_samples(samples)
    kept = int(len(targets) / ratio) if ratio * frames > len(targets) else frames
    return [targets[int(t * ratio)] for t in range(kept)] + [-1] * (frames - kept)


@KINDS
def test_fairseqs_rounding(labels: Grid) -> None:
    lost = {"inside": 0, "whole": 0}
    for clip, start, length in windows():
        for kind, window in (("inside", (start, length)), ("whole", (0, clip))):
            available, frames = labels.count(clip), frames_from_samples(window[1])
            found = fairseq_labels(*window, frames, available, FRAMES, labels)
            expected = fairseq(*window, list(range(available)), labels.rate_hz)
            assert found.tolist() == expected
            lost[kind] += expected[-1] == -1
    if labels == MFCC:
        assert 400 < lost["whole"] < 600
        assert 0 < lost["inside"] < 100
    else:
        assert lost["whole"] == 0
        assert lost["inside"] < 10  # where the start was rounded up, near the end of the clip


def test_fairseq_loses_a_frame_where_the_recipe_says() -> None:
    found = fairseq_labels(0, 16_100, 50, MFCC.count(16_100), FRAMES, MFCC)
    assert found.tolist() == [*range(0, 98, 2), -1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> FlatStore:
    random = np.random.default_rng(0)
    lengths = [400, 559, 560, 720, 20_000, 31_999, *random.integers(400, 24_000, 24)]
    clips = (
        (Clip(f"{i}.wav", "noise"), random.integers(-900, 900, n).astype(np.int16))
        for i, n in enumerate(lengths)
    )
    return build_store(tmp_path_factory.mktemp("corpus") / "noise", clips, dataset="noise")


def label_store(
    directory: Path, corpus: FlatStore, grid: Grid, *, longer: int = 0, clusters: int = 50
) -> LabelStore:
    """Random labels; `longer` more than there should be for each clip."""
    with building(directory, corpus, {}) as build:
        assert build is not None
        for clip in np.random.default_rng(1).permutation(len(corpus.ids)):
            count = max(grid.count(int(corpus.lengths[clip])) + longer, 0)
            build.append(int(clip), np.random.default_rng(clip).integers(0, clusters, count))
        manifest = Manifest(
            clusters=clusters,
            features="mfcc",
            grid=grid,
            corpus=corpus.name,
            corpus_fingerprint=corpus.fingerprint,
        )
        return finish(build, directory, manifest)


def all_clips(corpus: FlatStore) -> np.ndarray:
    return np.ones(len(corpus.ids), bool)


@KINDS
@pytest.mark.parametrize("alignment", ["nearest", "fairseq"])
def test_batches_carry_targets(
    corpus: FlatStore, tmp_path: Path, labels: Grid, alignment: str
) -> None:
    store = label_store(tmp_path / "labels", corpus, labels)
    targets = open_targets(
        str(store.directory),
        corpus,
        all_clips(corpus),
        alignment=alignment,  # type: ignore[arg-type]
    )
    data = DataConfig(
        max_seconds=0.5, bucket_seconds=(0.1, 0.3, 0.5), batch_seconds=2.0, batch_multiple=4
    )
    plan = WindowPlan(corpus.lengths, data, seed=5)
    steps = 2 * plan.batches_per_epoch
    cropped = 0
    made = batches(corpus, plan, data, joined=[targets], start_step=0, stop_step=steps)
    for step, batch in enumerate(made):
        planned = plan.batch(step)
        frames = frames_from_samples(planned.bucket_samples)
        assert batch["targets"].dtype == np.int32
        assert batch["targets"].shape == (len(planned.clips), frames)
        rows = zip(batch["targets"], planned.clips, planned.starts, planned.lengths, strict=True)
        for row, clip, start, length in rows:
            own = store.read(int(store.rows_of([corpus.ids[clip]])[0]))
            count = frames_from_samples(int(length))
            assert (row[count:] == -1).all()
            if alignment == "nearest":
                assert (row[:count] >= 0).all()  # as many targets as frames
                ideal = (start + 320 * np.arange(count)) / labels.hop_samples
                index = np.clip(np.ceil(ideal - 0.5).astype(int), 0, len(own) - 1)
                np.testing.assert_array_equal(row[:count], own[index])
            else:
                expected = fairseq(int(start), int(length), own.tolist(), labels.rate_hz)
                assert row[:count].tolist() == expected
            cropped += start > 0
    assert cropped > 20


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_counts_are_those_of_the_convolutions(data: st.DataObject) -> None:
    """For any model, window and rate that fits."""
    kernels = data.draw(st.lists(st.integers(1, 10), min_size=1, max_size=4))
    strides = data.draw(
        st.lists(st.integers(1, 5), min_size=len(kernels), max_size=len(kernels)).filter(
            lambda found: math.prod(found) > 1
        )
    )
    hop = math.prod(strides)
    divisor = data.draw(st.sampled_from([d for d in range(1, hop + 1) if hop % d == 0]))
    field = 1 + sum((k - 1) * math.prod(strides[:i]) for i, k in enumerate(kernels))
    samples = data.draw(st.integers(field, field + 2_000))
    start = data.draw(st.integers(0, 500))
    frames = frames_from_samples(samples, kernels, strides)
    frame_grid = Grid(field, hop)
    assert frame_grid.count(samples) == frames
    label_grid = Grid(data.draw(st.integers(1, field)), divisor)
    index = nearest_labels(start, frames, frame_grid, label_grid)
    assert len(index) == frames
    # Every frame lies in the clip, so a label of a shorter window is never far.
    centres = start + hop * np.arange(frames) + (field - 1) / 2
    assert np.abs(index * divisor + (label_grid.window_samples - 1) / 2 - centres).max() <= (
        divisor / 2
    )


def test_targets_of_a_run_and_of_what_it_holds_out(tmp_path: Path) -> None:
    folder, random = tmp_path / "recordings", np.random.default_rng(0)
    folder.mkdir()
    for index in range(20):
        noise = random.uniform(-0.5, 0.5, int(random.integers(400, 9_000)))
        soundfile.write(folder / f"{index}.wav", noise, 16_000)
    data = DataConfig(folder=str(folder), data_dir=str(tmp_path / "data"), eval_share=0.2)
    plain = open_training_corpus(data, seed=0)
    store = label_store(tmp_path / "labels", plain.store, MFCC)
    labelled = dataclasses.replace(data, labels=str(store.directory))
    corpus = open_training_corpus(labelled, seed=0, clusters=50)
    for batch in (next(corpus.batches(0, 1)), next(corpus.eval_batches())):
        frames = frames_from_samples(batch["lengths"])
        np.testing.assert_array_equal((batch["targets"] >= 0).sum(axis=1), frames)
    assert corpus.fingerprint != plain.fingerprint
    assert "clusters=50 rate_hz=100" in corpus.summary()
    moved = store.directory.rename(tmp_path / "elsewhere")
    again = open_training_corpus(dataclasses.replace(data, labels=str(moved)), seed=0)
    assert again.fingerprint == corpus.fingerprint
    other = dataclasses.replace(data, labels=str(moved), label_alignment="fairseq")
    assert open_training_corpus(other, seed=0).fingerprint != corpus.fingerprint


def test_the_rate_is_checked(corpus: FlatStore, tmp_path: Path) -> None:
    store = label_store(tmp_path / "labels", corpus, MFCC)
    place, heard = str(store.directory), all_clips(corpus)
    open_targets(place, corpus, heard, rate_hz=100.0)
    with pytest.raises(ConfigError, match=r"label_rate_hz=50: .*\(mfcc\) are at 100 Hz; give"):
        open_targets(place, corpus, heard, rate_hz=50.0)
    slow = label_store(tmp_path / "slow", corpus, Grid(400, 640))
    with pytest.raises(ConfigError, match=r"has labels at 25 Hz .* model has frames at 50 Hz"):
        open_targets(str(slow.directory), corpus, heard)


def test_the_number_of_clusters_is_checked(corpus: FlatStore, tmp_path: Path) -> None:
    store = label_store(tmp_path / "labels", corpus, MFCC)
    with pytest.raises(ConfigError, match=r"has 50 clusters, and the configuration 500; give .*"):
        open_targets(str(store.directory), corpus, all_clips(corpus), clusters=500)


def test_another_corpus_is_refused(corpus: FlatStore, tmp_path: Path) -> None:
    random = np.random.default_rng(3)

    sounds = {int(n): corpus.read(clip, 0, int(n)) for clip, n in enumerate(corpus.lengths[:2])}

    def other(name: str, ids: list[str], lengths: list[int]) -> FlatStore:
        clips = (
            (Clip(id_, "x"), sounds[n] if n in sounds else random.integers(-9, 9, n, np.int16))
            for id_, n in zip(ids, lengths, strict=True)
        )
        return build_store(tmp_path / name, clips, dataset=name)

    store = label_store(tmp_path / "labels", corpus, MFCC)
    more = other("more", ["new1", "1.wav", "new2"], [800, 559, 800])
    with pytest.raises(DataError, match=r"no labels for 2 of 3 clips of more \('new1', 'new2'\)"):
        open_targets(str(store.directory), more, all_clips(more))
    # What is never heard needs no labels.
    open_targets(str(store.directory), more, np.array([False, True, False]))
    many = other("many", [f"new{i}" for i in range(9)], [400] * 9)
    with pytest.raises(DataError, match=r"9 of 9 clips of many \('new0', .* 'new4', …\)"):
        open_targets(str(store.directory), many, all_clips(many))
    changed = other("changed", ["0.wav", "1.wav"], [400, 600])
    with pytest.raises(DataError, match=r"1 clips of changed have other .* 600 samples, 559 then"):
        open_targets(str(store.directory), changed, all_clips(changed))


def test_labels_of_another_sound_under_the_same_name_are_refused(
    corpus: FlatStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A take that was recorded again: as long as the first, and of the same name."""
    random = np.random.default_rng(9)
    clips = []
    for clip, length in enumerate(corpus.lengths.tolist()):
        samples = corpus.read(clip, 0, length)
        again = random.integers(-900, 900, length).astype(np.int16)
        clips.append((Clip(corpus.ids[clip], "noise"), again if clip in (2, 7) else samples))
    changed = build_store(tmp_path / "changed", clips, dataset="changed")
    store = label_store(tmp_path / "labels", corpus, MFCC)
    place = str(store.directory)
    with pytest.raises(DataError, match=r"2 clips of changed are other sounds .*'2.wav', '7.wav'"):
        open_targets(place, changed, all_clips(changed))
    heard = all_clips(changed)
    heard[[2, 7]] = False
    open_targets(place, changed, heard)  # what is never heard needs no labels
    assert "older version" not in caplog.text
    as_version_1(store.directory)
    open_targets(place, changed, all_clips(changed))
    assert caplog.text.count("only names and lengths of clips were compared") == 1


def test_labels_that_disagree_with_the_length_are_refused(
    corpus: FlatStore, tmp_path: Path
) -> None:
    heard = all_clips(corpus)
    open_targets(str(label_store(tmp_path / "a", corpus, MFCC, longer=9).directory), corpus, heard)
    wrong = label_store(tmp_path / "b", corpus, MFCC, longer=13)
    with pytest.raises(DataError, match=r"disagree with their length by more than 0\.1 s"):
        open_targets(str(wrong.directory), corpus, heard)
    none = label_store(tmp_path / "c", corpus, MFCC, longer=-1)
    with pytest.raises(DataError, match=r"'0\.wav'.*: 0 labels at 100 Hz for 0\.025 s"):
        open_targets(str(none.directory), corpus, heard)


def test_a_clip_with_too_few_labels_repeats_its_last(corpus: FlatStore, tmp_path: Path) -> None:
    """Within the bound: imported labels of long clips lack a few at the end."""
    store = label_store(tmp_path / "labels", corpus, LAYER, longer=-3)
    targets = FrameTargets(store, store.rows_of(corpus.ids))
    clip = int(np.argmax(corpus.lengths))
    length = int(corpus.lengths[clip])
    window = PlannedBatch(
        *(0, 0, length),
        clips=np.array([clip], np.int32),
        starts=np.zeros(1, np.int64),
        lengths=np.array([length], np.int32),
        windows=np.zeros(1, np.int64),
        real=np.ones(1, bool),
    )
    (row,) = targets.rows(window)
    own = store.read(int(targets.rows_of_clips[clip]))
    np.testing.assert_array_equal(row, [*own, *[own[-1]] * 3])


def test_the_usual_convolutions_are_the_default() -> None:
    assert FrameTargets.conv_kernel == CONV_KERNELS
    assert FrameTargets.conv_stride == CONV_STRIDES
