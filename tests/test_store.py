"""A corpus is decoded once, completely or not at all, and what is lost is listed."""

import hashlib
import io
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from rich.console import Console

from data_pipelines.batches.pipeline import assemble
from data_pipelines.batches.window_plan import WindowPlan
from data_pipelines.corpora.sources import open_corpus, store_from_folder, store_from_table
from data_pipelines.stores import decode
from data_pipelines.stores.building import build_store
from data_pipelines.stores.columns import Strings
from data_pipelines.stores.flat_store import Clip, FlatStore
from data_pipelines.stores.report import Expected, plot_durations, read_report, report_table
from data_pipelines.stores.sound import Int16Array, Sound, from_int16, to_int16
from data_pipelines.synthetic.corpus import CLASSES, SyntheticClip
from tests.old_index import as_it_was
from voc2vec_jax.audio.signal import load_audio, normalize
from voc2vec_jax.config import DataConfig
from voc2vec_jax.errors import ConfigError, DataError


def noise(length: int, seed: int = 0) -> Int16Array:
    return np.random.default_rng(seed).integers(-20_000, 25_000, length).astype(np.int16)


def write_wav(path: Path, samples: Int16Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, 16_000, subtype="PCM_16")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "sounds"
    for index, name in enumerate(("b/two.wav", "a.WAV", "b/ünë.flac")):
        write_wav(root / name, noise(1_000 + index, index))
    (root / "notes.txt").write_text("not audio")
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def refuse_to_decode(path: object) -> None:
    raise AssertionError(f"decoded {path} again")


def report_of(store: FlatStore) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((store.directory / "report.json").read_text())
    return report


def test_folder_becomes_clips_in_path_order(folder: Path, cache: Path) -> None:
    store = store_from_folder(folder, cache)
    assert store.ids == store.sources == ["a.WAV", "b/two.wav", "b/ünë.flac"]
    assert store.lengths.tolist() == [1_001, 1_000, 1_002]
    assert store.labels.tolist() == [-1, -1, -1]
    assert store.groups == ["", "", ""]
    assert store.read(0, 0, 0).dtype == np.dtype("<i2")
    np.testing.assert_array_equal(store.read(1, 0, 1_000), noise(1_000, 0))
    np.testing.assert_array_equal(store.read(2, 10, 5), noise(1_002, 2)[10:15])
    assert report_of(store) == {
        "dataset": "sounds",
        "clips": 3,
        "hours": pytest.approx(3_003 / 16_000 / 3600),
        "classes": {},
        "groups": 0,
        "folds": {},
        "seconds": {
            "shortest": 0.0625,
            "median": 1_001 / 16_000,
            "mean": pytest.approx(1_001 / 16_000),
            "longest": 1_002 / 16_000,
        },
        "dropped": [],
        "excluded": [],
        "copies": [],
        "ignored_files": 1,
        "ignored_audio": {},
        "expected": {"clips": None, "hours": None},
        "paper": {"clips": None, "hours": None},
        "verdict": "no count is known for a complete copy",
        "clipped": [],
        "beyond_full_scale": [],
        "silent": [],
        "duplicates": [],
    }


def test_statistics_are_those_of_normalize(folder: Path, cache: Path) -> None:
    store = store_from_folder(folder, cache)
    for clip, name in enumerate(store.ids):
        waveform = from_int16(store.read(clip, 0, store.lengths[clip]))
        by_index = (waveform - store.means[clip]) / np.sqrt(store.variances[clip] + 1e-7)
        np.testing.assert_array_equal(by_index, normalize(load_audio(folder / name)))


