"""Time and memory against the number of clips: `python -m tools.measure_growth`.

Plans, opens, divides and scores corpora of lengths, labels and groups that are drawn, each size in
a process of its own; no sound is needed. Prints a table in Markdown.

Examples:
  python -m tools.measure_growth
  python -m tools.measure_growth 1000 10000 --json growth.json
"""

import atexit
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from voc2vec_jax.cli.command import parsed, prepare_process, run
from voc2vec_jax.files import write_json

ROOT = Path(__file__).parent.parent
CLASSES = 30
CLIPS_PER_GROUP = 10
BATCHES = 1_000

Measured = dict[str, float]
"""`seconds`, and `mb`: by how much memory grew at its peak."""


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    clips: Annotated[tuple[int, ...], tyro.conf.Positional] = (10_000, 100_000, 1_000_000)
    """Sizes of corpora."""
    json: Path | None = None
    """Also write all figures here."""
    works: tuple[str, ...] = ("opening", "pre-training", "fine-tuning", "folds", "intervals")
    """Which of them, by the names in the table."""


def opening(clips: int) -> Callable[[], object]:
    """Opens the store of a corpus whose index was written before, by another process."""
    from data_pipelines.stores.flat_store import FlatStore

    place = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, place)
    code = f"from tools.measure_growth import write_index_of; write_index_of({clips}, {place!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

    def work() -> None:
        FlatStore.open(place)

    return work


def write_index_of(clips: int, place: str) -> None:
    """Writes a store of so many clips, all but its sound, into a folder."""
    from data_pipelines.stores.index import index_of, table_of, write_index

    rng = np.random.default_rng(0)
    lengths = rng.integers(8_000, 320_000, clips)
    digest = "0123456789abcdef" * 4
    facts = {"label": 0, "fold": "", "mean": 0.0, "variance": 0.01, "sha256": digest, "scale": 1.0}
    names = (f"speaker{clip // CLIPS_PER_GROUP:06d}" for clip in range(clips))
    entries = (
        {**facts, "id": f"{name}/{clip:08d}.wav", "source": f"{name}/{clip:08d}.wav",
         "group": name, "length": length, "full_scale_samples": 0}
        for clip, (name, length) in enumerate(zip(names, lengths.tolist(), strict=True))
    )  # fmt: skip
    directory = Path(place)
    write_index(directory, index_of(table_of(entries), ["a", "b"]))
    (directory / "samples.int16").touch()
    os.truncate(directory / "samples.int16", 2 * int(lengths.sum()))  # takes no room on the disk


def pre_training(clips: int) -> Callable[[], object]:
    """Plans an epoch of windows, and makes a thousand batches of it."""
    from data_pipelines.batches.window_plan import WindowPlan
    from voc2vec_jax.config import DataConfig

    lengths = np.random.default_rng(0).integers(8_000, 320_000, clips)

    def work() -> None:
        plan = WindowPlan(lengths, DataConfig(), 0)
        for step in range(BATCHES):
            plan.batch(step)

    return work


def fine_tuning(clips: int) -> Callable[[], object]:
    """Plans an epoch of clips, and makes a thousand batches of it."""
    from data_pipelines.batches.clip_plan import ClipPlan
    from voc2vec_jax.config import DataConfig

    lengths = np.random.default_rng(0).integers(8_000, 320_000, clips)
    data = DataConfig(batch_clips=16, max_seconds=10.0, bucket_seconds=(1.0, 2.0, 4.0, 8.0, 10.0))

    def work() -> None:
        plan = ClipPlan(lengths, np.arange(clips), data, 0, heard="crop", shuffled=True)
        for step in range(BATCHES):
            plan.batch(step)

    return work


def folds(clips: int) -> Callable[[], object]:
    """Ten grouped folds with their validation parts."""
    from voc2vec_jax.evaluation.division import divide

    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, clips)
    groups = [str(group) for group in rng.integers(0, clips // CLIPS_PER_GROUP, clips)]
    names = [str(label) for label in range(CLASSES)]
    return lambda: divide("grouped", labels, groups, names)


def intervals(clips: int) -> Callable[[], object]:
    """The bootstrap over groups, 2,000 draws."""
    from voc2vec_jax.evaluation.intervals import intervals as of

    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, CLASSES, (2, clips))
    groups = [str(group) for group in rng.integers(0, clips // CLIPS_PER_GROUP, clips)]
    return lambda: of(labels, predictions, groups, CLASSES)


WORKS: dict[str, Callable[[int], Callable[[], object]]] = {
    "opening": opening,
    "pre-training": pre_training,
    "fine-tuning": fine_tuning,
    "folds": folds,
    "intervals": intervals,
}


def measure(name: str, clips: int) -> Measured:
    """One work in this process: its seconds, and by how many MB memory grew at its peak."""
    work = WORKS[name](clips)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before = pages * resource.getpagesize() / 1e6
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"seconds": seconds, "mb": max(peak - before, 0.0)}


def in_a_process(name: str, clips: int) -> Measured:
    """The same in a process of its own, so that memory is that of this work."""
    code = f"import json; from tools.measure_growth import measure; print(json.dumps(measure({name!r}, {clips})))"  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    found: Measured = json.loads(done.stdout.splitlines()[-1])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""

    def work() -> None:
        arguments = parsed(Arguments, argv, __doc__, "tools.measure_growth")
        figures: dict[str, dict[int, Measured]] = {}
        print("| clips | " + " | ".join(f"{clips:,}" for clips in arguments.clips) + " |")
        print("|---" * (1 + len(arguments.clips)) + "|")
        for name in arguments.works:
            figures[name] = {clips: in_a_process(name, clips) for clips in arguments.clips}
            cells = [f"{m['seconds']:.3g} s, {m['mb']:.0f} MB" for m in figures[name].values()]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
        if arguments.json is not None:
            write_json(arguments.json, figures)

    return run(work)


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
