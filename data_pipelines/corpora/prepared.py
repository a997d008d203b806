"""Prepared datasets: finding them, and unpacking their records once into a flat store."""

import json
import logging
import os
import pkgutil
from pathlib import Path

import numpy as np

from data_pipelines.stores.building import only_builder
from data_pipelines.stores.columns import Digests, Strings
from data_pipelines.stores.flat_store import FlatStore
from data_pipelines.stores.index import read_index, write_index
from data_pipelines.stores.journal import SAMPLES
from data_pipelines.stores.sound import Sound
from voc2vec_jax.errors import DataError

BUILDERS = Path(__file__).parents[1] / "builders"
PREPARE = "python -m tools.prepare_data"

logger = logging.getLogger(__name__)


def dataset_names() -> list[str]:
    """Datasets that this project can prepare, in alphabetical order."""
    modules = pkgutil.iter_modules([str(BUILDERS)])
    return sorted(module.name for module in modules if not module.ispkg)


def find_prepared(name: str, data_dir: Path) -> Path | None:
    """Directory of a prepared dataset, the newest version of it; None where there is none.

    Without a variant in its name it is the default one, or the only one that is prepared.

    Args:
        name: `nnime`, or `nnime/speech` for a variant.
        data_dir: Where datasets are prepared.

    Raises:
        DataError: Several variants are prepared and the name does not tell which.
    """
    root = data_dir / name
    versions = {path.parent for path in root.glob("*/report.json")}
    if not versions and "/" not in name:
        variants = sorted({path.parents[1].name for path in root.glob("*/*/report.json")})
        tfds_note = root / ".config" / "metadata.json"
        if len(variants) > 1 and tfds_note.exists():
            default = json.loads(tfds_note.read_text())["default_config_name"]
            variants = [v for v in variants if v == default] or variants
        if len(variants) > 1:
            choices = ", ".join(f"{name}/{variant}" for variant in variants)
            raise DataError(f"{root}: several variants are prepared; choose one of {choices}")
        if variants:
            return find_prepared(f"{name}/{variants[0]}", data_dir)
    # TFDS writes an unfinished dataset beside it, as `incomplete.…`.
    finished = [path for path in versions if path.name[0].isdigit()]
    return max(finished, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def open_prepared(name: str, data_dir: Path) -> FlatStore:
    """The flat store of a prepared dataset, unpacked from its records if it is not there.

    Raises:
        DataError: The dataset is not prepared, or its files are damaged.
    """
    directory = find_prepared(name, data_dir)
    if directory is None:
        raise DataError(
            f"{name}: is not prepared in {data_dir}; run {PREPARE} {name} --data-dir {data_dir}"
        )
    report = json.loads((directory / "report.json").read_text())
    store = data_dir / report["store"]
    if not store.exists():
        with only_builder(store):
            if not store.exists():
                _unpack(directory, store)
    return FlatStore.open(store)


def _unpack(directory: Path, store: Path) -> None:
    """Write the store that the records were made from, byte for byte."""
    import tensorflow_datasets as tfds  # takes a second, and a store that is there needs none

    logger.info("unpacking=%s store=%s", directory, store)
    index = read_index(directory)
    lengths = index.column("length").to_numpy()
    offsets = np.cumsum(lengths) - lengths
    digests = Digests(index.column("sha256"))
    place = {clip_id: clip for clip, clip_id in enumerate(Strings(index.column("id")))}
    unfinished = store.with_name(f".{store.name}.unpacking.tmp")
    unfinished.mkdir()
    records = tfds.builder_from_directory(directory).as_data_source("train")
    if len(records) != len(lengths):
        raise DataError(
            f"{directory}: {len(records)} records for {len(lengths)} clips; prepare it again"
        )
    with open(unfinished / SAMPLES, "wb") as file:
        # TFDS shuffles its records, so each goes to its own place.
        for record in records:
            clip_id = record["id"].decode()
            clip = place.get(clip_id, -1)
            # Older records have no scale.
            sound = Sound(record["audio"].astype("<i2"), float(record.get("scale", 1.0)))
            if clip < 0 or sound.sha256 != digests[clip]:
                raise DataError(f"{directory}: clip {clip_id!r} is damaged; prepare it again")
            os.pwrite(file.fileno(), sound.samples.tobytes(), 2 * int(offsets[clip]))
    write_index(unfinished, index)
    report = json.loads((directory / "report.json").read_text())
    del report["store"]
    (unfinished / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    unfinished.rename(store)
