"""A recording is recognised after what is usually done to recordings; others are not."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from data_pipelines.preparation.fingerprint import Fingerprint, FingerprintIndex, fingerprint
from data_pipelines.preparation.overlap import find_overlaps
from data_pipelines.preparation.prepare import prepare_dataset
from data_pipelines.stores.building import build_store
from data_pipelines.stores.flat_store import Clip, FlatStore
from data_pipelines.stores.sound import from_int16, to_int16
from data_pipelines.synthetic.corpus import synthetic_corpus
from tools.find_overlap import main
from voc2vec_jax.errors import BAD_DATA, DONE, WRONG_USAGE, DataError

Waveform = NDArray[np.float32]


def stored(waveform: Waveform) -> Waveform:
    """As it comes out of a store."""
    return from_int16(*to_int16(waveform))


def resampled(waveform: Waveform) -> Waveform:
    low = librosa.resample(waveform, orig_sr=16_000, target_sr=8_000, res_type="soxr_hq")
    return librosa.resample(low, orig_sr=8_000, target_sr=16_000, res_type="soxr_hq")


def through_mp3(waveform: Waveform) -> Waveform:
    file = io.BytesIO()
    soundfile.write(file, waveform, 16_000, "MPEG_LAYER_III", format="MP3", compression_level=0.9)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return np.asarray(decoded, np.float32)


CHANGES: dict[str, Callable[[Waveform], Waveform]] = {
    "nothing": lambda waveform: waveform,
    "quieter": lambda waveform: 0.2 * waveform,
    "clipped": lambda waveform: np.clip(4 * waveform, -1, 1),
    "start cut off": lambda waveform: waveform[5_003:],
    "end cut off": lambda waveform: waveform[:-8_000],
    "resampled": resampled,
    "mp3": through_mp3,
    "silence around it": lambda waveform: np.pad(waveform, 16_000),
}


@pytest.fixture(scope="module")
def waveforms() -> list[Waveform]:
    """Forty clips of at least a second, of four speakers."""
    clips = [c.waveform for c in synthetic_corpus(speakers=4, takes=2) if len(c.waveform) > 20_000]
    assert len(clips) >= 40
    return clips[:40]


@pytest.fixture(scope="module")
def index(waveforms: list[Waveform]) -> FingerprintIndex:
    return FingerprintIndex([fingerprint(stored(waveform)) for waveform in waveforms])


@pytest.mark.parametrize("change", CHANGES)
def test_changed_recordings_are_recognised_and_others_are_not(
    waveforms: list[Waveform], index: FingerprintIndex, change: str
) -> None:
    found = [index.search(fingerprint(stored(CHANGES[change](w)))) for w in waveforms]
    recognised = [clip in {m.clip for m in matches} for clip, matches in enumerate(found)]
    wrong = [(clip, m) for clip, matches in enumerate(found) for m in matches if m.clip != clip]
    assert sum(recognised) >= 39
    assert not wrong
    starts = [m.offset_seconds for matches in found for m in matches]
    expected = {"start cut off": 5_003 / 16_000, "silence around it": -1.0}.get(change, 0.0)
    np.testing.assert_allclose(starts, expected, atol=0.05)


def test_an_excerpt_is_found_where_it_is(waveforms: list[Waveform]) -> None:
    whole = np.concatenate(waveforms)
    index = FingerprintIndex([fingerprint(stored(whole))])
    start = sum(len(waveform) for waveform in waveforms[:7])
    (match,) = index.search(fingerprint(stored(waveforms[7])))
    assert match.offset_seconds == pytest.approx(start / 16_000, abs=0.05)


@pytest.mark.parametrize("length", [0, 1, 400, 4_096, 20_000])
def test_silence_and_scraps_match_nothing(index: FingerprintIndex, length: int) -> None:
    silence = fingerprint(np.zeros(length, np.int16))
    assert not silence.sounding.any()
    assert index.search(silence) == []
    assert FingerprintIndex([silence]).search(silence) == []


def test_hash_of_a_sweep_does_not_depend_on_blocks() -> None:
    """Long clips are worked off in blocks."""
    noise = np.random.default_rng(0).integers(-9_000, 9_000, 300_000).astype(np.float32) / 32_768
    whole = fingerprint(noise)
    tail = fingerprint(noise[256 * 700 :])
    assert isinstance(whole, Fingerprint)
    np.testing.assert_array_equal(whole.hashes[700:], tail.hashes)


def store(directory: Path, clips: dict[str, Waveform]) -> FlatStore:
    return build_store(
        directory,
        ((Clip(name, name), to_int16(waveform)) for name, waveform in clips.items()),
        dataset=directory.name,
    )


def test_pairs_of_two_corpora_and_within_one(tmp_path: Path, waveforms: list[Waveform]) -> None:
    one, two, three = waveforms[:3]
    a = store(tmp_path / "a", {"one": one, "one again": one, "two": two})
    b = store(tmp_path / "b", {"same": one, "quiet": 0.3 * two, "other": three})
    pairs = {(o.a, o.b): o.kind for o in find_overlaps(a, b)}
    assert pairs == {
        ("one", "same"): "exact",
        ("one again", "same"): "exact",
        ("two", "quiet"): "near",
    }
    assert {(o.a, o.b) for o in find_overlaps(a, a)} == {("one", "one again")}


def write(path: Path, waveform: Waveform) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, 16_000)


def test_the_command_writes_a_list_that_the_builders_take(
    tmp_path: Path, waveforms: list[Waveform], capsys: pytest.CaptureFixture[str]
) -> None:
    manual, data_dir = tmp_path / "manual", tmp_path / "data"
    for number in range(4):
        write(manual / f"full_set/S0{number}_pain_low_1.wav", waveforms[number])
    for number in (1, 3, 5):
        write(tmp_path / "test set" / f"{number}.wav", 0.5 * waveforms[number])
    prepare_dataset("vivae", manual, data_dir)
    where = ["--data-dir", str(data_dir)]
    out = ["--out", str(tmp_path / "out")]
    assert main(["vivae", str(tmp_path / "test set"), *where, *out]) == DONE
    report = json.loads(capsys.readouterr().out)
    assert report["a"] == {"name": "vivae", "clips": 4, "in_b": 2}
    assert (report["b"]["in_a"], report["pairs"]) == (2, {"near": 2})
    exclude = tmp_path / "out" / "exclude.txt"
    assert exclude.read_text() == "S01_pain_low_1\nS03_pain_low_1\n"
    table = (tmp_path / "out" / "overlap.csv").read_text().splitlines()
    assert table[0] == "a,b,kind,offset_seconds,error_rate"
    assert table[1].startswith("S01_pain_low_1,1.wav,near,0.0,")

    other = tmp_path / "other set"
    write(other / "0.wav", waveforms[6])
    before = exclude.read_bytes()
    assert main(["vivae", str(other), *where, *out]) == WRONG_USAGE
    assert "report.json: holds figures of another run (the clips of B: " in capsys.readouterr().err
    assert exclude.read_bytes() == before
    (tmp_path / "test set").rename(tmp_path / "moved")
    assert main(["vivae", str(tmp_path / "moved"), *where, *out]) == DONE

    with pytest.raises(DataError, match="is prepared already; give --overwrite"):
        prepare_dataset("vivae", manual, data_dir, exclude=exclude)
    exclude.write_text("S01_pain_low_1\nvivae/S03_pain_low_1\n")  # as from a mixture
    directory = prepare_dataset("vivae", manual, data_dir, exclude=exclude, overwrite=True)
    without = json.loads((directory / "report.json").read_text())
    assert without["clips"] == 2
    assert without["dropped"] == without["copies"] == []
    assert [drop["reason"] for drop in without["excluded"]] == [
        "is on the list of clips to exclude"
    ] * 2


def test_corpora_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["vivae", "elephants", *where]) == BAD_DATA
    assert "vivae: is not prepared" in capsys.readouterr().err
    assert main(["elephants", "vivae", *where]) == WRONG_USAGE
    assert "no such dataset is prepared" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
