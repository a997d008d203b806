"""Decoding: soundfile first, ffmpeg for the rest, and headers checked before memory is taken."""

import mmap
import os
import shutil
import stat
import struct
import subprocess
import tempfile
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile as sf

from voc2vec_jax.audio.segments import WHOLE, Segment
from voc2vec_jax.errors import AudioError

# 4 GiB of float32: room for a 16-hour wearable recording at 16 kHz, but not for a header that lies.
MAX_DECODED_VALUES = 2**30
MIN_FILE_RATE, MAX_FILE_RATE = 1_000, 1_000_000
RESAMPLED_RATE = 16_000  # a file of a low rate grows when `signal` resamples it
FFMPEG_TIMEOUT_SECONDS = 600.0

# Nothing of a block with damage in it comes back, so that small blocks lose little of a cut FLAC.
_FLAC_BLOCK_FRAMES = 1024
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's answer for a FLAC stream without a length
_SEEKABLE = {"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"}
# Within these every sample is found by arithmetic, or by FLAC's own exact search.
_SEEKABLE_SUBTYPES = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
_MAX_CHUNKS = 1000  # zeros would read as an endless row of empty chunks

_Float32 = npt.NDArray[np.float32]
_Decoded = tuple[_Float32, int]  # samples [S, channels], sample rate in Hz


def is_sought(file: sf.SoundFile) -> bool:
    """Whether a part of a file is read without decoding what comes before."""
    return file.format in _SEEKABLE and file.subtype.startswith(_SEEKABLE_SUBTYPES)


def decode(path: str, allow_truncated: bool, segment: Segment) -> _Decoded:
    """Decodes any file that soundfile or ffmpeg can read.

    Args:
        path: A local file, of any name.
        allow_truncated: Return what can be read of a truncated or damaged file.
        segment: Which part of it. No more is decoded of uncompressed files and FLAC.

    Returns:
        float32 [S, channels] at the file's own rate, and that rate in Hz.

    Raises:
        AudioError: As `load_audio`, but for what only the finished waveform shows.
    """
    with _open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise AudioError(path, "is empty (0 bytes); copy or record it again")
        chunk = _find_data_chunk(file, size)
        if chunk is not None and chunk.is_truncated and not allow_truncated:
            raise AudioError(
                path,
                f"is truncated: its header says {chunk.declared} bytes of audio, {chunk.available} "
                "are there; copy it again, or pass allow_truncated=True to use what is there",
            )
        try:
            if chunk is not None and chunk.unfinished:
                # libsndfile takes a size of 0 at its word, so it sees a private view that has
                # the true size; copy-on-write leaves the file as it is.
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view:
                    chunk.write_size(view)
                    return _read_soundfile(view, path, allow_truncated, segment)
            # By descriptor, for libsndfile would guess a format from the suffix of a name.
            file.seek(0)
            return _read_soundfile(file.fileno(), path, allow_truncated, segment)
        except sf.SoundFileRuntimeError as error:
            soundfile_reason = str(getattr(error, "error_string", error))
    return _read_ffmpeg(path, soundfile_reason, allow_truncated, segment)


