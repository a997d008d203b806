"""Segments of recordings, in seconds."""

import math
from dataclasses import dataclass

ROUNDED_SECONDS = 1e-3
"""By so much a segment may end beyond its recording, for tables give rounded durations."""


@dataclass(frozen=True)
class Segment:
    """From `start` to `end`, in seconds; `end` None is the end of the recording.

    Raises:
        ValueError: Times that are no segment.
    """

    start: float = 0.0
    end: float | None = None

    def __post_init__(self) -> None:
        end = math.inf if self.end is None else self.end
        if not 0 <= self.start < end or not (self.end is None or self.end < math.inf):
            raise ValueError(
                f"start={self.start}, end={self.end}: must be seconds with 0 <= start < end"
            )

    @property
    def is_whole(self) -> bool:
        """Whether this is a whole recording."""
        return self.start == 0 and self.end is None

    def __str__(self) -> str:
        if self.is_whole:
            return "the whole recording"
        end = "the end" if self.end is None else f"{self.end:.12g} s"
        return f"the segment from {self.start:.12g} s to {end}"

    def within(self, frames: int, rate: int) -> slice:
        """The frames of this segment in a recording of `frames` frames at `rate` Hz.

        Raises:
            ValueError: The recording ends before.
        """
        first = round(self.start * rate)
        last = frames if self.end is None else round(self.end * rate)
        if last > frames + ROUNDED_SECONDS * rate or (first >= frames and not self.is_whole):
            raise ValueError(f"has {frames / rate:g} s, and {self} is not in it; correct the times")
        return slice(first, min(last, frames))


WHOLE = Segment()
"""A whole recording."""
