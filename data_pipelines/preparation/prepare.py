"""Preparing a dataset, a table or a folder as TFDS records with a report."""

import importlib
import json
import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_pipelines.builders.common.base import (
    SPLIT,
    StoreBuilder,
    VocalisationBuilder,
)
from data_pipelines.builders.common.download import download as fetch
from data_pipelines.builders.common.records import features
from data_pipelines.corpora import voc125
from data_pipelines.corpora.prepared import dataset_names, find_prepared
from data_pipelines.corpora.sources import store_from_folder, store_from_table
from data_pipelines.stores.building import only_builder
from data_pipelines.stores.flat_store import FlatStore
from voc2vec_jax.audio.spelling import escaped, is_text
from voc2vec_jax.errors import ConfigError, DataError

FILE_FORMAT = "array_record"

logger = logging.getLogger(__name__)


def builder_class(name: str) -> type[VocalisationBuilder]:
    """The builder of a dataset.

    Raises:
        ConfigError: There is no such dataset.
    """
    if name not in dataset_names():
        raise ConfigError(f"{name!r}: no such dataset; choose one of {', '.join(dataset_names())}")
    importlib.import_module(f"data_pipelines.builders.{name}")
    found: type[VocalisationBuilder] = tfds.builder_cls(name)
    return found


def make_builder(name: str, data_dir: Path) -> VocalisationBuilder:
    """The builder of a dataset, or of a variant of it (`nnime/speech`).

    Raises:
        ConfigError: There is no such dataset or variant.
    """
    dataset, _, variant = name.partition("/")
    kind = builder_class(dataset)
    if variant and variant not in kind.builder_configs:
        known = ", ".join(f"{dataset}/{config}" for config in kind.builder_configs) or "none"
        raise ConfigError(f"{name!r}: no such variant; {dataset} has {known}")
    return kind(data_dir=os.fspath(data_dir), config=variant or None)


def prepare_dataset(
    name: str,
    manual_dir: Path | None,
    data_dir: Path,
    *,
    download: bool = False,
    exclude: Path | None = None,
    overwrite: bool = False,
    beam_runner: str | None = None,
    beam_options: Sequence[str] = (),
) -> Path:
    """Prepares a published dataset from the files that the user has downloaded.

    Args:
        name: Dataset, or dataset and variant.
        manual_dir: Holds the archive or its extracted tree, or a folder of exactly the dataset's
            name that does. Default `<data_dir>/manual`.
        data_dir: Gets the dataset and its flat store.
        download: First fetch what is missing into the folder of the dataset's name.
        exclude: Ids of clips to leave out, one a line; `tools.find_overlap` writes such lists.
        overwrite: Throw away what was prepared before, the decoded audio included.
        beam_runner: Decode on Apache Beam, with this runner; needs the extra `[beam]`.
        beam_options: Flags for Beam, such as `--direct_num_workers=2`.

    Returns:
        The directory of the dataset; what was prepared before is left as it is.

    Raises:
        ConfigError: There is no such dataset or variant, or it is not openly downloadable.
        DataError: The files are not there, or none of them can be used.
        OSError: A download failed.
    """
    _require_utf8(data_dir)
    dataset = name.partition("/")[0]
    facts = builder_class(dataset).FACTS
    builder = make_builder(name, data_dir)
    directory = Path(builder.data_path)
    manual = manual_dir or data_dir / "manual"
    if download:
        if not builder.downloads:
            raise ConfigError(f"--download: {dataset} cannot be fetched by itself; {facts.obtain}")
        logger.info("dataset=%s licence=%s", facts.title, facts.licence)
        fetch(builder.downloads, manual / dataset)
    if (manual / dataset).is_dir():
        manual /= dataset
    if exclude and not overwrite and directory.exists():
        raise DataError(f"{directory}: is prepared already; give --overwrite for another list")
    if overwrite or not directory.exists():
        if not (manual.is_dir() and any(manual.iterdir())):
            raise DataError(
                f"{manual}: no such folder, or nothing in it. {dataset}: {facts.obtain}. Licence:"
                f" {facts.licence}. Then give the folder with --manual-dir"
            )
        config = _download_config(manual, beam_runner, beam_options)
        if directory.exists():
            builder.survey(manual, builder.scratch)  # before anything is thrown away
            _discard(directory, data_dir)
            builder = make_builder(name, data_dir)
        # Not by `splitlines`: an id may hold U+2028.
        listed = exclude.read_text(encoding="utf-8").split("\n") if exclude else ()
        builder.excluded = frozenset(listed)
        builder.on_beam = beam_runner is not None
        _run(builder, config)
    else:
        logger.info("reused=%s (--overwrite makes it anew)", directory)
    return directory


