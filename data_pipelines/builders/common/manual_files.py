"""The files that a user has downloaded: archives or their extracted trees, at any nesting."""

import csv
import gzip
import hashlib
import io
import json
import logging
import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from voc2vec_jax.audio.signal import AUDIO_SUFFIXES
from voc2vec_jax.audio.walking import files_below
from voc2vec_jax.errors import DataError

DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
    *(EOFError, RuntimeError),  # cut short; encrypted
)
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class File:
    """A file and its place in the tree."""

    path: Path
    place: str
    """Path below the manual directory or below the archive's root, with `/`."""

    @property
    def name(self) -> str:
        """File name as it is spelt."""
        return self.path.name

    @property
    def stem(self) -> str:
        """File name without its suffix."""
        return self.path.stem

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """The folders it lies in, outermost first, in lower case."""
        return tuple(part.lower() for part in self.place.split("/")[:-1])

    @property
    def is_audio(self) -> bool:
        """By its suffix, in any letter case."""
        return self.path.suffix.lower() in AUDIO_SUFFIXES

    def below(self, *names: str) -> tuple[str, ...] | None:
        """The folders under the innermost occurrence of a chain of folders; None without it.

        Args:
            names: Lower case; one after the other.
        """
        for start in reversed(range(len(self.folders) - len(names) + 1)):
            if self.folders[start : start + len(names)] == names:
                return self.folders[start + len(names) :]
        return None


class ManualFiles:
    """All files of a manual directory and of the archives in it.

    An archive that lies beside a folder of its name has been extracted already; others are
    extracted into `scratch`.

    Args:
        root: The manual directory.
        scratch: Where archives are extracted to; whoever makes this object removes it.

    Raises:
        DataError: There is no such directory, or an archive is damaged.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        if not root.is_dir():
            raise DataError(f"{root}: no such folder")
        self.root = root
        self.files = list(_walk(root))
        for file in self.files.copy():
            bare = _archive_stem(file.path)
            if bare is not None and not file.path.with_name(bare).is_dir():
                self.files += _walk(_extract(file.path, scratch))

    def audio(self) -> Iterator[File]:
        """Every audio file by suffix."""
        return (file for file in self.files if file.is_audio)

    def named(self, pattern: str) -> list[File]:
        """Files whose name matches a regular expression as a whole, in any letter case."""
        return [f for f in self.files if re.fullmatch(pattern, f.name, re.IGNORECASE)]

    def one_named(self, pattern: str, what: str) -> File:
        """The one file of that name; the outermost, if there are copies of it.

        Raises:
            DataError: There is none.
        """
        found = sorted(self.named(pattern), key=lambda file: (len(file.folders), file.place))
        if not found:
            raise DataError(f"{self.root}: no {what} (a file named like {pattern!r}) below it")
        return found[0]


def _walk(root: Path) -> Iterator[File]:
    """Files below a folder, in the same order on every machine; hidden ones left out."""
    places = sorted(path.as_posix() for path in files_below(root) if (root / path).is_file())
    for place in places:
        parts = place.split("/")
        # macOS puts `._NAME` companions, which look like audio, under __MACOSX.
        if not any(part.startswith(".") or part == "__MACOSX" for part in parts):
            yield File(root / place, place)


def _archive_stem(path: Path) -> str | None:
    """Name of an archive without its suffix; None for another file."""
    for suffix in ARCHIVE_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return None


def _extract(archive: Path, scratch: Path) -> Path:
    """Folder with an archive's content; whole if it is there."""
    state = archive.stat()
    key = json.dumps([str(archive.resolve()), state.st_size, state.st_mtime_ns])
    folder = scratch / f"{archive.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    logger.info("extracting=%s", archive)
    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        if archive.suffix.lower() == ".zip":
            with zipfile.ZipFile(archive) as content:
                content.extractall(unfinished)
        else:
            with tarfile.open(archive) as content:
                content.extractall(unfinished, filter="data")
                # The checksum of gzip stands behind the end of the tar, where nobody else reads.
                while content.fileobj and content.fileobj.read(2**20):
                    pass
    except DAMAGED as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        what = " ".join(str(error).split())  # tarfile writes a line for each compression
        raise DataError(
            f"{archive}: cannot be extracted ({what}); download it again, or extract it by hand"
            " and leave the folder beside it"
        ) from error
    unfinished.rename(folder)
    return folder


def read_rows(file: File, *columns: str) -> Sequence[dict[str, str]]:
    """Rows of a CSV, whose headers are reduced to lower-case letters and digits.

    A byte order mark, latin-1 text and blanks around cells, as in public copies, do no harm.

    Args:
        file: The table.
        columns: Reduced headers that it has to have; every row has them then.

    Raises:
        DataError: A column is missing.
    """
    content = file.path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    header = next(rows, [])
    names = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in header]
    missing = set(columns) - set(names)
    if missing:
        raise DataError(
            f"{file.path}: line 1: no column {', '.join(sorted(missing))} among {header}; download"
            " it again"
        )
    empty = dict.fromkeys(names, "")
    return [
        empty | dict(zip(names, (cell.strip() for cell in row), strict=False))
        for row in rows
        if any(row)
    ]
