"""Label files of fairseq's HuBERT recipe: `train.tsv`, `train.km` and `dict.km.txt`.

The `.tsv` has the root folder in its first line, then `path<TAB>samples` per clip; the `.km` one
line of labels per clip in the same order; the dictionary one `label count` per cluster.

A class here is the place of its label in the dictionary, counted from 0. fairseq puts four symbols
of its own before them (<s>, <pad>, </s>, <unk>), so that cluster k is class k + 4 there, and its
models have 504 label embeddings for 500 clusters. That is a matter of its dictionary: neither these
files nor the store have the offset.
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from filecmp import cmp
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from data_pipelines.frame_labels.building import building, finish
from data_pipelines.frame_labels.label_store import (
    MAX_CLUSTERS,
    MAX_DISAGREEMENT_SECONDS,
    Grid,
    LabelStore,
    Manifest,
)
from data_pipelines.stores.flat_store import FlatStore
from voc2vec_jax.audio.frame_grid import MIN_SAMPLES
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.errors import ConfigError, DataError
from voc2vec_jax.files import writing

DICTIONARY = "dict.km.txt"


def write(labels: LabelStore, corpus: FlatStore, folder: str | Path, split: str) -> None:
    """Writes the labels of a corpus as fairseq reads them.

    The `.tsv` names the clips by id, with their lengths at 16 kHz. fairseq wants audio files of
    these names and lengths under the root folder, which is `audio` beside the `.tsv`: it decodes
    neither mp3 nor other rates.

    Args:
        labels: The labels.
        corpus: Which clips, in which order.
        folder: Gets the three files; made if missing.
        split: Name of the files, such as `train`.

    Raises:
        ConfigError: The folder has such files of other labels or clips.
        DataError: A clip has no labels.
    """
    folder = Path(folder)
    rows = labels.rows_of(corpus.ids)
    missing = [corpus.ids[clip] for clip in np.flatnonzero(rows < 0)]
    if missing:
        raise DataError(
            f"{labels.directory}: has no labels for {len(missing)} of {len(rows)} clips, such as"
            f" {missing[0]!r}; make labels for this corpus"
        )
    folder.mkdir(parents=True, exist_ok=True)
    pairs = zip(corpus.ids, corpus.lengths.tolist(), strict=True)
    tsv = [str((folder / "audio").resolve()), *(f"{name}\t{samples}" for name, samples in pairs)]
    km = (" ".join(map(str, labels.read(int(row)).tolist())) for row in rows)
    dictionary = (f"{label} 1" for label in range(labels.manifest.clusters))
    contents = ((f"{split}.tsv", tsv), (f"{split}.km", km), (DICTIONARY, dictionary))
    with ExitStack() as files:  # all three or none
        for name, lines in contents:
            unfinished = files.enter_context(writing(folder / name))
            with open(unfinished, "w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
            if (folder / name).exists() and not cmp(unfinished, folder / name, shallow=False):
                raise ConfigError(
                    f"{folder / name}: is there already, with other labels or clips; delete it, or"
                    " give another folder"
                )


def read(
    folder: str | Path, split: str, corpus: FlatStore, rate_hz: float, directory: str | Path
) -> LabelStore:
    """Makes a label store of fairseq's files.

    A clip of the corpus is found in the `.tsv` by its id, or by its id without suffix, since
    fairseq's copies of recordings are often wav where these are mp3.

    Args:
        folder: Holds the three files.
        split: Name of the files, such as `train`.
        corpus: The clips that get labels.
        rate_hz: Labels per second, which the files do not say: 100 for MFCCs, 50 for layers.
        directory: Becomes the store; see `building`.

    Raises:
        ConfigError: A rate that no whole number of samples gives.
        DataError: A file is missing or damaged, or a clip is not in them or has another length.
    """
    hop = round(SAMPLE_RATE / rate_hz) if rate_hz > 0 else 0
    if hop == 0 or SAMPLE_RATE / hop != rate_hz:
        raise ConfigError(f"rate_hz={rate_hz:g}: give 100 for MFCC labels, 50 for those of a layer")
    folder = Path(folder)
    classes = _read_dictionary(folder / DICTIONARY)
    names, samples = _read_tsv(folder / f"{split}.tsv")
    lines = _find(names, corpus, folder / f"{split}.tsv")
    far = np.abs(samples[lines] - corpus.lengths) > MAX_DISAGREEMENT_SECONDS * SAMPLE_RATE
    if far.any():
        clip = int(np.argmax(far))
        raise DataError(
            f"{folder / f'{split}.tsv'}: {far.sum()} clips have other lengths than in the corpus,"
            f" such as {names[lines[clip]]!r} with {samples[lines[clip]]} samples instead of"
            f" {corpus.lengths[clip]}; give the corpus that was labelled (at 16 kHz)"
        )
    content = hashlib.sha256()
    for name in (f"{split}.tsv", f"{split}.km", DICTIONARY):
        content.update("\n".join(_lines(folder / name)).encode())
    settings = {"features": "fairseq", "rate_hz": rate_hz, "files_sha256": content.hexdigest()}
    with building(directory, corpus, settings) as build:
        if build is None:
            return LabelStore.open(directory)
        clips_at = {int(line): clip for clip, line in enumerate(lines)}
        seen = 0
        for line, labels in _read_km(folder / f"{split}.km", classes):
            seen += 1
            clip = clips_at.get(line, -1)
            if clip >= 0 and build.counts[clip] < 0:
                build.append(clip, labels)
        if seen != len(names):
            raise DataError(
                f"{folder / f'{split}.km'}: has {seen} lines, and the .tsv {len(names)} clips; they"
                " are not of one run"
            )
        counts = np.zeros(len(classes), np.int64)
        for _, stored in build.read():
            counts += np.bincount(stored, minlength=len(counts))
        manifest = Manifest(
            clusters=len(classes),
            features="fairseq",
            grid=Grid(MIN_SAMPLES, hop),
            corpus=corpus.name,
            corpus_fingerprint=corpus.fingerprint,
            settings=settings,
            quality={
                "frames": int(counts.sum()),
                "used_clusters": int(np.count_nonzero(counts)),
            },
        )
        return finish(build, directory, manifest)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    # Not by `splitlines`: an id may hold U+2028.
    return text.removesuffix("\n").split("\n") if text else []


def _read_dictionary(path: Path) -> dict[str, int]:
    """Class of every label."""
    labels = [line.split(" ")[0] for line in _lines(path) if line.strip()]
    if not 1 <= len(set(labels)) == len(labels) <= MAX_CLUSTERS:
        raise DataError(
            f"{path}: has {len(labels)} labels, {len(set(labels))} of them different; it needs one"
            f" line 'label count' per cluster, at most {MAX_CLUSTERS}"
        )
    return {label: place for place, label in enumerate(labels)}


def _read_tsv(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Path and samples of each clip."""
    names, samples = [], []
    for number, line in enumerate(_lines(path)[1:], start=2):
        name, _, count = line.partition("\t")
        if not count.strip().isdecimal():
            raise DataError(f"{path}: line {number}: no 'path<TAB>samples' but {line[:80]!r}")
        names.append(name)
        samples.append(int(count))
    return names, np.array(samples, np.int64)


