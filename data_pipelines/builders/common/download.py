"""Fetching the archives of datasets that are openly downloadable, with their checksums.

A repository such as Zenodo states a checksum for each file of a deposit; of other archives it is
known, or recorded when they are first fetched. A file that is there with the right checksum is not
fetched again.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pooch
import requests

from voc2vec_jax.errors import DataError
from voc2vec_jax.files import write_json

CHECKSUMS = ".checksums.json"
"""Beside the archives: what was recorded when they were first fetched."""
TIMEOUT_SECONDS = 60

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """One file under an address of its own."""

    url: str
    checksum: str | None = None
    """`sha256:…` or `md5:…`; None where nobody has published one."""
    name: str = ""
    """Of the file, where the address does not end with it."""


@dataclass(frozen=True)
class Deposit:
    """Files of a research repository, such as Zenodo or Dataverse, which states their checksums."""

    doi: str
    files: str = ".*"
    """Regular expression that the whole name of a wanted file matches."""


Source = Archive | Deposit


def download(sources: Sequence[Source], folder: Path) -> list[Path]:
    """Fetches what is missing; each file appears whole and checked, or not at all.

    Args:
        sources: What to fetch.
        folder: Gets the files; made if missing.

    Returns:
        The files, in the order of `sources`.

    Raises:
        DataError: A file is not what its checksum says, or a deposit has none of the wanted files.
        OSError: The network or the disk failed (`requests` raises subclasses of it).
    """
    folder.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel(logging.WARNING)
    paths: list[Path] = []
    for source in sources:
        with _explained(source, folder):
            paths += _fetch(source, folder)
    return paths


@contextmanager
def _explained(source: Source, folder: Path) -> Iterator[None]:
    """pooch's errors with the address and what to do."""
    place = source.url if isinstance(source, Archive) else f"https://doi.org/{source.doi}"
    try:
        yield
    except DataError:
        raise
    except requests.RequestException as error:
        raise OSError(
            f"{place}: cannot be fetched ({error}); try again, or put its files into {folder} by"
            " hand"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{place}: is not what was expected ({error}); fetch it by hand into {folder}, and see"
            " what has changed"
        ) from error


def _fetch(source: Source, folder: Path) -> list[Path]:
    if isinstance(source, Archive):
        return [_fetch_archive(source, folder)]
    deposit = pooch.create(path=folder, base_url=f"doi:{source.doi}/")
    deposit.load_registry_from_doi()
    names = [name for name in deposit.registry if re.fullmatch(source.files, name)]
    if not names:
        raise DataError(
            f"https://doi.org/{source.doi}: none of its files is named like {source.files!r}; it"
            f" has {', '.join(deposit.registry) or 'none'}. Fetch what is needed by hand"
        )
    downloader = pooch.DOIDownloader(progressbar=True, timeout=TIMEOUT_SECONDS)
    return [Path(deposit.fetch(name, downloader=downloader)) for name in names]


def _fetch_archive(source: Archive, folder: Path) -> Path:
    name = source.name or unquote(urlsplit(source.url).path.split("/")[-1])
    recorded = _recorded(folder)
    checksum = source.checksum or recorded.get(name)
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT_SECONDS)
    path = Path(pooch.retrieve(source.url, checksum, name, folder, downloader=downloader))
    if checksum is None:
        recorded[name] = f"sha256:{pooch.file_hash(str(path))}"
        logger.info("recorded=%s checksum=%s", path, recorded[name])
        write_json(folder / CHECKSUMS, recorded, indent=2)
    return path


def _recorded(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS
    if not path.exists():
        return {}
    checksums: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return checksums
