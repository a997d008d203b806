"""Reading of good and bad files, normalisation, padding, and frame arithmetic."""

import os
import pickle
import re
import shutil
import stat
import struct
import subprocess
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import librosa
import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st
from transformers import Wav2Vec2FeatureExtractor

from voc2vec_jax.audio import decode
from voc2vec_jax.audio.frame_grid import (
    HOP_SAMPLES,
    MIN_SAMPLES,
    frames_from_samples,
    samples_from_frames,
)
from voc2vec_jax.audio.signal import (
    AUDIO_SUFFIXES,
    SAMPLE_RATE,
    find_audio,
    load_audio,
    normalize,
    pad_batch,
)
from voc2vec_jax.errors import AudioError

FRAME_TABLE = {
    0: 0,
    399: 0,
    400: 1,
    719: 1,
    720: 2,
    16_000: 49,
    32_000: 99,
    112_000: 349,
    250_000: 781,
    320_000: 999,
}


def tone(rate: int = SAMPLE_RATE, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    cycles = hertz * np.arange(int(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * cycles)).astype(np.float32)


def assert_is_tone(waveform: np.ndarray, seconds: float = 1.0, hertz: float = 440.0) -> None:
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert abs(len(waveform) - seconds * SAMPLE_RATE) < 0.1 * SAMPLE_RATE
    middle = waveform[len(waveform) // 2 - 4000 :][:8000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(8000)))
    assert abs(spectrum.argmax() * SAMPLE_RATE / 8000 - hertz) <= 4
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.5, rel=0.05)


def wav_bytes(
    data: bytes,
    *,
    data_size: int | None = None,
    riff_size: int | None = None,
    channels: int = 1,
    rate: int = SAMPLE_RATE,
    tail: bytes = b"",
) -> bytes:
    data_size = len(data) if data_size is None else data_size
    riff_size = 36 + len(data) + len(tail) if riff_size is None else riff_size
    byte_rate = rate * channels * 2 & 0xFFFFFFFF
    form = struct.pack("<HHIIHH", 1, channels, rate, byte_rate, channels * 2 & 0xFFFF, 16)
    return (
        b"RIFF"
        + struct.pack("<I", riff_size)
        + b"WAVEfmt "
        + struct.pack("<I", len(form))
        + form
        + b"data"
        + struct.pack("<I", data_size)
        + data
        + tail
    )


def pcm16(waveform: np.ndarray) -> bytes:
    return (waveform * 32767).astype("<i2").tobytes()


def refuse(path: Path | str, reason: str) -> AudioError:
    with pytest.raises(AudioError, match=reason) as caught:
        load_audio(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(repr(str(path)))
    return caught.value


@pytest.fixture(scope="session")
def ffmpeg_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bin")
    binary = shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()
    (folder / "ffmpeg").symlink_to(binary)
    return folder


@pytest.fixture
def ffmpeg(ffmpeg_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts ffmpeg on PATH and returns a function that runs it."""
    monkeypatch.setenv("PATH", str(ffmpeg_folder), prepend=os.pathsep)

    def run(*arguments: str | Path) -> None:
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *arguments], check=True)

    return run


@pytest.fixture
def no_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


# Frame arithmetic


def test_geometry_constants() -> None:
    assert (MIN_SAMPLES, HOP_SAMPLES) == (400, 320)


@pytest.mark.parametrize(("samples", "frames"), FRAME_TABLE.items())
def test_frames_of_known_lengths(samples: int, frames: int) -> None:
    result = frames_from_samples(samples)
    assert type(result) is int
    assert result == frames


def test_frames_of_numpy_and_traced_jax_arrays() -> None:
    jax = pytest.importorskip("jax")
    samples = np.array(list(FRAME_TABLE), np.int32)
    expected = np.array(list(FRAME_TABLE.values()))
    assert frames_from_samples(samples).dtype == np.int32
    np.testing.assert_array_equal(frames_from_samples(samples), expected)
    np.testing.assert_array_equal(jax.jit(frames_from_samples)(samples), expected)
    np.testing.assert_array_equal(
        jax.jit(samples_from_frames)(expected), samples_from_frames(expected)
    )


@given(st.integers(-(10**6), 10**9))
def test_frames_grow_by_at_most_one_per_sample_and_are_never_negative(samples: int) -> None:
    frames = frames_from_samples(samples)
    assert frames >= 0
    assert frames_from_samples(samples + 1) - frames in (0, 1)


@given(st.integers(1, 10**7))
def test_samples_from_frames_is_the_least_that_suffices(frames: int) -> None:
    samples = samples_from_frames(frames)
    assert frames_from_samples(samples) == frames
    assert frames_from_samples(samples - 1) == frames - 1


def test_no_frames_need_no_samples() -> None:
    assert samples_from_frames(0) == 0


def test_frames_of_another_stack() -> None:
    assert frames_from_samples(np.arange(8), kernels=(3, 1), strides=(2, 2)).tolist() == [
        *(0, 0, 0, 1, 1, 1, 1, 2),
    ]


# Good files


SOUNDFILE_FORMATS = [
    ("wav", "WAV", "PCM_U8"),
    ("wav", "WAV", "PCM_16"),
    ("wav", "WAV", "PCM_24"),
    ("wav", "WAV", "PCM_32"),
    ("wav", "WAV", "FLOAT"),
    ("wav", "WAV", "DOUBLE"),
    ("wav", "WAV", "ULAW"),
    ("wav", "WAVEX", "PCM_16"),
    ("w64", "W64", "PCM_16"),
    ("rf64", "RF64", "PCM_16"),
    ("aiff", "AIFF", "PCM_16"),
    ("au", "AU", "PCM_16"),
    ("caf", "CAF", "PCM_16"),
    ("flac", "FLAC", "PCM_24"),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
]


@pytest.mark.usefixtures("no_ffmpeg")
@pytest.mark.parametrize(("suffix", "container", "subtype"), SOUNDFILE_FORMATS)
def test_soundfile_formats(tmp_path: Path, suffix: str, container: str, subtype: str) -> None:
    path = tmp_path / f"a.{suffix}"
    sf.write(path, tone(), SAMPLE_RATE, format=container, subtype=subtype)
    assert_is_tone(load_audio(path))
    assert path.suffix in AUDIO_SUFFIXES


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_16_bit_samples_are_exact(tmp_path: Path, suffix: str) -> None:
    values = np.random.default_rng(0).integers(-32768, 32768, 30_000, dtype=np.int16)
    path = tmp_path / f"a.{suffix}"
    sf.write(path, values, SAMPLE_RATE)
    np.testing.assert_array_equal(load_audio(path), values / np.float32(32768))


@pytest.mark.parametrize("suffix", ["mp3", "ogg"])
def test_lossy_formats_decode_as_in_ffmpeg(
    tmp_path: Path, ffmpeg: Callable[..., None], suffix: str
) -> None:
    # Many frames of changing size, which reading in pieces is known to corrupt in mp3.
    envelope = np.sin(np.linspace(0, 20, 48_000)) ** 2
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 48_000) * envelope
    path = tmp_path / f"a.{suffix}"
    sf.write(path, noise, SAMPLE_RATE)
    ffmpeg("-i", path, "-c:a", "pcm_f32le", tmp_path / "b.wav")
    expected = load_audio(tmp_path / "b.wav")
    np.testing.assert_allclose(load_audio(path), expected[:48_000], atol=1e-3)


@pytest.mark.parametrize("suffix", ["m4a", "mp4", "3gp", "webm", "wv", "aac", "opus", "caf"])
def test_ffmpeg_formats(tmp_path: Path, ffmpeg: Callable[..., None], suffix: str) -> None:
    sf.write(tmp_path / "a.wav", np.stack([tone(44_100)] * 2, axis=1), 44_100)
    path = tmp_path / f"b.{suffix}"
    codec = ["-c:a", "aac"] if suffix == "3gp" else []
    ffmpeg("-i", tmp_path / "a.wav", *codec, path)
    assert_is_tone(load_audio(path))
    assert path.suffix in AUDIO_SUFFIXES


def test_video_with_sound(tmp_path: Path, ffmpeg: Callable[..., None]) -> None:
    sf.write(tmp_path / "a.wav", tone(), SAMPLE_RATE)
    ffmpeg("-f", "lavfi", "-i", "testsrc=d=1:s=64x64", "-i", tmp_path / "a.wav", tmp_path / "b.mp4")
    assert_is_tone(load_audio(tmp_path / "b.mp4"))


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_frequency_and_level(tmp_path: Path, rate: int) -> None:
    sf.write(tmp_path / "a.wav", tone(rate, hertz=1000), rate)
    waveform = load_audio(tmp_path / "a.wav")
    assert len(waveform) == SAMPLE_RATE
    assert_is_tone(waveform, hertz=1000)


def test_same_as_librosa(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, np.random.default_rng(0).uniform(-0.9, 0.9, (30_000, 2)), 44_100)
    samples, rate = sf.read(path, dtype="float32")
    mono = librosa.to_mono(samples.T)
    expected = librosa.resample(mono, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
    np.testing.assert_allclose(load_audio(path), expected, atol=1e-6)


def test_channels_are_averaged(tmp_path: Path) -> None:
    channels = np.random.default_rng(0).uniform(-0.9, 0.9, (1000, 6)).astype(np.float32)
    sf.write(tmp_path / "a.wav", channels, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav"), channels.mean(axis=1), atol=1e-6)


def test_one_live_channel_of_many_is_not_taken_for_antiphase(tmp_path: Path) -> None:
    channels = np.zeros((SAMPLE_RATE, 64), np.float32)
    channels[:, 3] = tone()
    sf.write(tmp_path / "a.wav", channels, SAMPLE_RATE, subtype="FLOAT")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(load_audio(tmp_path / "a.wav"), tone() / 64, atol=1e-6)


def test_antiphase_stereo_gives_the_louder_channel(tmp_path: Path) -> None:
    channels = np.stack([tone(), -1.01 * tone()], axis=1)
    sf.write(tmp_path / "a.wav", channels, SAMPLE_RATE, subtype="FLOAT")
    with pytest.warns(UserWarning, match="antiphase.*channel 1"):
        waveform = load_audio(tmp_path / "a.wav")
    np.testing.assert_array_equal(waveform, channels[:, 1])


def faint_noise(decibels: float, channels: int = 2) -> np.ndarray:
    """Independent noise [S, channels], so many dB over the power of `tone()`."""
    level = np.sqrt(np.mean(tone() ** 2)) * 10 ** (decibels / 20)
    return level * np.random.default_rng(0).standard_normal((SAMPLE_RATE, channels))


@pytest.mark.parametrize("decibels", [-40, -20, -12])
def test_antiphase_is_noticed_through_noise(tmp_path: Path, decibels: float) -> None:
    channels = np.stack([0.9 * tone(), -tone()], axis=1) + faint_noise(decibels)
    sf.write(tmp_path / "a.wav", channels, SAMPLE_RATE, subtype="FLOAT")
    with pytest.warns(UserWarning, match=r"a\.wav.*antiphase.*channel 1") as warned:
        waveform = load_audio(tmp_path / "a.wav")
    assert len(warned) == 1
    np.testing.assert_array_equal(waveform, channels[:, 1].astype(np.float32))


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III"), ("wav", "MS_ADPCM")]
)
def test_antiphase_is_noticed_out_of_a_lossy_codec(
    tmp_path: Path, suffix: str, subtype: str
) -> None:
    channels = np.stack([tone(), -0.95 * tone()], axis=1) + faint_noise(-20)
    path = tmp_path / f"a.{suffix}"
    sf.write(path, channels, SAMPLE_RATE, subtype=subtype)
    decoded, _ = sf.read(path, dtype="float32")
    with pytest.warns(UserWarning, match="antiphase.*channel 0"):
        np.testing.assert_allclose(load_audio(path), decoded[:, 0], atol=1e-6)


def test_antiphase_shows_beside_an_offset(tmp_path: Path) -> None:
    channels = 0.4 + np.stack([0.1 * tone(), -0.11 * tone()], axis=1)
    sf.write(tmp_path / "a.wav", channels, SAMPLE_RATE, subtype="FLOAT")
    with pytest.warns(UserWarning, match="antiphase.*channel 1"):
        load_audio(tmp_path / "a.wav")


NOT_ANTIPHASE = {
    "alike": lambda: np.stack([tone(), tone()], axis=1),
    "unlike": lambda: faint_noise(-10),
    "one silent": lambda: np.stack([tone(), 0 * tone()], axis=1),
    "one faint and mirrored": lambda: np.stack([tone(), -0.1 * tone()], axis=1),
    "mirrored under unlike sound": lambda: (
        np.stack([0.5 * tone(), -0.5 * tone()], axis=1) + faint_noise(-3)
    ),
    "a delayed copy": lambda: np.stack(
        [noise := faint_noise(-10)[:, 0], np.roll(noise, 8)], axis=1
    ),
    "many, one of which hears": lambda: np.stack([tone(), *[-0.001 * tone()] * 31], axis=1),
}


@pytest.mark.parametrize("case", NOT_ANTIPHASE)
def test_other_stereo_is_averaged(tmp_path: Path, case: str) -> None:
    channels = NOT_ANTIPHASE[case]().astype(np.float32)
    sf.write(tmp_path / "a.wav", channels, SAMPLE_RATE, subtype="FLOAT")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        waveform = load_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(waveform, channels.mean(axis=1), atol=1e-6)


def test_mix_of_huge_values_does_not_overflow(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.full((1000, 2), 2e38), SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav"), np.float32(2e38))


def test_silence_is_audio(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((1000, 2)), SAMPLE_RATE)
    assert not load_audio(tmp_path / "a.wav").any()


def test_mp3_whose_length_is_an_estimate(tmp_path: Path, ffmpeg: Callable[..., None]) -> None:
    sf.write(tmp_path / "a.wav", tone(44_100, seconds=5), 44_100)
    path = tmp_path / "b.mp3"
    ffmpeg("-i", tmp_path / "a.wav", "-write_xing", "0", "-b:a", "128k", path)
    samples, _ = sf.read(path)
    assert len(samples) < sf.info(path).frames
    assert_is_tone(load_audio(path), seconds=5)


NAMES = [
    "two words.wav",
    "line\nbreak.wav",
    "-i.wav",
    "file:x.wav",
    'it\'s "quoted" $HOME `x`.wav',
    "100%d.wav",
    "بكاء.wav",
    "哭声.wav",
    "👶.wav",
    os.fsdecode(b"caf\xe9.wav"),
    "LOUD.WAV",
    "no_suffix",
    "headerless.raw",
]


@pytest.mark.parametrize("name", NAMES)
def test_names(
    tmp_path: Path, ffmpeg: Callable[..., None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    sf.write("a.wav", tone(), SAMPLE_RATE)
    ffmpeg("-i", "a.wav", "a.m4a")
    for source in ("a.wav", "a.m4a"):
        shutil.copyfile(source, name)
        assert_is_tone(load_audio(name))
    Path(name).write_bytes(b"")
    refuse(name, "is empty")


def test_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.mp3", tone(), SAMPLE_RATE)
    assert_is_tone(load_audio((tmp_path / "a.mp3").rename(tmp_path / "b.wav")))


@pytest.mark.usefixtures("no_ffmpeg")
@pytest.mark.parametrize(
    ("data_size", "riff_size"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg
        (0x7FFFF000, 0x7FFFF024),  # SoX
        (0x80000000, 0x80000024),  # arecord
        (0, 36),  # wave.open in a process that was killed
        (0, 0),
        (0, 0xFFFFFFFF),
    ],
)
def test_streamed_wav_is_read_to_its_end(tmp_path: Path, data_size: int, riff_size: int) -> None:
    content = wav_bytes(pcm16(tone()), data_size=data_size, riff_size=riff_size)
    (tmp_path / "a.wav").write_bytes(content)
    assert_is_tone(load_audio(tmp_path / "a.wav"))
    assert (tmp_path / "a.wav").read_bytes() == content


@pytest.mark.parametrize(
    "arguments",
    [
        ("-f", "wav"),
        ("-f", "wav", "-rf64", "always"),
        ("-f", "w64"),
        ("-f", "aiff"),
        ("-f", "au"),
        ("-f", "caf"),
        ("-f", "flac"),
    ],
    ids=" ".join,
)
def test_formats_streamed_by_ffmpeg(
    tmp_path: Path, ffmpeg: Callable[..., None], arguments: tuple[str, ...]
) -> None:
    sf.write(tmp_path / "a.wav", tone(), SAMPLE_RATE)
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "a.wav"), *arguments, "pipe:1"]
    streamed = subprocess.run(command, check=True, capture_output=True).stdout
    (tmp_path / "b").write_bytes(streamed)
    waveform = load_audio(tmp_path / "b")
    np.testing.assert_allclose(waveform[:SAMPLE_RATE], tone(), atol=1e-4)
    assert len(waveform) == SAMPLE_RATE


# Bad files


def test_missing_file(tmp_path: Path) -> None:
    error = refuse(tmp_path / "a.wav", "no such file")
    assert error.path == str(tmp_path / "a.wav")
    assert error.reason == "no such file; check the path"


def test_folder(tmp_path: Path) -> None:
    refuse(tmp_path, "is a folder")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    refuse(tmp_path / "a.wav", "not a file")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    refuse(tmp_path / "loop.wav", "cannot be opened")
    refuse("null\0character.wav", "cannot be opened")

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.wav").write_bytes(wav_bytes(pcm16(tone())))
    monkeypatch.setattr("builtins.open", deny)  # root may open everything
    refuse(tmp_path / "a.wav", "Permission denied")


def test_error_survives_pickling() -> None:
    error = AudioError(Path("a\nb.wav"), "is odd; fix it")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is AudioError
    assert (copy.path, copy.reason) == ("a\nb.wav", "is odd; fix it")
    assert str(copy) == str(error) == r"'a\nb.wav': is odd; fix it"


@pytest.mark.parametrize("missing", [1, 100, 16_000])
@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"])
def test_truncated_file(
    tmp_path: Path, ffmpeg: Callable[..., None], container: str, missing: int
) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, SAMPLE_RATE).astype(np.float32)
    path = tmp_path / "a"
    sf.write(path, noise, SAMPLE_RATE, format=container, subtype="PCM_16")
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-missing])
    refuse(path, "is truncated")
    rest = load_audio(path, allow_truncated=True)
    if container == "FLAC":  # whole blocks of 4096, and one read of 1024 before the damage
        least = SAMPLE_RATE * (size - missing) // size - 4096 - 1024
    else:  # libsndfile leaves out four more samples of a cut caf
        least = SAMPLE_RATE - missing // 2 - 5
    assert least <= len(rest) < SAMPLE_RATE
    np.testing.assert_allclose(rest, noise[: len(rest)], atol=1e-4)


def test_wav_of_odd_byte_order_and_with_chunks_in_front(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sf.write(path, tone(), SAMPLE_RATE, endian="BIG")
    content = path.read_bytes()
    extra = b"note" + struct.pack(">I", 3) + b"abc\0"
    path.write_bytes(content[:12] + extra + content[12:])
    assert content.startswith(b"RIFX")
    assert_is_tone(load_audio(path))
    path.write_bytes(path.read_bytes()[:-10])
    refuse(path, "32000 bytes of audio, 31990")


@pytest.mark.parametrize("size", [32_002, 0x10000000, 0xF0000000])
def test_wav_that_claims_more_than_it_has(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.wav").write_bytes(wav_bytes(pcm16(tone()), data_size=size))
    refuse(tmp_path / "a.wav", f"is truncated.* {size} bytes")


def test_empty_recording_with_chunks_behind(tmp_path: Path) -> None:
    tail = b"LIST" + struct.pack("<I", 4000) + bytes(4000)
    (tmp_path / "a.wav").write_bytes(wav_bytes(b"", tail=tail))
    refuse(tmp_path / "a.wav", "has 0 samples")


@pytest.mark.parametrize("suffix", ["m4a", "webm", "wv"])
def test_truncated_file_by_ffmpeg(tmp_path: Path, ffmpeg: Callable[..., None], suffix: str) -> None:
    sf.write(tmp_path / "a.wav", tone(48_000, seconds=3), 48_000)
    path = tmp_path / f"b.{suffix}"
    front = ["-movflags", "+faststart"] if suffix == "m4a" else []
    ffmpeg("-i", tmp_path / "a.wav", *front, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    refuse(path, "is truncated or damaged; ffmpeg: ")
    assert SAMPLE_RATE < len(load_audio(path, allow_truncated=True)) < 3 * SAMPLE_RATE


def test_too_short_after_resampling(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", tone(48_000)[: 3 * 399], 48_000)
    refuse(tmp_path / "a.wav", "has 399 samples at 16 kHz, fewer than the 400")
    sf.write(tmp_path / "a.wav", tone(48_000)[: 3 * 400], 48_000)
    assert len(load_audio(tmp_path / "a.wav")) == 400


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_samples(tmp_path: Path, value: float) -> None:
    channels = np.stack([tone(44_100)] * 2, axis=1)
    channels[7, 1] = value
    sf.write(tmp_path / "a.wav", channels, 44_100, subtype="FLOAT")
    refuse(tmp_path / "a.wav", "NaN or infinite")


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"RIFF",
        b"RIFF" + bytes(100_000),
        b"caff\0\1\0\0" + b"\xff" * 100,
        b"riff" + b"\xff" * 100,
        b".snd" + b"\xff" * 30,
        b"not audio at all\n" * 500,
        np.random.default_rng(0).bytes(50_000),
        wav_bytes(b"")[:30],
    ],
    ids=["byte", "magic", "zeros", "caf", "w64", "au", "text", "noise", "half a header"],
)
def test_garbage(tmp_path: Path, ffmpeg: Callable[..., None], content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    refuse(tmp_path / "a.wav", "is not audio, or damaged|is truncated")


@pytest.mark.usefixtures("no_ffmpeg")
def test_gigabyte_of_empty_chunks_is_refused_at_once(tmp_path: Path) -> None:
    with open(tmp_path / "a.wav", "wb") as file:
        file.write(b"RIFF")
        file.truncate(2**30)  # sparse
    start = time.process_time()
    refuse(tmp_path / "a.wav", "soundfile cannot read it")
    assert time.process_time() - start < 5


def flac_that_claims(frames: int) -> bytes:
    rate_channels_bits = SAMPLE_RATE << 44 | 0 << 41 | 15 << 36 | frames
    info = struct.pack(">HH6xQ16x", 4096, 4096, rate_channels_bits)
    return b"fLaC\x80\0\0\x22" + info + bytes(100)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (wav_bytes(bytes(64_000), rate=0), "soundfile: .*sample rate|is not audio"),
        (wav_bytes(bytes(64_000), rate=0xFFFFFFFF), "is not audio"),
        (wav_bytes(bytes(64_000), rate=1), "sample rate of 1 Hz"),
        (wav_bytes(bytes(64_000), rate=999), "sample rate of 999 Hz"),
        (wav_bytes(bytes(64_000), rate=1_000_001), "sample rate of 1000001 Hz"),
        (wav_bytes(bytes(64_000), channels=0), "is not audio"),
        (wav_bytes(bytes(64_000), channels=65_535), "is not audio"),
        (wav_bytes(bytes(64_000), data_size=0xF0000000), "is truncated"),
        (flac_that_claims(2**36 - 1), "is too long"),
    ],
)
def test_absurd_header_takes_no_memory(
    tmp_path: Path, ffmpeg: Callable[..., None], content: bytes, reason: str
) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    tracemalloc.start()
    refuse(tmp_path / "a.wav", reason)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("suffix", ["wav", "m4a"])
def test_too_long(
    tmp_path: Path,
    ffmpeg: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    sf.write(tmp_path / "a.wav", tone(8_000, seconds=60), 8_000)
    ffmpeg("-i", tmp_path / "a.wav", tmp_path / "b.m4a")
    path = tmp_path / ("a.wav" if suffix == "wav" else "b.m4a")
    monkeypatch.setattr(decode, "MAX_DECODED_VALUES", 61 * SAMPLE_RATE)
    assert_is_tone(load_audio(path), seconds=60)
    # The 480,000 samples of the file would fit, but not their 960,000 at 16 kHz.
    monkeypatch.setattr(decode, "MAX_DECODED_VALUES", 59 * SAMPLE_RATE)
    refuse(path, "is too long")
    monkeypatch.setattr(decode, "MAX_DECODED_VALUES", SAMPLE_RATE)
    error = refuse(path, "is too long")
    if suffix == "m4a":  # ffmpeg is stopped before it has written all 480,000
        assert int(re.findall(r"(\d+) frames", error.reason)[0]) < 400_000


def test_no_audio_stream(tmp_path: Path, ffmpeg: Callable[..., None]) -> None:
    for name, options in (("a.mp4", ["-t", "1"]), ("a.png", ["-frames:v", "1"])):
        ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x64", *options, tmp_path / name)
        refuse(tmp_path / name, "has no audio stream")


@pytest.mark.usefixtures("no_ffmpeg")
def test_without_ffmpeg_the_error_says_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(1000))
    refuse(tmp_path / "a.m4a", "soundfile cannot read it .*install ffmpeg")


def fake_ffmpeg(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    program = folder / "ffmpeg"
    program.write_text(script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    unknown = folder / "a.m4a"
    unknown.write_bytes(bytes(1000))
    return unknown


def test_hanging_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_ffmpeg(tmp_path, monkeypatch, "#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(decode, "FFMPEG_TIMEOUT_SECONDS", 0.2)
    refuse(path, r"did not finish within 0\.2 s")


def test_ffmpeg_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(fake_ffmpeg(tmp_path, monkeypatch, "#!/no/such/shell\n"), "cannot be started")


def test_playlist_cannot_reach_the_network(tmp_path: Path, ffmpeg: Callable[..., None]) -> None:
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"
    (tmp_path / "a.m3u8").write_text(playlist + "#EXT-X-ENDLIST\n")
    error = refuse(tmp_path / "a.m3u8", "is not audio")
    assert "refused" not in error.reason  # what a connection would have met


# Normalisation and padding


def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    # With an offset, as "padded" differs most from "clip" then.
    return [(0.2 + rng.normal(0, 0.1, n)).astype(np.float32) for n in (400, 16_001, 7_777)]


def extractor(return_attention_mask: bool) -> Wav2Vec2FeatureExtractor:
    return Wav2Vec2FeatureExtractor(
        sampling_rate=SAMPLE_RATE, do_normalize=True, return_attention_mask=return_attention_mask
    )


def test_normalize_equals_transformers() -> None:
    for clip in clips():
        (expected,) = Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm([clip], None)
        assert normalize(clip).dtype == expected.dtype == np.float32
        np.testing.assert_array_equal(normalize(clip), expected)


def test_normalize_silence() -> None:
    np.testing.assert_array_equal(normalize(np.full(400, 0.25, np.float32)), np.zeros(400))


@pytest.mark.parametrize(
    "bad", [np.zeros(400), np.zeros((1, 400), np.float32), np.zeros(0, np.float32)]
)
def test_normalize_refuses(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"waveform must be float32 \[S\], got"):
        normalize(bad)


@pytest.mark.parametrize("pad_to", [None, 16_001, 20_000])
@pytest.mark.parametrize(("mode", "mask"), [("clip", True), ("padded", False)])
def test_pad_batch_equals_transformers(mode: str, mask: bool, pad_to: int | None) -> None:
    padding = {"padding": True} if pad_to is None else {"padding": "max_length"}
    expected = extractor(mask)(
        clips(), sampling_rate=SAMPLE_RATE, return_tensors="np", max_length=pad_to, **padding
    )
    batch, lengths = pad_batch(clips(), normalize=mode, pad_to=pad_to)
    assert (batch.dtype, lengths.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(batch, expected["input_values"])
    assert lengths.tolist() == [400, 16_001, 7_777]
    if mask:
        np.testing.assert_array_equal(lengths, expected["attention_mask"].sum(axis=1))


def test_pad_batch_without_normalisation() -> None:
    batch, _ = pad_batch(clips(), normalize="none", pad_to=20_000)
    for row, clip in zip(batch, clips(), strict=True):
        np.testing.assert_array_equal(row, np.pad(clip, (0, 20_000 - len(clip))))


def test_pad_batch_leaves_its_input_alone() -> None:
    given_clips = clips()
    pad_batch(given_clips, normalize="padded")
    for clip, original in zip(given_clips, clips(), strict=True):
        np.testing.assert_array_equal(clip, original)


def one_bad_sample(value: float) -> np.ndarray:
    clip = np.zeros(400, np.float32)
    clip[7] = value
    return clip


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.zeros(400), r"waveforms\[1\] must be float32 \[S\], got float64 \[400\]"),
        (np.zeros((1, 400), np.float32), r"waveforms\[1\].*got float32 \[1, 400\]"),
        (np.zeros((), np.float32), r"waveforms\[1\].*got float32 \[\]"),
        (np.zeros(399, np.float32), r"waveforms\[1\] has 399 samples, fewer than the 400"),
        (np.zeros(601, np.float32), r"waveforms\[1\] has 601 samples, more than pad_to=600"),
        (one_bad_sample(np.nan), r"waveforms\[1\] has nan at sample 7"),
        (one_bad_sample(-np.inf), r"waveforms\[1\] has -inf at sample 7"),
    ],
)
def test_pad_batch_refuses(bad: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        pad_batch([np.zeros(500, np.float32), bad], pad_to=600)


def test_pad_batch_refuses_no_clips_and_unknown_modes() -> None:
    with pytest.raises(ValueError, match="waveforms is empty"):
        pad_batch([])
    with pytest.raises(ValueError, match="got 'batch'"):
        pad_batch(clips(), normalize="batch")  # type: ignore[arg-type]


# Segments


@pytest.mark.parametrize(
    ("form", "subtype"),
    [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")],
)
@pytest.mark.parametrize(("start", "end"), [(0.3, 0.7), (0.0, 0.2), (0.51234, None)])
def test_a_segment_is_a_file_of_its_own(
    tmp_path: Path, form: str, subtype: str, start: float, end: float | None
) -> None:
    """Found by seeking or in the whole, and resampled without what lies beside it."""
    rate, path = 44_100, tmp_path / "a"
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (rate, 2))
    sf.write(path, noise, rate, format=form, subtype=subtype)
    decoded, _ = sf.read(path, dtype="float32")
    cut = decoded[round(start * rate) : None if end is None else round(end * rate)]
    sf.write(tmp_path / "cut.wav", cut, rate, subtype="FLOAT")
    np.testing.assert_array_equal(
        load_audio(path, start=start, end=end), load_audio(tmp_path / "cut.wav")
    )
    with pytest.raises(AudioError, match=r"the segment from 0\.5 s to 2 s is not in it"):
        load_audio(path, start=0.5, end=2)


def test_a_segment_of_a_recording_that_is_too_long_to_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 16_000).astype(np.float32)
    sf.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    monkeypatch.setattr("voc2vec_jax.audio.decode.MAX_DECODED_VALUES", 8_000)
    refuse(tmp_path / "a.wav", "is too long")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav", start=0.5, end=1), samples[8_000:])


# Folders


def test_find_audio(tmp_path: Path) -> None:
    for name in (
        *("b.wav", "B.MP3", "a/z.Flac", "a b/c.ogg", "a-b.m4a", "哭.opus"),
        *("._b.wav", ".cache/x.wav", "notes.txt", "no_suffix", "wav", "a/x.wav.part"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    found, others = find_audio(str(tmp_path))
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["B.MP3", "a b/c.ogg", "a-b.m4a", "a/z.Flac", "b.wav", "哭.opus"]
    assert others == 6


def test_find_audio_lists_a_broken_link_so_that_loading_refuses_it(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to(tmp_path / "gone.wav")
    (path,), _ = find_audio(tmp_path)
    refuse(path, "no such file")


def test_find_audio_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_audio(tmp_path / "missing")
    (tmp_path / "a.wav").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        find_audio(tmp_path / "a.wav")


def test_find_audio_does_not_pass_over_an_unreadable_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", deny)  # root may list everything
    with pytest.raises(PermissionError):
        find_audio(tmp_path)


@pytest.mark.parametrize(
    ("dataset", "count"), [("donateacry", 457), ("HumanVoiceDataset", 179), ("emogator", 2430)]
)
def test_real_recordings(dataset: str, count: int) -> None:
    folder = os.environ.get("VOC2VEC_REAL_AUDIO")
    if folder is None:
        pytest.skip("VOC2VEC_REAL_AUDIO does not name a folder of real recordings")
    found, _ = find_audio(Path(folder, dataset))
    assert len(found) == count
    for path in found[::50]:
        waveform = load_audio(path)
        duration = sf.info(path).duration
        assert waveform.dtype == np.float32
        assert len(waveform) == pytest.approx(duration * SAMPLE_RATE, abs=1)
        assert 1e-4 < np.abs(waveform).max() < 1.5
