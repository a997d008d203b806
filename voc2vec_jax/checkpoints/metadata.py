"""What stands beside the arrays of a checkpoint, read from its file alone, without Orbax.

Orbax opens a whole directory, with all processes at once, and stumbles over damaged checkpoints.
"""

import json
from pathlib import Path
from typing import Any

FILE = Path("meta") / "metadata"
"""Where Orbax keeps it in the folder of a checkpoint."""


def saved_steps(directory: Path) -> list[int]:
    """Steps that `directory` has a checkpoint of, whole or not, the newest first."""
    return sorted((int(p.name) for p in directory.glob("*") if p.name.isdigit()), reverse=True)


def read_metadata(directory: Path, step: int) -> dict[str, Any] | None:
    """What `Checkpoints.read_meta` gives, or None where it cannot be read."""
    try:
        found = json.loads((directory / str(step) / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
