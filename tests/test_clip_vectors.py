"""Vectors of clips: cached once, read from files with checks, openSMILE where it is installed."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from voc2vec_jax.errors import ConfigError, FeaturesError
from voc2vec_jax.evaluation import clip_vectors
from voc2vec_jax.evaluation.clip_vectors import EXTRACTORS, cached, mfcc_statistics, read_embeddings

IDS = ["a.wav", "b/ö.wav", "c.wav"]
VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4)


def noise(*seconds: float) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1, int(16_000 * s)).astype(np.float32) for s in seconds]


def test_vectors_are_computed_once_for_a_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, asked = noise(0.3, 0.5), []

    def waveforms() -> list[np.ndarray]:
        asked.append(1)
        return clips

    first = cached("mfcc", waveforms, "print", tmp_path)
    again = cached("mfcc", waveforms, "print", tmp_path)
    np.testing.assert_array_equal(first, mfcc_statistics(clips))
    np.testing.assert_array_equal(first, again)
    assert len(asked) == 1
    cached("mfcc", waveforms, "another print", tmp_path)
    assert len(asked) == 2
    # Nor are those of other parameters taken, such as an older version of this package had.
    monkeypatch.setitem(clip_vectors.MFCC, "n_mels", 20)
    extractor = replace(EXTRACTORS["mfcc"], parameters=dict(clip_vectors.MFCC))
    monkeypatch.setitem(EXTRACTORS, "mfcc", extractor)
    other = cached("mfcc", waveforms, "print", tmp_path)
    np.testing.assert_array_equal(other, mfcc_statistics(clips))
    assert not np.array_equal(other, first)
    for path in (tmp_path / "features").glob("mfcc-librosa*"):
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FeaturesError, match="is damaged"):
        cached("mfcc", waveforms, "print", tmp_path)


@pytest.mark.parametrize(("name", "width"), [("egemaps", 88), ("compare", 6_373)])
def test_opensmile_gives_its_sets(name: str, width: int, tmp_path: Path) -> None:
    pytest.importorskip(
        "opensmile", reason="needs opensmile (pip install '.[baselines]'), not free software"
    )
    import tensorflow  # noqa: F401  # openSMILE crashes in a process that has loaded it

    values = cached(name, lambda: noise(0.3, 0.025, 1.0), "print", tmp_path)
    assert values.shape == (3, width)
    assert np.isnan(values[1]).all()  # shorter than its windows
    assert np.isfinite(values[[0, 2]]).all()


def killed(waveform: np.ndarray, feature_set: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_crash_of_opensmile_is_an_error_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_vectors, "require_opensmile", lambda: None)
    monkeypatch.setattr(clip_vectors, "_functionals", killed)
    with pytest.raises(FeaturesError, match="process died while it computed eGeMAPSv02"):
        clip_vectors.egemaps(noise(0.3, 0.3))


def test_without_opensmile_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opensmile", None)
    with pytest.raises(ConfigError, match="pip install opensmile if its licence"):
        cached("egemaps", lambda: noise(0.3), "print", tmp_path)


def write_npz(path: Path) -> Path:
    np.savez(path.with_suffix(".npz"), ids=np.array(IDS), embeddings=VECTORS)
    return path.with_suffix(".npz")


def write_parquet(path: Path, column: str = "id") -> Path:
    vectors = pa.array(list(VECTORS), pa.list_(pa.float32()))
    table = pa.table({column: IDS, "seconds": [1.0, 2.0, 3.0], "embedding": vectors})
    parquet.write_table(table, path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def write_wide(path: Path) -> Path:
    numbers = {f"e{place}": column for place, column in reversed([*enumerate(VECTORS.T)])}
    parquet.write_table(pa.table({"id": IDS, **numbers}), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize(
    "write", [write_npz, write_parquet, write_wide, lambda p: write_parquet(p, "path")]
)
def test_embeddings_come_in_the_order_of_the_corpus(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "vectors")
    np.testing.assert_array_equal(read_embeddings(path, IDS), VECTORS)
    np.testing.assert_array_equal(read_embeddings(path, [IDS[2], IDS[0]]), VECTORS[[2, 0]])
    with pytest.raises(FeaturesError, match=r"lacks 1 of 2 clips of the corpus, such as 'd\.wav'"):
        read_embeddings(path, ["d.wav", IDS[0]])


def test_files_of_another_form_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npz"

    def refuse(message: str) -> None:
        with pytest.raises(FeaturesError, match=message) as error:
            read_embeddings(path, IDS)
        assert str(path) in str(error.value)

    refuse("cannot be read")
    path.write_bytes(b"PK not an archive")
    refuse("cannot be read")
    np.savez(path, ids=np.array(IDS), vectors=VECTORS)
    refuse("cannot be read")
    np.savez(path, ids=np.array(IDS), embeddings=VECTORS[:2])
    refuse("3 ids for vectors of shape")
    np.savez(path, ids=np.array([*IDS[:2], IDS[0]]), embeddings=VECTORS)
    refuse("1 ids occur twice")
    np.savez(path, ids=np.array(IDS), embeddings=np.where(VECTORS == 5, np.nan, VECTORS))
    refuse("1 clips have values that are not finite, such as 'b/ö.wav'")
    path = tmp_path / "vectors.parquet"
    parquet.write_table(pa.table({"id": IDS}), path)
    refuse("needs `id` or `path`, and one column of vectors")
    parquet.write_table(pa.table({"id": IDS, "e0": [1.0] * 3, "e2": [1.0] * 3}), path)
    refuse("e0, e1, … without a gap")
    parquet.write_table(pa.table({"id": IDS, "frames": [[1.0], [1.0, 2.0], [3.0]]}), path)
    refuse("vectors of different lengths")
    path.write_bytes(b"PAR1 not parquet")
    refuse("cannot be read")


def test_every_extractor_names_an_installed_or_optional_package() -> None:
    assert {one.package for one in EXTRACTORS.values()} == {"librosa", "opensmile"}