def _open_file(path: str) -> BinaryIO:
    """Opens a regular file, unbuffered: libsndfile reads from its descriptor's own position."""
    try:
        # Before opening, for opening a named pipe would wait for a writer.
        if stat.S_ISREG(os.stat(path).st_mode):
            return open(path, "rb", buffering=0)
    except FileNotFoundError:
        gone = "no such file: a link that leads nowhere" if os.path.islink(path) else "no such file"
        raise AudioError(path, f"{gone}; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise AudioError(path, f"cannot be opened ({error}); check its permissions") from error
    raise AudioError(path, "is a folder or a device, not a file; give one audio file")


def _read_soundfile(
    source: int | mmap.mmap, path: str, allow_truncated: bool, segment: Segment
) -> _Decoded:
    """Decodes an open file with libsndfile, which raises `SoundFileRuntimeError` on others."""
    with sf.SoundFile(source, closefd=False) as file:
        frames, channels, rate = file.frames, file.channels, file.samplerate
        if frames == _UNKNOWN_FRAMES:
            raise sf.SoundFileRuntimeError("its header gives no length")
        if not MIN_FILE_RATE <= rate <= MAX_FILE_RATE:
            raise AudioError(
                path,
                f"has a sample rate of {rate} Hz, outside {MIN_FILE_RATE} to {MAX_FILE_RATE}; "
                "its header is damaged, export it again",
            )
        if is_sought(file) and not segment.is_whole:
            part = _part(segment, frames, rate, path)
            file.seek(part.start)
            frames, segment = part.stop - part.start, WHOLE
        if max(frames * channels, frames * RESAMPLED_RATE // rate) > MAX_DECODED_VALUES:
            raise AudioError(
                path,
                f"is too long or its header is damaged: {frames} frames of {channels} channels at "
                f"{rate} Hz (limit {MAX_DECODED_VALUES} values); cut it into shorter files",
            )
        samples = np.empty((frames, channels), np.float32)
        count = 0
        # soundfile seeks after each read, which is harmless in FLAC but corrupts mp3.
        step = _FLAC_BLOCK_FRAMES if file.format == "FLAC" else frames
        try:
            while block := len(file.read(out=samples[count : count + step])):
                count += block
                if block < step:
                    break
        except sf.SoundFileRuntimeError:
            pass  # a damaged stream, told by the count below
        # An mp3 without a table of contents has only an estimate for a length.
        if count < frames and file.format != "MP3" and not allow_truncated:
            raise AudioError(
                path,
                f"is truncated or damaged: {frames} frames by its header, decoding ended near "
                f"{count}; copy it again, or pass allow_truncated=True to use what is there",
            )
    if segment.is_whole:
        return samples[:count], rate
    return samples[_part(segment, count, rate, path)].copy(), rate  # lets go of the rest


def _part(segment: Segment, frames: int, rate: int, path: str) -> slice:
    try:
        return segment.within(frames, rate)
    except ValueError as error:
        raise AudioError(path, str(error)) from None


def _read_ffmpeg(
    path: str, soundfile_reason: str, allow_truncated: bool, segment: Segment
) -> _Decoded:
    """Decodes the first audio stream with the ffmpeg program, all channels at their own rate."""
    executable = shutil.which("ffmpeg")
    if executable is None:
        raise AudioError(
            path,
            f"soundfile cannot read it ({soundfile_reason}); if it is audio (m4a, mp4, webm ...), "
            "install ffmpeg or convert it to wav",
        )
    command = [executable, "-nostdin", "-v", "error"]
    # The "file:" prefix keeps names with a colon or a leading dash from meaning anything else, and
    # the whitelist keeps playlists from reaching the network.
    command += ["-protocol_whitelist", "file,pipe", "-i", f"file:{path}"]
    command += ["-map", "0:a:0", "-map_metadata", "-1", "-c:a", "pcm_f32be", "-f", "au"]
    # Slightly over what `_read_soundfile` accepts, so that it refuses what was cut here.
    command += ["-fs", str(4 * MAX_DECODED_VALUES + 2**20), "pipe:1"]
    with tempfile.TemporaryFile(buffering=0) as decoded:
        try:
            process = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=decoded,
                stderr=subprocess.PIPE,
                timeout=FFMPEG_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise AudioError(
                path,
                f"ffmpeg did not finish within {FFMPEG_TIMEOUT_SECONDS:g} s; convert it to wav",
            ) from None
        except OSError as error:
            raise AudioError(path, f"ffmpeg cannot be started ({error}); reinstall it") from error
        complaint = " ".join(process.stderr.decode(errors="replace").split())[:300]
        if "matches no streams" in complaint:
            raise AudioError(path, "has no audio stream; give a file with sound")
        if process.returncode:
            raise AudioError(
                path,
                f"is not audio, or damaged; soundfile: {soundfile_reason}; ffmpeg: {complaint}; "
                "play it to check, then export it again",
            )
        if complaint and not allow_truncated:
            raise AudioError(
                path,
                f"is truncated or damaged; ffmpeg: {complaint}; copy it again, or pass "
                "allow_truncated=True to use what is there",
            )
        decoded.seek(0)
        return _read_soundfile(decoded.fileno(), path, allow_truncated, segment)


class _ChunkLayout(NamedTuple):
    first: int  # offset of the first chunk
    id_bytes: int
    size_format: str
    size_counts_header: bool
    alignment: int
    data_id: bytes


_RIFF = _ChunkLayout(12, 4, "<I", False, 2, b"data")
_CHUNK_LAYOUTS = {
    b"RIFF": _RIFF,
    b"RF64": _RIFF,
    b"RIFX": _RIFF._replace(size_format=">I"),
    b"FORM": _RIFF._replace(size_format=">I", data_id=b"SSND"),
    b"caff": _ChunkLayout(8, 4, ">Q", False, 1, b"data"),
    # Wave64, with 16-byte identifiers that begin with the four letters.
    b"riff": _ChunkLayout(40, 16, "<Q", True, 8, b"data"),
}


class _DataChunk(NamedTuple):
    """The chunk with the samples: the size its header gives it, and the bytes that are there."""

    declared: int
    available: int
    unfinished: bool  # declared as 0 by a writer that never came back to fill it in
    size_offset: int
    size_format: str

    @property
    def is_truncated(self) -> bool:
        # Streaming writers declare about the largest size that fits, less a header or rounded to
        # whole frames: ffmpeg 0xFFFFFFFF, SoX 0x7FFFF000, arecord 0x80000000.
        if self.declared < 2**32:
            streamed = -self.declared % 2**31 <= 2**13
        else:
            streamed = self.declared >= 2**62
        return self.declared > self.available and not streamed

    def write_size(self, view: mmap.mmap) -> None:
        largest = 2 ** (8 * struct.calcsize(self.size_format)) - 1
        struct.pack_into(self.size_format, view, self.size_offset, min(self.available, largest))


def _find_data_chunk(file: BinaryIO, file_size: int) -> _DataChunk | None:
    """Finds the samples of a chunked format (or au), because libsndfile clips sizes silently."""
    head = file.read(12)
    if head[:4] == b".snd" and len(head) == 12:
        start, declared = struct.unpack_from(">II", head, 4)
        return _DataChunk(declared, max(file_size - start, 0), False, 8, ">I")
    layout = _CHUNK_LAYOUTS.get(head[:4])
    if layout is None:
        return None
    header_bytes = layout.id_bytes + struct.calcsize(layout.size_format)
    position = layout.first
    wide: tuple[int, int] | None = None  # RF64: the data size and where it stands
    for _ in range(_MAX_CHUNKS):
        if position >= file_size:
            return None
        file.seek(position)
        header = file.read(header_bytes)
        if len(header) < header_bytes:
            return None
        (size,) = struct.unpack_from(layout.size_format, header, layout.id_bytes)
        if layout.size_counts_header:
            size = max(size - header_bytes, 0)
        start = position + header_bytes
        if header[:4] == b"ds64":
            wide = (struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0], start + 8)
        elif header[:4] == layout.data_id:
            size_offset, size_format = position + layout.id_bytes, layout.size_format
            if wide is not None:
                size, size_offset, size_format = *wide, "<Q"
            available = file_size - start
            # After a chunk that is rightly empty come other chunks, which the size of the whole,
            # in the formats that give it as 32 bits in front, covers.
            unfinished = size == 0 < available and layout.first == 12
            if unfinished:
                (whole,) = struct.unpack_from(layout.size_format, head, 4)
                unfinished = not start < 8 + whole <= file_size
            return _DataChunk(size, available, unfinished, size_offset, size_format)
        position = start + size + -size % layout.alignment
    return None
