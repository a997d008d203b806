"""The features of a corpus as one file, which may be larger than the memory."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from voc2vec_jax.features.frames import Features, Lengths, Read, batches, frame_count, stream


def write_frames(
    features: Features,
    read: Read,
    lengths: Lengths,
    path: Path,
    report: Callable[[int], None] = lambda clips: None,
) -> np.memmap:
    """The features of clips as one file of float32, [all frames, D] in the order of the clips.

    The file appears whole or not at all; after a kill, the same call goes on where it was.

    Args:
        features: What is computed.
        read: Gives the samples of clip 0, 1, …
        lengths: Samples of each clip.
        path: Becomes the file; `.part` and `.done` beside it hold unfinished work.
        report: Told how many clips have been written, each time that it is some more.

    Returns:
        The file, mapped to memory read-only.
    """
    counts = np.array([frame_count(features, int(samples)) for samples in lengths])
    offsets = np.cumsum(counts) - counts
    shape = (int(counts.sum()), features.width)
    if not path.exists():
        part, done = path.with_name(path.name + ".part"), path.with_name(path.name + ".done")
        plan = batches(lengths)
        finished = set(_whole_lines(done)) if part.exists() else set()
        report(sum(len(plan[number]) for number in finished))
        with open(part, "r+b" if finished else "wb") as file, open(done, "a") as journal:
            todo = [number for number in range(len(plan)) if number not in finished]
            work = [plan[number] for number in todo]
            features.expect(lengths, work)
            made = stream(features, read, work)
            for number, clips in zip(todo, made, strict=True):
                for clip, (frames,) in zip(plan[number], clips, strict=True):
                    file.seek(4 * features.width * int(offsets[clip]))
                    file.write(frames.astype("<f4").tobytes())
                file.flush()
                os.fsync(file.fileno())
                journal.write(f"{number}\n")
                journal.flush()
                report(len(plan[number]))
        part.rename(path)
        done.unlink()
    return np.memmap(path, np.float32, "r", shape=shape)


def _whole_lines(journal: Path) -> list[int]:
    """The numbers in a journal; a line that a kill has cut is taken out of it."""
    text = journal.read_text() if journal.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    journal.write_text(whole)
    return [int(line) for line in whole.splitlines()]
