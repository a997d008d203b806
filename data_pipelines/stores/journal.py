"""A store while it is being written: the samples, and one line about each clip, in order.

What is written of a clip is on its way to the disk before the next one begins, so that a build that
was killed goes on where it stopped.
"""

import hashlib
import json
import os
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_pipelines.stores.flat_store import Clip, Int16Array, from_int16

SAMPLES, LINES = "samples.int16", "journal.jsonl"


class Journal:
    """Appends clips to a directory and knows those that are there already.

    Attributes:
        entries: One per clip that came in, kept or dropped; see `describe`.
        recovered: How many of them were there when the journal was opened.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.entries = _recover(directory)
        self.recovered = len(self.entries)
        self._directory = directory
        self._files = ExitStack()

    def append(self, clip: Clip, samples: Int16Array | str) -> None:
        """Adds a clip with its int16 samples, or with the reason why it is dropped."""
        entry = describe(clip, samples)
        if not isinstance(samples, str):
            self._samples.write(samples.tobytes())
            self._samples.flush()
        self._lines.write(json.dumps(entry) + "\n")
        self._lines.flush()
        self.entries.append(entry)

    def __enter__(self) -> Self:
        self._samples = self._files.enter_context(open(self._directory / SAMPLES, "ab"))
        self._lines = self._files.enter_context(open(self._directory / LINES, "a"))
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()


def describe(clip: Clip, samples: Int16Array | str) -> dict[str, Any]:
    """What is written of a clip: its facts and those of its samples, or file and reason."""
    if isinstance(samples, str):
        return {"file": clip.source, "reason": samples}
    if len(samples) == 0:
        return {"file": clip.source, "reason": "has no samples"}
    waveform = from_int16(samples)
    return {
        **asdict(clip),
        "length": len(samples),
        "mean": float(waveform.mean()),
        "variance": float(waveform.var()),
        "full_scale_samples": int(np.count_nonzero((samples == 32767) | (samples == -32768))),
        "sha256": hashlib.sha256(samples.tobytes()).hexdigest(),
    }


def _recover(directory: Path) -> list[dict[str, Any]]:
    """The entries whose line and samples are whole; whatever follows them is cut off."""
    samples, lines = directory / SAMPLES, directory / LINES
    samples.touch()
    lines.touch()
    entries: list[dict[str, Any]] = []
    line_bytes = sample_bytes = 0
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
                if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                    break
                sample_bytes += len(content)
            line_bytes += len(line)
            entries.append(entry)
    os.truncate(samples, sample_bytes)
    os.truncate(lines, line_bytes)
    return entries