def prepare_voc125(
    manual_dir: Path | None,
    data_dir: Path,
    *,
    exclude: Path | None = None,
    overwrite: bool = False,
) -> dict[str, dict[str, Any] | None]:
    """Prepares what there is of Voc125.

    Args:
        manual_dir: Holds a folder for each dataset that the user has, named like the dataset.
        data_dir: Gets the datasets; those prepared before are left as they are.
        exclude: As for `prepare_dataset`.
        overwrite: As for `prepare_dataset`.

    Returns:
        The report of each of the ten; None for those that are missing.

    Raises:
        DataError: There is none at all, or one cannot be prepared.
    """
    manual = manual_dir or data_dir / "manual"
    for name in voc125.PAPER:
        if (manual / name).is_dir() and (overwrite or not find_prepared(name, data_dir)):
            prepare_dataset(name, manual, data_dir, exclude=exclude, overwrite=overwrite)
    reports = voc125.prepared_reports(data_dir)
    if not any(reports.values()):
        raise DataError(
            f"{manual}: has no folder named like one of {', '.join(voc125.PAPER)}; put what you"
            " have downloaded into such folders"
        )
    return reports


def prepare_table(
    table: Path, name: str | None, data_dir: Path, *, overwrite: bool = False
) -> Path:
    """Prepares the files of a table; see `sources.store_from_table` for its columns and errors."""
    directory = _own_directory(name or table.stem, data_dir)
    if overwrite:
        _discard(directory, data_dir)
    return _prepare_store(
        store_from_table(table, data_dir), directory, f"Table {escaped(str(table))}."
    )


def prepare_folder(
    folder: Path, name: str | None, data_dir: Path, *, classes: bool, overwrite: bool = False
) -> Path:
    """Prepares every audio file under a folder; see `sources.store_from_folder`."""
    directory = _own_directory(name or folder.resolve().name, data_dir)
    if overwrite:
        _discard(directory, data_dir)
    store = store_from_folder(folder, data_dir, classes=classes)
    return _prepare_store(store, directory, f"Folder {escaped(str(folder))}.")


def _own_directory(name: str, data_dir: Path) -> Path:
    """Where a user's own corpus of that name goes."""
    _require_utf8(data_dir)
    dataset = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not dataset or dataset in {*dataset_names(), "synthetic", voc125.NAME}:
        raise ConfigError(f"{name!r}: cannot name a dataset, or names one; give another NAME")
    return data_dir / dataset / str(StoreBuilder.VERSION)


def _require_utf8(data_dir: Path) -> None:
    if not is_text(str(data_dir.absolute())):
        raise ConfigError(
            f"--data-dir {escaped(str(data_dir))}: records are written only to folders whose names"
            " are UTF-8; give another"
        )


def _discard(directory: Path, data_dir: Path) -> None:
    """Remove a prepared dataset and its flat store, if they are there."""
    report = directory / "report.json"
    if report.exists():
        shutil.rmtree(data_dir / json.loads(report.read_text())["store"], ignore_errors=True)
        shutil.rmtree(directory)


def _prepare_store(store: FlatStore, directory: Path, description: str) -> Path:
    if directory.exists():
        made_from = json.loads((directory / "report.json").read_text())["store"]
        if made_from != store.directory.name:
            raise DataError(
                f"{directory}: was made from other files or labels; give --overwrite, or another"
                " NAME"
            )
        return directory

    with tfds.core.registered.skip_registration():

        class OwnCorpus(StoreBuilder):
            """A user's own recordings."""

            name = directory.parent.name

            def _info(self) -> tfds.core.DatasetInfo:
                return tfds.core.DatasetInfo(
                    builder=self, description=description, features=features(store.class_names)
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {SPLIT: self._generate_examples(store)}

    _run(
        OwnCorpus(data_dir=os.fspath(directory.parents[1])),
        tfds.download.DownloadConfig(try_download_gcs=False),
    )
    return directory


def _download_config(manual_dir: Path, beam_runner: str | None, beam_options: Sequence[str]) -> Any:
    config = tfds.download.DownloadConfig(manual_dir=os.fspath(manual_dir), try_download_gcs=False)
    if beam_runner:
        try:
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as error:
            raise ConfigError(
                f"--beam-runner {beam_runner}: Apache Beam is missing ({error}); pip install"
                " apache-beam"
            ) from error
        config.beam_runner = beam_runner
        config.beam_options = PipelineOptions(list(beam_options))
    return config


def _run(builder: StoreBuilder, config: Any) -> None:
    # Its bars would come between ours; one of ours shows the part that takes time.
    tfds.disable_progress_bar()
    logging.getLogger("absl").setLevel(logging.WARNING)
    directory = Path(builder.data_path)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with only_builder(directory) as alone:
        if alone:
            for leftover in directory.parent.glob("incomplete.*"):  # of a killed run
                shutil.rmtree(leftover, ignore_errors=True)
        builder.download_and_prepare(download_config=config, file_format=FILE_FORMAT)
