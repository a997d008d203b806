"""Which clips of a corpus are the same recording, so that no division may put them on two sides."""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from data_pipelines.preparation import fingerprint as prints
from data_pipelines.preparation.fingerprint import Fingerprint, FingerprintIndex, fingerprint
from data_pipelines.preparation.overlap import in_threads
from data_pipelines.stores.flat_store import FlatStore
from data_pipelines.stores.report import SILENT_RMS
from voc2vec_jax.errors import DataError
from voc2vec_jax.files import write_json

RULES = (
    1,  # raised when anything else here changes what is found
    SILENT_RMS,
    prints.MIN_FRAMES,
    prints.MIN_SHARE,
    prints.MAX_ERROR_RATE,
    prints.MIN_DEVIATIONS,
)
"""What decides, besides the samples, which clips are copies."""

logger = logging.getLogger(__name__)


def copies_of(store: FlatStore) -> list[list[int]]:
    """Sets of clips that are the same recording, as they are or as other encodings of it.

    Clips with the same samples are copies. So are those that `find_overlaps` would report, by the
    same bound: one may be a part of the other. A clip below -60 dB is compared by its samples only,
    because the noise of a recorder is alike in all of them.

    What was found is kept beside the store, because fingerprints take some 6 ms of a core for each
    second of sound.

    Returns:
        Places of clips, ascending; each set has two at least, and no clip is in two sets.

    Raises:
        DataError: The file beside the store is damaged, or the store cannot be read.
    """
    key = hashlib.sha256(json.dumps([store.fingerprint, *RULES]).encode()).hexdigest()[:16]
    directory = store.directory
    path = directory.with_name(f"{directory.name}-copies-{key}.json")
    if path.exists():
        return _read(path, len(store.ids))
    found = _find(store)
    try:
        write_json(path, {"clips": len(store.ids), "copies": found}, indent=None, by_many=True)
    except OSError as error:  # of a place that may only be read; it is found again next time
        logger.warning("not_kept=%s reason=%s", path, error)
    logger.info("copies=%s sets=%d clips=%d", path, len(found), sum(map(len, found)))
    return found


def _read(path: Path, clips: int) -> list[list[int]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["clips"] != clips:
            raise ValueError(f"of {content['clips']} clips, not {clips}")
        return [[int(clip) for clip in copies] for copies in content["copies"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: is damaged ({error}); delete it and run again, then it is made anew"
        ) from error


def _find(store: FlatStore) -> list[list[int]]:
    digests = np.array(list(store.clip_sha256))
    _, first, recording = np.unique(digests, return_index=True, return_inverse=True)
    power = store.variances.astype(np.float64) + store.means.astype(np.float64) ** 2
    heard = first[power[first] >= SILENT_RMS**2]  # one clip of each recording
    a, b = _near_pairs(store, np.sort(heard))
    ends = (np.concatenate([np.arange(len(digests)), a]), np.concatenate([first[recording], b]))
    links = csr_array((np.ones(len(ends[0])), ends), (len(digests), len(digests)))
    _, component = connected_components(links, directed=False)
    order = np.argsort(component, kind="stable")
    sets = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
    return sorted(copies.tolist() for copies in sets if len(copies) > 1)


def _near_pairs(
    store: FlatStore, clips: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Clips, of those given, whose fingerprints say that they are one recording."""

    def describe(clip: int) -> Fingerprint:
        return fingerprint(store.waveform(clip))

    pairs = []
    if len(clips) > 1:
        described = list(in_threads(describe, clips.tolist(), "Fingerprints, to find copies"))
        index = FingerprintIndex(described)

        def search(place: int) -> list[int]:
            return [match.clip for match in index.search(described[place])]

        found = in_threads(search, range(len(clips)), "Copies among the clips")
        pairs = [(place, other) for place, matches in enumerate(found) for other in matches]
    places = np.array(pairs, np.int64).reshape(-1, 2)
    return clips[places[:, 0]], clips[places[:, 1]]
