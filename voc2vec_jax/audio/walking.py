"""The files below a folder, through links to folders."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from voc2vec_jax.audio.spelling import escaped

logger = logging.getLogger(__name__)


def files_below(root: Path) -> Iterator[Path]:
    """Every file below a folder, relative to it, in no certain order; links are followed.

    A link to a folder that it lies in is left out, and said; so is a link that leads nowhere and
    has no suffix, which may have been a folder. One with a suffix counts as a file.

    Raises:
        OSError: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error  # os.walk would pass over a folder that it cannot read

    # Device and inode of every folder on the way down to the one that is being read.
    above: dict[str, tuple[tuple[int, int], ...]] = {os.fspath(root): (_identity(root),)}
    for parent, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        way = above.pop(parent)
        for folder in folders.copy():
            path = os.path.join(parent, folder)
            identity = _identity(path)
            if identity in way:
                logger.warning("%s: left out, a link to a folder that it lies in", escaped(path))
                folders.remove(folder)
            else:
                above[path] = (*way, identity)
        for name in names:
            file = Path(parent, name)
            if not file.suffix and file.is_symlink() and not file.exists():
                logger.warning("%s: left out, a link that leads nowhere", escaped(str(file)))
            yield file.relative_to(root)


def _identity(path: str | Path) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_dev, state.st_ino
