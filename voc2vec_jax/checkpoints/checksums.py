"""Is a checkpoint as it was written? Checksums beside its files, and a look at them."""

import json
import os
import zlib
from pathlib import Path

from voc2vec_jax.checkpoints.metadata import saved_steps
from voc2vec_jax.errors import CorruptCheckpointError

SUMS = "checksums.json"
METADATA = "_CHECKPOINT_METADATA"
"""Of Orbax, which writes to it last of all, after the sums were taken."""
PARTS = ("meta", "state")
BLOCK_BYTES = 1 << 22


def write_sums(directory: Path) -> None:
    """Notes size and CRC-32 of every file of a checkpoint that is about to be finished."""
    sums = {
        path.relative_to(directory).as_posix(): [path.stat().st_size, _crc32(path)]
        for path in _files(directory)
    }
    (directory / SUMS).write_text(json.dumps(sums), encoding="utf-8")


def damage(directory: Path) -> str | None:
    """What is wrong with a checkpoint, None if nothing.

    One without sums, of an earlier version, passes if its parts are there.
    """
    try:
        json.loads((directory / METADATA).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{METADATA} is missing"
    except ValueError:
        return f"{METADATA} is garbage"
    except OSError as error:
        return f"{METADATA} cannot be read ({error})"
    for part in PARTS:
        if not (directory / part).is_dir():
            return f"{part}/ is missing"
    try:
        sums = json.loads((directory / SUMS).read_text(encoding="utf-8"))
        expected = {str(name): (int(size), int(crc)) for name, (size, crc) in sums.items()}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError):
        return f"{SUMS} is garbage"
    except OSError as error:
        return f"{SUMS} cannot be read ({error})"
    for name, (size, crc) in expected.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        try:
            found = _crc32(path)
        except OSError as error:
            return f"{name} cannot be read ({error})"
        if found != crc:
            return f"{name} has other bytes than were written (CRC-32)"
    return None


def newest_whole(directory: Path) -> tuple[int | None, dict[int, str]]:
    """The newest checkpoint that is whole, and what is wrong with those after it, by step.

    Raises:
        CorruptCheckpointError: There are checkpoints, and none of them is whole.
    """
    damaged: dict[int, str] = {}
    for step in saved_steps(directory):
        found = damage(directory / str(step))
        if found is None:
            return step, damaged
        damaged[step] = found
    if damaged:
        listed = "; ".join(f"{step}: {what}" for step, what in damaged.items())
        raise CorruptCheckpointError(
            f"{directory}: no checkpoint is whole ({listed}); restore them from a copy, or start "
            "again in another --workdir"
        )
    return None, {}


def set_aside(directory: Path, step: int) -> Path:
    """Moves a corrupt checkpoint to where nobody takes it for one."""
    aside, number = directory / f"corrupt-{step}", 2
    while aside.exists():
        aside, number = directory / f"corrupt-{step}-{number}", number + 1
    os.rename(directory / str(step), aside)
    return aside


def _files(directory: Path) -> list[Path]:
    left_out = {directory / METADATA, directory / SUMS}
    return sorted(p for p in directory.rglob("*") if p.is_file() and p not in left_out)


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            crc = zlib.crc32(block, crc)
    return crc
