"""A label store appears whole, survives kills, and refuses what it was not made for."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.frame_labels.building import building, finish
from data_pipelines.frame_labels.label_store import Grid, LabelStore, Manifest
from data_pipelines.stores.building import build_store
from data_pipelines.stores.flat_store import Clip, FlatStore
from voc2vec_jax.errors import ConfigError, DataError
from voc2vec_jax.files import array_sha256

MFCC_GRID = Grid(400, 160)
SETTINGS = {"features": "mfcc", "seed": 0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> FlatStore:
    return make_corpus(tmp_path_factory.mktemp("corpus") / "noise")


def make_corpus(directory: Path, seed: int = 0) -> FlatStore:
    random = np.random.default_rng(seed)
    lengths = [400, 559, 560, *random.integers(400, 20_000, 9)]
    clips = (
        (Clip(f"clip {i}.wav", "noise"), random.integers(-900, 900, n).astype(np.int16))
        for i, n in enumerate(lengths)
    )
    return build_store(directory, clips, dataset="noise")


def labels_of(corpus: FlatStore, clip: int, clusters: int = 7) -> np.ndarray:
    count = MFCC_GRID.count(int(corpus.lengths[clip]))
    return np.random.default_rng(clip).integers(0, clusters, count)


def manifest(corpus: FlatStore, **changes: object) -> Manifest:
    fields = {
        "clusters": 7,
        "features": "mfcc",
        "grid": MFCC_GRID,
        "corpus": corpus.name,
        "corpus_fingerprint": corpus.fingerprint,
        "settings": SETTINGS,
        **changes,
    }
    return Manifest(**fields)  # type: ignore[arg-type]


def order(corpus: FlatStore) -> Iterator[int]:
    """Not that of the corpus."""
    return reversed(range(len(corpus.ids)))


def make(
    directory: Path, corpus: FlatStore, in_order: bool = False, **changes: object
) -> LabelStore:
    with building(directory, corpus, SETTINGS) as build:
        assert build is not None
        for clip in sorted(order(corpus)) if in_order else order(corpus):
            build.append(clip, labels_of(corpus, clip))
        return finish(build, directory, manifest(corpus, **changes))


def test_labels_come_back_by_clip_id(corpus: FlatStore, tmp_path: Path) -> None:
    made = make(tmp_path / "labels", corpus)
    store = LabelStore.open(tmp_path / "labels")
    assert store.manifest == made.manifest == manifest(corpus)
    rows = store.rows_of(corpus.ids)
    assert sorted(rows) == list(range(len(corpus.ids)))
    for clip, row in enumerate(rows):
        expected = labels_of(corpus, clip)
        np.testing.assert_array_equal(store.read(row), expected)
        np.testing.assert_array_equal(store.read(row, 0, 1), expected[:1])
        half = len(expected) // 2
        np.testing.assert_array_equal(store.read(row, half), expected[half:])
        assert store.samples[row] == corpus.lengths[clip]
    assert store.rows_of(["nobody"]).tolist() == [-1]
    assert json.loads((tmp_path / "labels" / "manifest.json").read_text())["rate_hz"] == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == [".labels.lock", "labels"]


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_killed_build_goes_on_where_it_was(corpus: FlatStore, tmp_path: Path, cut: int) -> None:
    """Whatever of the journal and of the labels has reached the disk."""
    make(tmp_path / "whole", corpus)
    directory = tmp_path / "labels"
    with building(directory, corpus, SETTINGS) as build:
        assert build is not None
        for clip in list(order(corpus))[:6]:
            build.append(clip, labels_of(corpus, clip), distance=float(clip))
        unfinished = build.directory
    name = ("labels.uint16", "journal.jsonl")[cut % 2]
    os.truncate(unfinished / name, (unfinished / name).stat().st_size - cut)
    with building(directory, corpus, SETTINGS) as build:
        assert build is not None
        done = np.flatnonzero(build.counts >= 0)
        assert len(done) == 6 if cut == 0 else 0 < len(done) < 6
        np.testing.assert_array_equal(build.distances[done], done)
        for clip, labels in build.read():
            np.testing.assert_array_equal(labels, labels_of(corpus, clip))
        for clip in order(corpus):
            if build.counts[clip] < 0:
                build.append(clip, labels_of(corpus, clip))
        finish(build, directory, manifest(corpus))
    for name in ("labels.uint16", "index.json", "manifest.json"):
        assert (directory / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_nothing_appears_before_all_is_there(corpus: FlatStore, tmp_path: Path) -> None:
    with building(tmp_path / "labels", corpus, SETTINGS) as build:
        assert build is not None
        build.append(0, labels_of(corpus, 0))
        with pytest.raises(AssertionError):
            finish(build, tmp_path / "labels", manifest(corpus))
    assert not (tmp_path / "labels").exists()


def test_unfinished_work_of_other_settings_is_left_alone(corpus: FlatStore, tmp_path: Path) -> None:
    with building(tmp_path / "labels", corpus, SETTINGS) as build:
        assert build is not None
        build.append(3, labels_of(corpus, 3))
    with building(tmp_path / "labels", corpus, {**SETTINGS, "seed": 1}) as other:
        assert other is not None
        assert (other.counts < 0).all()


def test_the_same_labels_are_not_made_again(corpus: FlatStore, tmp_path: Path) -> None:
    make(tmp_path / "labels", corpus)
    with building(tmp_path / "labels", corpus, SETTINGS) as build:
        assert build is None
    with (
        pytest.raises(ConfigError, match=r"seed: 0 there, 1 asked for"),
        building(tmp_path / "labels", corpus, {**SETTINGS, "seed": 1}),
    ):
        pass
    other = make_corpus(tmp_path / "other", seed=1)
    with (
        pytest.raises(
            ConfigError, match=r"the clips of the corpus: [0-9a-f]{12}… there, [0-9a-f]{12}… asked"
        ),
        building(tmp_path / "labels", other, SETTINGS),
    ):
        pass


def as_version_1(directory: Path) -> None:
    """As an older version left a store."""
    index = json.loads((directory / "index.json").read_text())
    del index["clip_sha256"]
    (directory / "index.json").write_text(json.dumps(index))
    made = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**made, "format_version": 1}))


def test_a_store_of_an_older_version_is_read_where_its_hash_does_not_matter(
    corpus: FlatStore, tmp_path: Path
) -> None:
    made = make(tmp_path / "labels", corpus)
    assert made.clip_sha256 == [corpus.clip_sha256[clip] for clip in order(corpus)]
    as_version_1(tmp_path / "labels")
    store = LabelStore.open(tmp_path / "labels")
    assert (store.clip_sha256, store.fingerprint) == ([], made.fingerprint)
    with building(tmp_path / "labels", corpus, SETTINGS) as build:
        assert build is None
    settings = {**SETTINGS, "model_sha256": "a1" * 32}
    make(tmp_path / "layer", corpus, settings=settings, model="m", model_sha256="a1" * 32)
    as_version_1(tmp_path / "layer")
    with (
        pytest.raises(ConfigError, match=r"older version .* knew the model \(m\) by another hash"),
        building(tmp_path / "layer", corpus, settings),
    ):
        pass


def test_fingerprints_tell_labels_apart(corpus: FlatStore, tmp_path: Path) -> None:
    one = make(tmp_path / "one", corpus)
    assert make(tmp_path / "two", corpus).fingerprint == one.fingerprint
    assert make(tmp_path / "sorted", corpus, in_order=True).fingerprint == one.fingerprint
    assert make(tmp_path / "three", corpus, clusters=8).fingerprint != one.fingerprint
    assert make(tmp_path / "four", corpus, grid=Grid(400, 320)).fingerprint != one.fingerprint


def test_damage_is_named(corpus: FlatStore, tmp_path: Path) -> None:
    directory = tmp_path / "labels"
    with pytest.raises(DataError, match=r"is no label store .* tools\.make_labels"):
        LabelStore.open(directory)
    store = make(directory, corpus)
    os.truncate(directory / "labels.uint16", 10)
    with pytest.raises(DataError, match=r"labels\.uint16: has been cut short"):
        store.read(5)
    with pytest.raises(DataError, match=r"labels\.uint16: has 10 bytes"):
        LabelStore.open(directory)
    content = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(DataError, match="format version 99, this code reads up to 2"):
        LabelStore.open(directory)
    del content["grid"]
    (directory / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"manifest\.json: is damaged"):
        LabelStore.open(directory)


def test_centroids_are_those_of_the_labels(corpus: FlatStore, tmp_path: Path) -> None:
    centroids = np.random.default_rng(0).standard_normal((7, 39)).astype(np.float32)
    fit = {"centroids_sha256": array_sha256(centroids)}
    with building(tmp_path / "labels", corpus, SETTINGS) as build:
        assert build is not None
        for clip in order(corpus):
            build.append(clip, labels_of(corpus, clip))
        store = finish(build, tmp_path / "labels", manifest(corpus, fit=fit), centroids)
    np.testing.assert_array_equal(store.centroids(), centroids)
    np.save(tmp_path / "labels" / "centroids.npy", centroids + 1)
    with pytest.raises(DataError, match="is not what the labels were made with"):
        store.centroids()
    with pytest.raises(DataError, match="cannot be given to other clips"):
        make(tmp_path / "imported", corpus).centroids()


def test_a_build_takes_no_labels_beyond_the_format(corpus: FlatStore, tmp_path: Path) -> None:
    with building(tmp_path / "labels", corpus, SETTINGS) as build:
        assert build is not None
        for wrong in (np.array([-1]), np.array([65_536]), np.zeros((1, 1), int)):
            with pytest.raises(AssertionError):
                build.append(0, wrong)
