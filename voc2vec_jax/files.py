"""Files that appear whole or not at all, and what identifies their content."""

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHOWN_DIGITS = 12
"""Of a sha256 in a message."""
NO_TERMS: Mapping[str, str] = MappingProxyType({})


@contextmanager
def writing(path: Path, *, by_many: bool = False) -> Iterator[Path]:
    """A name to write to, which becomes `path` when the block ends well.

    An error in the block leaves `path` as it was, and nothing beside it. What a killed process has
    left is written over by the next one.

    Args:
        path: In a folder that exists.
        by_many: Several processes, of several hosts, may write this file at a time: each gets a
            name of its own, which stays behind if it is killed.

    Raises:
        OSError: The folder cannot be written to.
    """
    own = f".{socket.gethostname()}.{os.getpid()}" if by_many else ""
    unfinished = path.with_name(f"{path.name}{own}.part")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, by_many: bool = False) -> None:
    """Writes a text file in UTF-8, whole or not at all; see `writing`.

    The path of a model or a folder that is no UTF-8 may stand in it: such a byte becomes `\\udcHH`,
    which is what JSON calls it.
    """
    with writing(path, by_many=by_many) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any, *, indent: int | None = 1, by_many: bool = False) -> None:
    """Writes plain values as JSON, whole or not at all, see `writing`; its folder is made.

    Raises:
        ValueError: A number in it is not finite, which JSON does not know.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n", by_many=by_many)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_sha256(values: NDArray[Any]) -> str:
    """Of its type, shape and values."""
    head = f"{values.dtype.str} {list(values.shape)} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(values).tobytes()).hexdigest()


def differences(
    there: Mapping[str, Any], asked: Mapping[str, Any], terms: Mapping[str, str] = NO_TERMS
) -> list[str]:
    """What two sets of plain values differ in: "epochs: 50 there, 5 asked for", by name.

    Args:
        there: What is found, by name.
        asked: What is wanted.
        terms: Words for names that people do not know.
    """
    return [
        f"{terms.get(name, name)}: {_shown(there.get(name))} there, {_shown(asked.get(name))} asked"
        " for"
        for name in sorted({*there, *asked})
        if there.get(name) != asked.get(name)
    ]


def _shown(value: Any) -> str:
    digest = (
        isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")
    )
    return f"{value[:SHOWN_DIGITS]}…" if digest else repr(value)
