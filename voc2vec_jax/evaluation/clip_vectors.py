"""Fixed vectors of clips to compare models with: MFCC statistics, openSMILE, embeddings in a file.

openSMILE is the extra `baselines`. It is not free software: audEERING's research licence allows
non-commercial use and, within limits, commercial research; read it before installing.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.audio.spelling import composed
from voc2vec_jax.errors import ConfigError, FeaturesError
from voc2vec_jax.features.clip_states import mean_and_std
from voc2vec_jax.files import writing

Floats = NDArray[np.float32]

MFCC = {"n_mfcc": 13, "n_fft": 400, "hop_length": 160, "n_mels": 40}
"""librosa's parameters, at 16 kHz."""
DIFFERENCE_FRAMES = 9
OPENSMILE_SETS = {"egemaps": "eGeMAPSv02", "compare": "ComParE_2016"}


def mfcc_statistics(waveforms: Iterable[Floats]) -> Floats:
    """Mean and standard deviation of 13 MFCCs and their first and second differences.

    Windows of 25 ms every 10 ms, 40 mel bands, by librosa.

    Args:
        waveforms: float32 [S] each, 16 kHz.

    Returns:
        [clips, 78].
    """
    import librosa  # takes seconds to import

    rows = []
    for waveform in waveforms:
        mfcc = librosa.feature.mfcc(y=waveform, sr=SAMPLE_RATE, **MFCC)  # [13, T]
        # A clip of a single frame has no differences; "nearest" gives it zeros.
        differences = [
            librosa.feature.delta(mfcc, width=DIFFERENCE_FRAMES, order=order, mode="nearest")
            for order in (1, 2)
        ]
        rows.append(mean_and_std(np.concatenate([mfcc, *differences]).T))
    return np.stack(rows).astype(np.float32)


def egemaps(waveforms: Iterable[Floats]) -> Floats:
    """openSMILE's extended Geneva minimalistic set, version 02: [clips, 88]; see `_opensmile`."""
    return _opensmile(waveforms, OPENSMILE_SETS["egemaps"])


def compare_2016(waveforms: Iterable[Floats]) -> Floats:
    """openSMILE's set of the ComParE challenges since 2016: [clips, 6373]; see `_opensmile`."""
    return _opensmile(waveforms, OPENSMILE_SETS["compare"])


def _opensmile(waveforms: Iterable[Floats], feature_set: str) -> Floats:
    """Functionals of whole clips; NaN where a clip is too short for the set (some 25 ms).

    In processes of their own, one per core: openSMILE 2.6 crashes in one that holds TensorFlow.

    Args:
        waveforms: float32 [S] each, 16 kHz.
        feature_set: A name of `opensmile.FeatureSet`.

    Raises:
        ConfigError: openSMILE is not installed.
        FeaturesError: Its process died.
    """
    require_opensmile()
    from joblib import Parallel, delayed

    # Clips are read as they are needed, two per process, and sent instead of mapped from a file.
    parallel = Parallel(n_jobs=-1, max_nbytes=None)
    try:
        rows = parallel(delayed(_functionals)(clip, feature_set) for clip in waveforms)
    except BrokenProcessPool as error:
        raise FeaturesError(
            f"openSMILE's process died while it computed {feature_set} ({str(error)[:200]}); if"
            " memory was short, make room, and run again"
        ) from None
    return np.stack(rows).astype(np.float32)


def _functionals(waveform: Floats, feature_set: str) -> Floats:  # [S] -> [width]
    import opensmile

    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet[feature_set],
        feature_level=opensmile.FeatureLevel.Functionals,
    )
    with warnings.catch_warnings():
        # The rows that use the vectors count their NaNs.
        warnings.filterwarnings("ignore", message="Segment too short, filling with NaN")
        row: Floats = smile.process_signal(waveform, SAMPLE_RATE).to_numpy()[0]
    return row


def require_opensmile() -> None:
    """Raises ConfigError if openSMILE is not installed."""
    try:
        import opensmile  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"openSMILE is missing ({error}); pip install opensmile if its licence"
            " (audEERING: research and non-commercial use) suits you"
        ) from error


@dataclass(frozen=True)
class Extractor:
    """A way from clips to vectors."""

    extract: Callable[[Iterable[Floats]], Floats]
    package: str
    """Whose version decides what comes out."""
    parameters: Mapping[str, Any]
    """What else does."""


EXTRACTORS = {
    "mfcc": Extractor(
        mfcc_statistics,
        "librosa",
        {**MFCC, "difference_frames": DIFFERENCE_FRAMES, "statistics": ["mean", "std"]},
    ),
    "egemaps": Extractor(egemaps, "opensmile", {"feature_set": OPENSMILE_SETS["egemaps"]}),
    "compare": Extractor(compare_2016, "opensmile", {"feature_set": OPENSMILE_SETS["compare"]}),
}


