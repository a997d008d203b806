"""A store while it is being written: the samples, and one line about each clip, in order.

What is written of a clip is on its way to the disk before the next one begins, so that a build that
was killed goes on where it stopped.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_pipelines.stores.flat_store import Clip
from data_pipelines.stores.sound import Int16Array, Sound, from_int16, sound_sha256
from voc2vec_jax.errors import DataError

SAMPLES, LINES = "samples.int16", "journal.jsonl"


class Journal:
    """Appends clips to a directory and knows those that are there already.

    Attributes:
        recovered: How many of them were there when the journal was opened.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.recovered = _recover(directory)
        self._directory = directory
        self._files = ExitStack()

    def append(self, clip: Clip, sound: Sound | Int16Array | str) -> None:
        """Adds a clip with its sound, or with the reason why it is dropped.

        Raises:
            DataError: A name of it is not valid text, which happens where files have such names.
        """
        try:
            f"{clip.id}{clip.source}{clip.group}{clip.fold}".encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{clip.source!r}: is not named in UTF-8; rename it") from error
        if isinstance(sound, np.ndarray):
            sound = Sound(sound)
        entry = describe(clip, sound)
        if isinstance(sound, Sound):
            self._samples.write(sound.samples.tobytes())
            self._samples.flush()
        self._lines.write(json.dumps(entry) + "\n")
        self._lines.flush()

    def entries(self) -> Iterator[dict[str, Any]]:
        """Of all clips that came in, kept or dropped, in their order; see `describe`."""
        with open(self._directory / LINES, encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)

    def __enter__(self) -> Self:
        self._samples = self._files.enter_context(open(self._directory / SAMPLES, "ab"))
        self._lines = self._files.enter_context(open(self._directory / LINES, "a"))
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()


def describe(clip: Clip, sound: Sound | str) -> dict[str, Any]:
    """What is written of a clip: its facts and those of its samples, or file and reason."""
    if isinstance(sound, str):
        return {"file": clip.source, "reason": sound}
    samples = sound.samples
    if len(samples) == 0:
        return {"file": clip.source, "reason": "has no samples"}
    waveform = from_int16(samples, sound.scale)
    return {
        **asdict(clip),
        "length": len(samples),
        "mean": float(waveform.mean()),
        "variance": float(waveform.var()),
        "full_scale_samples": int(np.count_nonzero((samples == 32767) | (samples == -32768))),
        "sha256": sound.sha256,
        "scale": sound.scale,
    }


def _recover(directory: Path) -> int:
    """Entries whose line and samples are whole, how many; whatever follows them is cut off."""
    samples, lines = directory / SAMPLES, directory / LINES
    samples.touch()
    lines.touch()
    count = line_bytes = sample_bytes = 0
    with open(samples, "rb") as sample_file, open(lines, "rb") as line_file:
        for line in line_file:
            if not line.endswith(b"\n"):
                break
            # After a power failure the line may have reached the disk and the samples not.
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if "reason" not in entry:
                content = sample_file.read(2 * entry["length"])
                # An older version, which wrote no scale, cut off sound beyond full scale.
                if "scale" not in entry or sound_sha256(content, entry["scale"]) != entry["sha256"]:
                    break
                sample_bytes += len(content)
            line_bytes += len(line)
            count += 1
    os.truncate(samples, sample_bytes)
    os.truncate(lines, line_bytes)
    return count
