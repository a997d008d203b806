"""Clips that two corpora have in common, as they are or as other encodings of one recording."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from data_pipelines.preparation.fingerprint import Fingerprint, FingerprintIndex, fingerprint
from data_pipelines.stores.flat_store import FlatStore

Result = TypeVar("Result")


@dataclass(frozen=True)
class Overlap:
    """A clip of A and one of B that are one recording, or of which one contains the other."""

    a: str
    b: str
    kind: str
    """`exact`: the same samples after decoding. `near`: the same fingerprint."""
    offset_seconds: float
    """Where in A's clip that of B starts."""
    error_rate: float
    """Share of differing bits of the fingerprint."""


def find_overlaps(a: FlatStore, b: FlatStore) -> list[Overlap]:
    """Every pair of clips of two corpora that are the same recording.

    A corpus can be compared with itself; then each pair comes once, and no clip with itself.

    Args:
        a: Is indexed, which takes 1.3 kB of memory per second of audio.
        b: Is searched for in it, clip by clip.
    """
    itself = a.fingerprint == b.fingerprint
    hashed = list(_clips(a, "A"))
    by_content: dict[str, list[int]] = {}
    for clip, (digest, _) in enumerate(hashed):
        by_content.setdefault(digest, []).append(clip)
    index = FingerprintIndex([item for _, item in hashed])
    overlaps = []
    for other, (digest, query) in enumerate(hashed if itself else _clips(b, "B")):
        exact = by_content.get(digest, [])
        found = dict.fromkeys(exact, ("exact", 0.0, 0.0))
        for match in index.search(query):
            found.setdefault(match.clip, ("near", match.offset_seconds, match.error_rate))
        for clip, facts in found.items():
            if not (itself and clip >= other):
                overlaps.append(Overlap(a.ids[clip], b.ids[other], *facts))
    return overlaps


def _clips(store: FlatStore, name: str) -> Iterator[tuple[str, Fingerprint]]:
    """Hash of the sound and fingerprint of each clip, in order."""

    def describe(clip: int) -> tuple[str, Fingerprint]:
        return store.clip_sha256[clip], fingerprint(store.waveform(clip))

    return in_threads(describe, range(len(store.ids)), f"Fingerprints of {name}")


def in_threads(work: Callable[[int], Result], clips: Sequence[int], text: str) -> Iterator[Result]:
    """The result of each clip, in order, with a bar of progress at a terminal.

    Args:
        work: Does most of its work outside the interpreter's lock, as numpy does.
        clips: Are given to it.
        text: Stands before the bar.
    """
    console = Console(stderr=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from track(
            pool.map(work, clips),
            text,
            total=len(clips),
            console=console,
            disable=not console.is_terminal,
        )