def _read_km(path: Path, classes: dict[str, int]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    for number, line in enumerate(_lines(path)):
        try:
            yield number, np.array([classes[label] for label in line.split()], np.int64)
        except KeyError as error:
            raise DataError(
                f"{path}: line {number + 1}: label {error} is not in {DICTIONARY}; they are not of"
                " one run"
            ) from None


def _find(names: list[str], corpus: FlatStore, path: Path) -> NDArray[np.int64]:
    """[clips] line of each clip of the corpus."""
    exact = {name: line for line, name in enumerate(names)}
    stems: dict[str, list[int]] = {}
    for line, name in enumerate(names):
        stems.setdefault(_stem(name), []).append(line)
    lines = []
    missing = []
    for clip_id in corpus.ids:
        of_stem = stems.get(_stem(clip_id), [])
        if clip_id in exact:
            lines.append(exact[clip_id])
        elif len(of_stem) == 1:
            lines.append(of_stem[0])
        else:
            missing.append(clip_id)
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(corpus.ids)} clips of the corpus are not in it, or"
            f" more than once, such as {missing[0]!r}; paths there are compared with ids of clips"
        )
    if len(set(lines)) != len(lines):
        raise DataError(f"{path}: a line is that of several clips, which differ in suffix only")
    return np.array(lines, np.int64)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))