def cached(
    name: str, waveforms: Callable[[], Iterable[Floats]], fingerprint: str, cache_dir: Path
) -> Floats:
    """The vectors of a corpus, computed once for each version and set of parameters.

    Args:
        name: A key of `EXTRACTORS`.
        waveforms: Gives the clips in their order; not called if the vectors are there.
        fingerprint: Of the corpus: equal if, and only if, clips and order are.
        cache_dir: Gets a file.

    Raises:
        ConfigError: openSMILE is asked for and not installed.
        FeaturesError: The file is damaged, or openSMILE crashed.
    """
    extractor = EXTRACTORS[name]
    package = extractor.package
    if package == "opensmile":
        require_opensmile()
    parameters = json.dumps(extractor.parameters, sort_keys=True)
    decides = hashlib.sha256(f"{fingerprint} {parameters}".encode()).hexdigest()[:24]
    path = cache_dir / "features" / f"{name}-{package}{version(package)}-{decides}.npy"
    if path.exists():
        try:
            found: Floats = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise FeaturesError(f"{path}: is damaged ({error}); delete it and run again") from error
        return found
    values = extractor.extract(waveforms())
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path, by_many=True) as unfinished, unfinished.open("wb") as file:
        np.save(file, values)
    return values


def read_embeddings(path: Path, ids: Sequence[str]) -> Floats:
    """Vectors that some model wrote into a file, in the order of a corpus.

    Args:
        path: NPZ with `ids` [n] and `embeddings` [n, width], or Parquet with a column `id` (or
            `path`) and either one column of equally long lists of numbers or, as `embed --wide`
            writes it, columns `e0`, `e1`, … of numbers. Further clips are ignored.
        ids: Of the corpus. One that is not in the file as it stands is looked for with accents
            composed (NFC).

    Returns:
        [clips, width].

    Raises:
        FeaturesError: No such file, not of that form, a clip is missing or twice in it, or is
            there in several spellings and in none exactly; or a value is not finite.
    """
    try:
        names, values = _read_npz(path) if path.suffix == ".npz" else _read_parquet(path)
    except FeaturesError:
        raise
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise FeaturesError(f"{path}: cannot be read ({error}); write it again") from error
    if values.ndim != 2 or len(values) != len(names):
        raise FeaturesError(
            f"{path}: {len(names)} ids for vectors of shape {values.shape}; one vector for each id"
        )
    place = {name: row for row, name in enumerate(names)}
    if len(place) < len(names):
        raise FeaturesError(f"{path}: {len(names) - len(place)} ids occur twice; keep one of each")
    place |= _respelt([clip_id for clip_id in ids if clip_id not in place], names, place, path)
    missing = [clip_id for clip_id in ids if clip_id not in place]
    if missing:
        raise FeaturesError(
            f"{path}: lacks {len(missing)} of {len(ids)} clips of the corpus, such as"
            f" {missing[0]!r}; it has ids such as {names[0] if names else '(none)'!r}"
        )
    chosen = values[[place[clip_id] for clip_id in ids]].astype(np.float32)
    bad = ~np.all(np.isfinite(chosen), axis=1)
    if np.any(bad):
        first = ids[int(np.argmax(bad))]
        raise FeaturesError(
            f"{path}: {int(bad.sum())} clips have values that are not finite, such as {first!r}"
        )
    return chosen


def _respelt(
    ids: Sequence[str], names: Sequence[str], place: Mapping[str, int], path: Path
) -> dict[str, int]:
    """Rows of the ids that the file has in one other spelling."""
    alike: dict[str, list[str]] = {}
    for name in names if ids else ():
        alike.setdefault(composed(name), []).append(name)
    found = {}
    for clip_id in ids:
        spellings = alike.get(composed(clip_id), [])
        if len(spellings) > 1:
            raise FeaturesError(
                f"{path}: has {clip_id!r} not as it is spelt, but {spellings[0]!r} and"
                f" {spellings[1]!r}, which differ in their accents only; give it the corpus's ids"
            )
        if spellings:
            found[clip_id] = place[spellings[0]]
    return found


def _read_npz(path: Path) -> tuple[list[str], NDArray]:
    with np.load(path, allow_pickle=False) as content:
        return [str(name) for name in content["ids"]], content["embeddings"]


def _read_parquet(path: Path) -> tuple[list[str], NDArray]:
    import pyarrow.types
    from pyarrow import parquet

    with path.open("rb") as file:  # Arrow takes no name that is no UTF-8
        table = parquet.read_table(file)
    named = [name for name in ("id", "path") if name in table.column_names]
    vectors = [
        field.name
        for field in table.schema
        if pyarrow.types.is_list(field.type)
        or pyarrow.types.is_large_list(field.type)
        or pyarrow.types.is_fixed_size_list(field.type)
    ]
    numbered = [name for name in table.column_names if re.fullmatch(r"e\d+", name)]
    wide = [] if vectors else [f"e{place}" for place in range(len(numbered))]
    if not named or len(vectors) + bool(wide) != 1 or not set(wide) <= set(numbered):
        raise FeaturesError(
            f"{path}: columns {', '.join(table.column_names)[:200]}; needs `id` or `path`, and one"
            " column of vectors or e0, e1, … without a gap"
        )
    names = [str(name) for name in table.column(named[0]).to_pylist()]
    if wide:
        return names, np.stack([table.column(name).to_numpy() for name in wide], axis=1)
    rows = table.column(vectors[0]).to_pylist()
    if len({len(row) for row in rows}) > 1:
        raise FeaturesError(f"{path}: vectors of different lengths; pool frames into one vector")
    return names, np.array(rows)