def test_second_run_decodes_nothing(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store_from_folder(folder, cache)
    monkeypatch.setattr(decode, "load_audio", refuse_to_decode)
    second = store_from_folder(folder, cache)
    assert second.directory == first.directory
    assert second.fingerprint == first.fingerprint


def test_changed_folder_is_decoded_anew(folder: Path, cache: Path) -> None:
    first = store_from_folder(folder, cache)
    write_wav(folder / "a.WAV", noise(1_001, 9))
    os.utime(folder / "a.WAV", ns=(1, 1))  # same size; clocks of file systems can be coarse
    second = store_from_folder(folder, cache)
    assert second.directory != first.directory
    assert second.fingerprint != first.fingerprint


def test_fingerprint_sees_ids_and_samples_but_not_the_place(tmp_path: Path) -> None:
    def fingerprint(name: str, clip_id: str, seed: int) -> str:
        clips = [(Clip(clip_id, "x"), noise(500, seed))]
        return build_store(tmp_path / name, clips, dataset="x").fingerprint

    same = fingerprint("one", "a", 0)
    assert same == fingerprint("two", "a", 0)
    assert same != fingerprint("three", "b", 0)
    assert same != fingerprint("four", "a", 1)


def test_unreadable_files_are_listed_and_the_rest_is_unharmed(
    folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "b" / "broken.wav").write_bytes(b"RIFF, but no more of it")
    with caplog.at_level(logging.WARNING):
        store = store_from_folder(folder, cache)
    assert store.ids == ["a.WAV", "b/two.wav", "b/ünë.flac"]
    np.testing.assert_array_equal(store.read(2, 0, 1_002), noise(1_002, 2))
    (dropped,) = report_of(store)["dropped"]
    assert dropped["file"] == "b/broken.wav"
    assert dropped["reason"]
    assert "dropped=b/broken.wav" in caplog.text


def test_order_does_not_depend_on_which_file_is_decoded_first(tmp_path: Path, cache: Path) -> None:
    lengths = [40_000 if i % 7 == 0 else 400 + i for i in range(60)]
    for index, length in enumerate(lengths):
        write_wav(tmp_path / "many" / f"{index:02d}.wav", noise(length, index))
    store = store_from_folder(tmp_path / "many", cache)
    assert store.lengths.tolist() == lengths
    for clip in range(60):
        np.testing.assert_array_equal(store.read(clip, 0, lengths[clip])[:9], noise(9, clip))


def test_nothing_readable(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "bad").mkdir()
    with pytest.raises(DataError, match="no audio among its 0 files"):
        store_from_folder(tmp_path / "bad", cache)
    (tmp_path / "bad" / "a.wav").write_bytes(b"noise")
    with pytest.raises(DataError, match=r"bad: none of 1 files could be read; the first: a\.wav"):
        store_from_folder(tmp_path / "bad", cache)
    with pytest.raises(DataError, match="no such folder"):
        store_from_folder(tmp_path / "none", cache)


def test_broken_build_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    def interrupted() -> Iterator[tuple[Clip, Int16Array]]:
        yield Clip("a", "a"), noise(500)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_store(tmp_path / "corpus", interrupted(), dataset="corpus")
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    clips = [(Clip("a", "a"), noise(500))]
    assert build_store(tmp_path / "corpus", clips, dataset="corpus").ids == ["a"]


@pytest.mark.parametrize("damage", ["none", "half a line", "half a clip", "other samples"])
def test_killed_build_goes_on_where_it_stopped(tmp_path: Path, damage: str) -> None:
    clips = [(Clip(name, name), noise(500 + i, i)) for i, name in enumerate("abcdef")]
    clips[1] = (Clip("b", "b"), "broken")  # type: ignore[assignment]
    whole = build_store(tmp_path / "whole", clips, dataset="corpus")
    starts: list[int] = []

    def killed(start: int) -> Iterator[tuple[Clip, Int16Array]]:
        starts.append(start)
        yield from clips[start:4]
        raise KeyboardInterrupt

    def resumed(start: int) -> Iterator[tuple[Clip, Int16Array]]:
        starts.append(start)
        yield from clips[start:]

    with pytest.raises(KeyboardInterrupt):
        build_store(tmp_path / "corpus", killed, dataset="corpus")
    samples = tmp_path / ".corpus.resumable" / "samples.int16"
    journal = samples.with_name("journal.jsonl")
    expected_start = 4
    if damage == "half a line":
        journal.write_bytes(journal.read_bytes()[:-20])
        expected_start = 3
    elif damage == "half a clip":
        os.truncate(samples, samples.stat().st_size - 100)
        expected_start = 3
    elif damage == "other samples":  # of the third clip, the second that was kept
        content = bytearray(samples.read_bytes())
        content[2 * 500 + 7] ^= 1
        samples.write_bytes(content)
        expected_start = 2
    store = build_store(tmp_path / "corpus", resumed, dataset="corpus")
    assert starts == [0, expected_start]
    assert store.ids == ["a", "c", "d", "e", "f"]
    for name in ("index.arrow", "report.json", "samples.int16"):
        assert (store.directory / name).read_bytes() == (whole.directory / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["corpus", "whole"]


def test_report_lists_what_deserves_a_look(tmp_path: Path) -> None:
    clipped = noise(500)
    clipped[:3] = 32767, -32768, 32767
    clips = [
        (Clip("a", "a.wav", group="x", fold="test"), noise(500, 1)),
        (Clip("b", "b.wav", group="x", fold="train"), clipped),
        (Clip("c", "c.wav"), np.full(16_000, 20, np.int16)),
        (Clip("d", "d.wav", fold="test"), noise(500, 1)),
    ]
    store = build_store(
        tmp_path / "corpus",
        clips,
        dataset="corpus",
        rejected=[{"file": "e.wav", "reason": "odd name"}],
        expected=Expected(clips=5, hours=0.1, paper_clips=6, paper_hours=0.2, note="who knows"),
    )
    report = report_of(store)
    assert store.folds == ["test", "train", "", "test"]
    assert report["folds"] == {"test": 2, "train": 1}
    assert report["clipped"] == ["b.wav"]
    assert report["silent"] == ["c.wav"]
    assert report["duplicates"] == [["a.wav", "d.wav"]]
    assert report["dropped"] == [{"file": "e.wav", "reason": "odd name"}]
    assert report["expected"] == {"clips": 5, "hours": 0.1}
    assert report["paper"] == {"clips": 6, "hours": 0.2}
    assert report["verdict"].startswith("DIFFERS: 5 clips expected")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report_table(report))
    text = console.export_text()
    for part in ("6 clips, 0.2 h", "e.wav: odd name", "a.wav = d.wav", "who knows", "longest 1.00"):
        assert part in text
    plot_durations(store.lengths, "corpus", tmp_path / "durations.png")
    assert (tmp_path / "durations.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("clips", "complete"), [(98, True), (102, True), (97, False)])
def test_counts_are_checked_within_their_tolerance(
    tmp_path: Path, clips: int, complete: bool
) -> None:
    store = build_store(
        tmp_path / "corpus",
        ((Clip(str(i), str(i)), noise(400, i)) for i in range(clips)),
        dataset="corpus",
        expected=Expected(clips=100, tolerance=0.02),
    )
    assert report_of(store)["verdict"].startswith("complete" if complete else "DIFFERS")


def test_next_build_clears_away_what_a_killed_one_left(tmp_path: Path) -> None:
    leftover = tmp_path / ".corpus.0123abcd.tmp"
    leftover.mkdir()
    (leftover / "samples.int16").write_bytes(b"half")
    build_store(tmp_path / "corpus", [(Clip("a", "a"), noise(500))], dataset="corpus")
    assert not leftover.exists()


@pytest.mark.parametrize("locks", [True, False])
def test_two_builders_at_once_end_in_one_whole_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    if not locks:

        def refuse(*_: object) -> None:
            raise OSError("no locks on this file system")

        monkeypatch.setattr("fcntl.flock", refuse)
    together = threading.Barrier(2)

    def clips() -> Iterator[tuple[Clip, Int16Array]]:
        if not locks:
            together.wait(10)  # both are writing now
        for index in range(50):
            yield Clip(str(index), "x"), noise(1_000, index)

    found: list[FlatStore] = []

    def build() -> None:
        found.append(build_store(tmp_path / "corpus", clips(), dataset="corpus"))

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0].fingerprint == found[1].fingerprint
    np.testing.assert_array_equal(found[1].read(49, 0, 1_000), noise(1_000, 49))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["corpus"]


def test_damaged_stores_say_what_to_delete(tmp_path: Path) -> None:
    directory = tmp_path / "corpus"
    build_store(directory, [(Clip("a", "a"), noise(500))], dataset="corpus")
    os.truncate(directory / "samples.int16", 998)
    with pytest.raises(DataError, match=r"samples\.int16: has 998 bytes instead of 1000; delete"):
        FlatStore.open(directory)
    (directory / "samples.int16").unlink()
    with pytest.raises(DataError, match=r"samples\.int16: is missing; delete"):
        FlatStore.open(directory)
    index = (directory / "index.arrow").read_bytes()
    other = index.replace(b'"format_version": 2', b'"format_version": 9')
    (directory / "index.arrow").write_bytes(other)
    with pytest.raises(DataError, match=r"index\.arrow: format version 9, this code reads 2; del"):
        FlatStore.open(directory)
    for damaged in (index[: len(index) // 2], b"", b"noise" * 100):
        (directory / "index.arrow").write_bytes(damaged)
        with pytest.raises(DataError, match=r"index\.arrow: cannot be read .* delete"):
            FlatStore.open(directory)
    (directory / "index.arrow").unlink()
    with pytest.raises(DataError, match=r"index\.arrow: cannot be read .* delete"):
        FlatStore.open(directory)
    (directory / "index.json").write_text('{"format_version": 99}')
    with pytest.raises(DataError, match=r"index\.json: format version 99"):
        FlatStore.open(directory)
    (directory / "index.json").write_text("{")
    with pytest.raises(DataError, match=r"index\.json: cannot be read"):
        FlatStore.open(directory)


def test_repeated_ids_are_listed(tmp_path: Path) -> None:
    clips = [(Clip(name, name), noise(500)) for name in ("a", "b", "a", "c", "c")]
    with pytest.raises(DataError, match="2 ids are given to several clips: a, c"):
        build_store(tmp_path / "corpus", clips, dataset="corpus")


def test_sound_within_full_scale_is_rounded_and_16_bits_come_out_exact() -> None:
    waveform = np.array([-1.0, 0.4 / 32768, 0.6 / 32768, 1.0], np.float32)
    samples, scale = to_int16(waveform)
    assert (samples.tolist(), scale) == ([-32768, 0, 1, 32767], 1.0)
    every = np.arange(-32768, 32768).astype(np.int16)
    again = to_int16(from_int16(every))
    assert again.scale == 1
    np.testing.assert_array_equal(again.samples, every)


@pytest.mark.parametrize("peak", [1.000001, 1.3, 32_768.0, 1e20])
def test_sound_beyond_full_scale_is_kept_up_to_half_a_step(peak: float) -> None:
    waveform = np.random.default_rng(0).uniform(-1, 0.9, 1_000).astype(np.float32)
    waveform *= np.float32(peak / np.abs(waveform).max())
    sound = to_int16(waveform)
    assert np.float32(sound.scale) == pytest.approx(peak, rel=1e-4)
    step = sound.scale / 32_768
    heard = from_int16(*sound)
    assert np.abs(heard.astype(float) - waveform).max() <= 0.503 * step
    again = to_int16(heard)
    assert again.scale == sound.scale
    np.testing.assert_array_equal(again.samples, sound.samples)


def test_integers_written_as_floats_come_out_exact() -> None:
    every = np.arange(-32768, 32768).astype(np.float32)
    sound = to_int16(every)
    assert sound.scale == 32_768
    np.testing.assert_array_equal(from_int16(*sound), every)


def loud(rate: int) -> np.ndarray:
    """Half a second of a square wave at full scale, for which resampling overshoots."""
    return np.where(np.arange(rate // 2) // (rate // 200) % 2, 0.999, -0.999).astype(np.float32)


@pytest.mark.parametrize("kind", ["floats of 16-bit integers", "overshoot of resampling"])
def test_sound_beyond_full_scale_is_heard_as_by_load_audio(
    tmp_path: Path, cache: Path, kind: str
) -> None:
    folder = tmp_path / "in"
    write_wav(folder / "b.wav", noise(1_000))
    if kind.startswith("floats"):
        tone = 0.3 * np.sin(np.arange(8_000) / 7) + 0.02 * np.sin(np.arange(8_000) / 3)
        soundfile.write(folder / "a.wav", (tone * 32_767).astype("f4"), 16_000, subtype="FLOAT")
    else:
        soundfile.write(folder / "a.wav", loud(44_100), 44_100, subtype="PCM_16")
    expected = load_audio(folder / "a.wav")
    assert np.abs(expected).max() > 1.01
    store = store_from_folder(folder, cache)
    heard = store.waveform(0)
    step = store.scales[0] / 32_768
    assert np.abs(heard - expected).max() <= 0.503 * step
    np.testing.assert_array_equal(store.waveform(0, 30, 100), heard[30:130])
    assert store.scales[0] == pytest.approx(np.abs(expected).max(), rel=1e-3)
    # Within full scale nothing has changed.
    assert store.scales[1] == 1
    np.testing.assert_array_equal(store.waveform(1), noise(1_000) / np.float32(32_768))
    assert report_of(store)["beyond_full_scale"] == ["a.wav"]
    plan = WindowPlan(store.lengths, DataConfig(), seed=0)
    batch = plan.batch(0)
    (row, *_) = np.flatnonzero(batch.clips == 0)
    for mode in ("none", "clip"):
        waveform = assemble(store, batch, mode)[row, : len(expected)]
        wanted = normalize(expected) if mode == "clip" else expected
        assert np.abs(waveform - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert store.means[0] == heard.mean()
    assert store.variances[0] == heard.var()


def test_a_scale_is_part_of_what_identifies_a_clip(tmp_path: Path) -> None:
    def made(name: str, sound: Sound) -> FlatStore:
        return build_store(tmp_path / name, [(Clip("a", "a"), sound)], dataset="x")

    one, same = made("one", Sound(noise(500))), made("same", Sound(noise(500), 1.0))
    louder = made("louder", Sound(noise(500), 2.0))
    assert one.clip_sha256 == same.clip_sha256 == [hashlib.sha256(noise(500)).hexdigest()]
    assert louder.clip_sha256 != one.clip_sha256
    assert louder.fingerprint != one.fingerprint == same.fingerprint
    np.testing.assert_array_equal(louder.waveform(0), 2 * one.waveform(0))
    # As before there was a scale, so that runs go on.
    content = hashlib.sha256(one.clip_sha256[0].encode()).hexdigest()
    identity = json.dumps([2, 16_000, ["a"], [500], content])
    assert one.fingerprint == hashlib.sha256(identity.encode()).hexdigest()


@pytest.mark.parametrize("clipped", [False, True])
def test_an_old_store_opens_and_names_what_it_may_have_cut_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, clipped: bool
) -> None:
    samples = noise(500)
    samples[:3] = 32_767 if clipped else 5
    clips = [
        (Clip("ä", "ä.wav", 1, "x", "test"), samples),
        (Clip("b", "b.wav"), noise(600, 1)),
    ]
    directory = tmp_path / "corpus"
    new = build_store(directory, clips, dataset="corpus", class_names=["p", "q"])
    as_it_was(new, directory)
    with caplog.at_level(logging.WARNING):
        FlatStore.open(directory)
        old = FlatStore.open(directory)
    mix, *named = [record.getMessage() for record in caplog.records]
    assert f"store={directory}: an older version made it" in mix
    assert "channels that cancel" in mix
    assert len(named) == clipped
    assert not clipped or (f"store={directory} perhaps_cut_off=1" in named[0])
    assert not clipped or "--overwrite" in named[0]
    assert (directory / "index.arrow").exists()
    for field in ("ids", "groups", "folds", "sources", "clip_sha256", "class_names", "fingerprint"):
        assert getattr(old, field) == getattr(new, field)
    for field in ("lengths", "labels", "means", "variances", "scales", "offsets"):
        np.testing.assert_array_equal(getattr(old, field), getattr(new, field))
    # Decoded again, a clip that was recorded so is the same and no longer named.
    shutil.rmtree(directory)
    caplog.clear()
    again = build_store(directory, clips, dataset="corpus", class_names=["p", "q"])
    assert again.fingerprint == old.fingerprint
    assert not caplog.records


def test_an_old_build_that_was_killed_begins_anew(tmp_path: Path) -> None:
    def killed(start: int) -> Iterator[tuple[Clip, Int16Array]]:
        yield Clip("a", "a"), noise(500)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_store(tmp_path / "corpus", killed, dataset="corpus")
    journal = tmp_path / ".corpus.resumable" / "journal.jsonl"
    entry = json.loads(journal.read_text())
    del entry["scale"]
    journal.write_text(json.dumps(entry) + "\n")
    starts: list[int] = []

    def resumed(start: int) -> Iterator[tuple[Clip, Int16Array]]:
        starts.append(start)
        yield Clip("a", "a"), noise(500)

    assert build_store(tmp_path / "corpus", resumed, dataset="corpus").ids == ["a"]
    assert starts == [0]


def test_names_that_are_not_utf8_are_refused_at_once(tmp_path: Path) -> None:
    clips = [(Clip("a\udcff", "a\udcff.wav"), noise(500)), (Clip("b", "b"), noise(500))]
    with pytest.raises(DataError, match=r"a\\udcff\.wav': is not named in UTF-8; rename it"):
        build_store(tmp_path / "corpus", clips, dataset="corpus")


def test_what_was_left_out_stands_in_three_lists(tmp_path: Path) -> None:
    lists = {
        kind: [{"file": f"{kind}.wav", "reason": reason}]
        for kind, reason in {
            "rejected": "odd name",
            "copies": "is a copy of a.wav",
            "excluded": "is on the list of clips to exclude",
        }.items()
    }
    clips = [(Clip("a", "a.wav"), noise(500)), (Clip("b", "b.wav"), "broken")]
    store = build_store(tmp_path / "corpus", clips, dataset="corpus", **lists)  # type: ignore[arg-type]
    report = read_report(store.directory)
    broken = {"file": "b.wav", "reason": "broken"}
    assert report["dropped"] == [*lists["rejected"], broken]
    assert (report["copies"], report["excluded"]) == (lists["copies"], lists["excluded"])
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report_table(report))
    text = console.export_text()
    for part in (
        "unreadable",
        "b.wav: broken",
        "copies",
        "is a copy of a.wav",
        "excluded.wav: is on",
    ):
        assert part in text
    # An older version had one list.
    old = {k: v for k, v in report_of(store).items() if k not in ("copies", "excluded")}
    old["dropped"] = [*lists["rejected"], *lists["copies"], *lists["excluded"], broken]
    (store.directory / "report.json").write_text(json.dumps(old))
    assert read_report(store.directory) == report


def test_strings_in_arrow_behave_like_a_list() -> None:
    texts = ["b", "", "ä", "b"]
    for values in (pa.array(texts, pa.large_string()), pa.array(texts).dictionary_encode()):
        strings = Strings(values)
        assert strings == texts
        assert strings != texts[:3]
        assert [strings[0], strings[-2], strings[np.int64(3)]] == ["b", "ä", "b"]
        assert strings[1:3] == ["", "ä"]
        assert sorted(set(strings)) == ["", "b", "ä"]
        assert np.asarray(strings).tolist() == texts
        assert strings.prefixed("x/") == ["x/b", "", "x/ä", "x/b"]
        assert Strings.joined([strings, strings.prefixed("x/")])[3:6] == ["b", "x/b", ""]
        with pytest.raises(IndexError):
            strings[4]


def write_table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    table = folder / "clips.csv"
    table.write_text(text, encoding=encoding)
    return table


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_table(folder: Path, cache: Path, encoding: str) -> None:
    text = (
        "path,mood,label,group,id,fold\r\n"
        "b/ünë.flac,x,laugh,anna,one,train\r\n"
        "b/two.wav,,,anna,,\r\n"
        f'"{folder / "a.WAV"}",y,cry,ben,three,test\r\n'
    )
    store = store_from_table(write_table(folder, text, encoding), cache)
    assert store.ids == ["one", "b/two.wav", "three"]
    assert store.class_names == ["cry", "laugh"]
    assert store.labels.tolist() == [1, -1, 0]
    assert store.groups == ["anna", "anna", "ben"]
    assert store.folds == ["train", "", "test"]
    assert store.lengths.tolist() == [1_002, 1_000, 1_001]
    assert report_of(store)["classes"] == {"cry": 1, "laugh": 1}
    assert report_of(store)["groups"] == 2


def test_table_with_path_only_and_with_numbers_as_labels(folder: Path, cache: Path) -> None:
    store = store_from_table(write_table(folder, "path\na.WAV\n\nb/two.wav\n"), cache)
    assert store.ids == ["a.WAV", "b/two.wav"]
    numbers = "path,label\na.WAV,10\nb/two.wav,9\nb/ünë.flac,-1\n"
    store = store_from_table(write_table(folder, numbers), cache)
    assert store.class_names == ["9", "10"]
    assert store.labels.tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\na.WAV,1\n", r"line 1: no column `path` .* among \['name', 'label'\]"),
        ("path|label\na.WAV|1\n", r"line 1: columns .* separated by '\|'; put commas or"),
        ("", r"line 1: no column `path`"),
        ("path,label\n", "no rows below the header"),
        ("path,id\na.WAV,x\nb/two.wav,x\n", r"line 3: id 'x' is that of line 2"),
        ("path\na.WAV\na.WAV\n", r"line 3: id 'a\.WAV' is that of line 2"),
        ("path,id\na.WAV,x\n,y\n", "line 3: `path` is empty"),
        ("path\na.WAV\ngone.wav\n", r"line 3: no such file: .*gone\.wav \(1 of 2 rows"),
    ],
)
def test_table_errors_name_table_line_and_fix(
    folder: Path, cache: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=rf"clips\.csv: {message}"):
        store_from_table(write_table(folder, text), cache)


def test_table_that_is_missing_or_not_utf8(folder: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: no such table"):
        store_from_table(folder / "none.csv", cache)
    with pytest.raises(DataError, match=r"clips\.csv: is UTF-16"):
        store_from_table(write_table(folder, "path\nb/ünë.flac\n", "utf-16"), cache)
    with pytest.raises(DataError, match=r"line 2: no such file: .*\\xfcn\\xeb\.wav"):
        store_from_table(write_table(folder, "path\nünë.wav\n", "latin-1"), cache)


def test_open_corpus_picks_the_source(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOC2VEC_DATA_DIR", str(cache))
    table = write_table(folder, "path\na.WAV\n")
    assert open_corpus(DataConfig(folder=str(folder))).directory.parent == cache
    assert open_corpus(DataConfig(table=str(table))).ids == ["a.WAV"]
    elsewhere = DataConfig(table=str(table), data_dir=str(cache / "own"))
    assert open_corpus(elsewhere).directory.parent == cache / "own"
    with pytest.raises(ConfigError, match=r"data\.name='voc126': .*'synthetic'"):
        open_corpus(DataConfig(name="voc126"))


def test_synthetic_corpus(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waveforms = [from_int16(noise(700 + label, label)) for label in range(len(CLASSES))]
    clips = [SyntheticClip(f"c{i}", i, f"s{i % 2}", w) for i, w in enumerate(waveforms)]
    monkeypatch.setattr("data_pipelines.synthetic.corpus.synthetic_corpus", lambda **_: iter(clips))
    data = DataConfig(name="synthetic", data_dir=str(cache))
    store = open_corpus(data)
    assert store.class_names == list(CLASSES)
    assert store.labels.tolist() == list(range(len(CLASSES)))
    np.testing.assert_array_equal(from_int16(store.read(3, 0, 703)), waveforms[3])
    assert open_corpus(data).fingerprint == store.fingerprint
