"""How the name of a file is spelt: as bytes on disk, as text in ids and reports, with accents.

A name on disk is bytes. Python holds those that are no UTF-8 as lone surrogates, which can be
written nowhere; `Path`s keep them, and everything that is written has the escaped text.
"""

import os
import re
import unicodedata
from collections import defaultdict
from pathlib import Path

from voc2vec_jax.errors import DataError

_STRAY = {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def is_text(name: str) -> bool:
    """Whether a name is valid UTF-8, so that it can be written as it stands."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def escaped(name: str) -> str:
    r"""A file's name as text that can be written anywhere; `unescaped` gives the name back.

    A name in UTF-8 stays as it is. In others each byte that is no UTF-8 becomes `\xHH`, and each
    backslash `\x5c`; so does the backslash of a name that reads as if it had been escaped.
    """
    if is_text(name) and not _ESCAPE.search(name):
        return name
    return name.translate(_STRAY | {ord("\\"): "\\x5c"})


def unescaped(text: str) -> str:
    """The name that `escaped` made this of."""

    def letter(found: re.Match[str]) -> str:
        byte = int(found[1], 16)
        return chr(byte if byte < 0x80 else 0xDC00 + byte)

    return _ESCAPE.sub(letter, text)


def written(cell: str) -> str:
    """A cell of a table as text: verbatim if it is UTF-8, else escaped."""
    return cell if is_text(cell) else escaped(cell)


def composed(name: str) -> str:
    """What all spellings of a name have in common: accents composed (NFC), latin-1 decoded."""
    if not is_text(name):
        name = os.fsencode(name).decode("latin-1")
    return unicodedata.normalize("NFC", name)


class Files:
    """Finds files that are spelt otherwise on disk than where they are named.

    Args:
        base: Where relative names start.

    Attributes:
        respelt: Names that were found under another spelling, and the files.
    """

    def __init__(self, base: Path) -> None:
        self.respelt: dict[str, Path] = {}
        self._base = base
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path | None:
        """The file of that name; None if there is none.

        The name as it stands wins; then without blanks around it, unescaped, and as `composed`.

        Raises:
            DataError: Several files are spelt that way, and none exactly so.
        """
        for spelling in dict.fromkeys((name, name.strip(), unescaped(name.strip()))):
            path = self._base / spelling
            # A null character cannot stand in a path.
            if "\0" not in spelling and path.is_file():
                return path
        place = Path(self._base, name.strip())
        found = Path(place.anchor)
        for part in place.parts[1:] if place.anchor else place.parts:
            if part != ".." and not os.path.lexists(found / part):
                alike = self._names(found).get(composed(part), [])
                if len(alike) > 1:
                    shown = " and ".join(repr(written(other)) for other in alike)
                    raise DataError(
                        f"{written(name)!r} is not spelt like any file, and {shown} in"
                        f" {found} differ from it in spelling only; write it as the file is named"
                    )
                if not alike:
                    return None
                part = alike[0]
            found /= part
        if not found.is_file():
            return None
        self.respelt[name] = found
        return found

    def _names(self, folder: Path) -> dict[str, list[str]]:
        """What a folder holds, by `composed` name."""
        if folder not in self._listed:
            names = defaultdict(list)
            for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
                names[composed(name)].append(name)
            self._listed[folder] = names
        return self._listed[folder]
