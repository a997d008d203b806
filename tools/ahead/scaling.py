"""How well data parallelism may scale: compiled work and exchanges, divided by published rates.

An update of a data-parallel run is the same work on every chip, and one sum of all gradients over
all chips. The first does not depend on how many there are, as long as each has the same share of
audio; the second hardly does. What is left out: clips that wait for the slowest host, input,
checkpoints, and whatever the compiler overlaps.
"""

from dataclasses import dataclass, replace
from typing import Any

from tools.ahead.chips import CHIPS, Chip, StepTime, all_reduce_seconds, step_time
from tools.ahead.topologies import parse_name

MAX_SLICE = {"v4": 4_096, "v5e": 256, "v5p": 6_144, "v6e": 256}
"""Chips of the largest slice; beyond it slices are joined by their hosts' network."""
SHAPES: dict[str, dict[int, tuple[int, ...]]] = {
    "v4": {8: (2, 2, 2), 64: (4, 4, 4), 256: (4, 8, 8), 1024: (8, 8, 16)},
    "v5e": {8: (2, 4), 64: (8, 8), 256: (16, 16)},
    "v6e": {8: (2, 4), 64: (8, 8), 256: (16, 16)},
}
"""Of slices by number of chips."""


@dataclass(frozen=True)
class Point:
    """An update on so many chips, each with the same share of audio."""

    chips: int
    shape: tuple[int, ...]
    slices: int
    audio_seconds: float
    """Of the whole batch."""
    step: StepTime

    @property
    def efficiency(self) -> float:
        """Against chips that need not exchange anything, if no exchange is overlapped."""
        return max(self.step.compute, self.step.memory) / self.step.seconds

    @property
    def overlapped_efficiency(self) -> float:
        """The same if every exchange is hidden behind work as far as that lasts."""
        work = max(self.step.compute, self.step.memory)
        return work / max(work, self.step.network)

    @property
    def hours_per_hour(self) -> float:
        """Audio hours per hour, nothing overlapped."""
        return self.audio_seconds / self.step.seconds


def layout(kind: str, chips: int) -> tuple[tuple[int, ...], int]:
    """Shape of a slice, and how many slices, for a number of chips in `SHAPES` or a multiple."""
    slices = max(chips // MAX_SLICE[kind], 1)
    return SHAPES[kind][chips // slices], slices


def gradient_bytes(report: dict[str, Any]) -> float:
    """What one all-reduce of all gradients, and of figures, has to add up in an update.

    Raises:
        ValueError: The program is not data-parallel: it exchanges other things too.
    """
    other = {k: v["bytes"] for k, v in report["collectives"].items() if k != "all-reduce"}
    total = report["collectives"].get("all-reduce", {"bytes": 0})["bytes"]
    if report["mesh"]["data"] != report["devices"] or sum(other.values()) > 0.05 * total:
        raise ValueError(
            f"{report['config']} on {report['topology']}: not data-parallel "
            f"(mesh {report['mesh']}, other exchanges {other})"
        )
    return float(total)


def work_of(report: dict[str, Any]) -> StepTime:
    """Compute and memory of a chip's share, without the network."""
    kind, shape = parse_name(report["topology"])
    return step_time(
        CHIPS[kind],
        shape,
        precision=report["precision"],
        flops=report["flops"],
        bytes_accessed=report["bytes_accessed"],
        wire_bytes=0,
    )


def weak(report: dict[str, Any], chips: int) -> Point:
    """The same share of audio on each of `chips`: the batch grows with them.

    Args:
        report: Of `compile_step`, data-parallel; its share of a chip is everyone's.
        chips: Any of `SHAPES`, or a multiple of the largest slice.
    """
    kind, _ = parse_name(report["topology"])
    chip: Chip = CHIPS[kind]
    shape, slices = layout(kind, chips)
    work = work_of(report)
    network = all_reduce_seconds(gradient_bytes(report), chip, shape, slices)
    audio = report["batch"]["clips"] * report["batch"]["seconds"] / report["devices"] * chips
    step = StepTime(work.compute, work.memory, network)
    return Point(chips, shape, slices, audio, step)


def fixed(report: dict[str, Any], chips: int) -> Point | None:
    """The batch of the report on another number of chips; None if its clips do not divide.

    Work is taken to be in proportion to a chip's clips. The optimiser's is not, which counts where
    a chip has one clip or two.
    """
    if report["batch"]["clips"] % chips:
        return None
    point, share = weak(report, chips), report["devices"] / chips
    work = point.step
    step = StepTime(work.compute * share, work.memory * share, work.network)
    return replace(point, audio_seconds=point.audio_seconds * share, step=step)
