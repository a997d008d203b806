"""fairseq's label files: written as it reads them, read as it writes them."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.batches.frame_targets import open_targets
from data_pipelines.frame_labels import fairseq_files
from data_pipelines.frame_labels.label_store import LabelStore
from data_pipelines.stores.building import build_store
from data_pipelines.stores.flat_store import Clip, FlatStore
from voc2vec_jax.errors import ConfigError, DataError

LENGTHS = (16_100, 400, 8_000)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> FlatStore:
    clips = ((Clip(f"a/{i}.mp3", "x"), np.zeros(n, np.int16)) for i, n in enumerate(LENGTHS))
    return build_store(tmp_path_factory.mktemp("corpus") / "clips", clips, dataset="clips")


def counts(hop: int = 160) -> list[int]:
    return [1 + (n - 400) // hop for n in LENGTHS]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """As fairseq's scripts leave them: another order, wav copies, a clip more, one label unused."""
    folder = tmp_path / "files"
    folder.mkdir()
    rows = [f"a/2.wav\t{LENGTHS[2]}", "b/9.wav\t4000", f"a/0.wav\t{LENGTHS[0]}", "a/1.wav\t400"]
    (folder / "train.tsv").write_text("/data/audio\n" + "\n".join(rows) + "\n")
    random = np.random.default_rng(0)
    lines = [random.integers(0, 4, count) for count in (counts()[2], 23, counts()[0], 1)]
    text = "\n".join(" ".join(map(str, line)) for line in lines)
    (folder / "train.km").write_text(text + "\n")
    (folder / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(5)))
    return folder


def read(files: Path, corpus: FlatStore, rate_hz: float = 100.0) -> LabelStore:
    return fairseq_files.read(files, "train", corpus, rate_hz, files.parent / "labels")


def test_files_are_found_by_name_and_come_back(
    files: Path, corpus: FlatStore, tmp_path: Path
) -> None:
    store = read(files, corpus)
    assert store.manifest.clusters == 5
    assert store.manifest.quality == {"frames": sum(counts()), "used_clusters": 4}
    lines = (files / "train.km").read_text().splitlines()
    for clip, line in ((0, 2), (1, 3), (2, 0)):
        (row,) = store.rows_of([corpus.ids[clip]])
        assert store.read(int(row)).tolist() == [int(label) for label in lines[line].split()]
    fairseq_files.write(store, corpus, tmp_path / "out", "valid")
    assert (tmp_path / "out" / "valid.km").read_text().splitlines() == [lines[i] for i in (2, 3, 0)]
    root, *rows = (tmp_path / "out" / "valid.tsv").read_text().splitlines()
    assert root == str(tmp_path / "out" / "audio")
    assert rows == [f"a/{i}.mp3\t{n}" for i, n in enumerate(LENGTHS)]
    dictionary = (tmp_path / "out" / "dict.km.txt").read_text()
    assert dictionary == (files / "dict.km.txt").read_text()
    open_targets(
        str(store.directory), corpus, np.ones(3, bool), clusters=5, rate_hz=100, alignment="fairseq"
    )


def test_classes_are_places_in_the_dictionary(files: Path, corpus: FlatStore) -> None:
    """As fairseq counts them: another order of the dictionary is another numbering."""
    plain = read(files, corpus)
    expected = [plain.read(row) for row in range(3)]
    (files / "dict.km.txt").write_text("".join(f"{label} 7\n" for label in (4, 3, 2, 1, 0)))
    other = fairseq_files.read(files, "train", corpus, 100.0, files.parent / "other")
    assert other.ids == plain.ids
    for row in range(3):
        np.testing.assert_array_equal(other.read(row), 4 - expected[row])


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_what_does_not_fit_is_refused(files: Path, corpus: FlatStore) -> None:
    with pytest.raises(ConfigError, match="rate_hz=70: give 100 for MFCC labels, 50 for"):
        read(files, corpus, rate_hz=70.0)
    store_files = {path: path.read_text() for path in files.iterdir()}

    def refused(name: str, old: str, new: str, message: str) -> None:
        replace(files / name, old, new)
        with pytest.raises(DataError, match=message):
            read(files, corpus)
        assert not (files.parent / "labels").exists()
        for path, text in store_files.items():
            path.write_text(text)

    refused("train.tsv", "a/1.wav", "c/1.wav", r"1 of 3 clips .* such as 'a/1\.mp3'")
    refused("train.tsv", "b/9.wav", "a/1.mp4", r"1 of 3 clips .*more than once")
    refused("train.tsv", "16100", "12100", r"other lengths .* 'a/0\.wav' with 12100 .* of 16100")
    refused("train.tsv", "\t16100", " 16100", r"line 4: no 'path<TAB>samples'")
    refused("dict.km.txt", "3 1\n", "", r"train\.km: line \d: label '3' is not in dict\.km\.txt")
    refused("dict.km.txt", "3 1\n", "2 1\n", r"dict\.km\.txt: has 5 labels, 4 of them different")
    refused("train.km", "\n", " ", r"train\.km: has 3 lines, and the \.tsv 4 clips")


def test_clips_without_labels_are_not_written(
    files: Path, corpus: FlatStore, tmp_path: Path
) -> None:
    store = read(files, corpus)
    clips = [(Clip("new.wav", "x"), np.zeros(400, np.int16))]
    other = build_store(tmp_path / "other", clips, dataset="other")
    with pytest.raises(DataError, match=r"no labels for 1 of 1 clips, such as 'new\.wav'"):
        fairseq_files.write(store, other, tmp_path / "out", "train")
