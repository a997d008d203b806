"""Labelled corpora by name or table."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.sources import open_corpus
from data_pipelines.store import DataError, from_int16
from voc2vec_jax.config import DataConfig
from voc2vec_jax.cross_validation import LabelledCorpus


def is_table(dataset: str) -> bool:
    """Whether a dataset is given as a CSV, and not by its name."""
    return dataset.endswith(".csv")


def open_labelled(dataset: str, data_dir: Path, *, exclude_bad: bool) -> LabelledCorpus:
    """A corpus by its name or table, decoded on first use.

    Raises:
        ConfigError: No such dataset.
        DataError: It cannot be read, or some of its files cannot and are not to be left out.
    """
    data = DataConfig(data_dir=str(data_dir))
    store = open_corpus(
        replace(data, table=dataset) if is_table(dataset) else replace(data, name=dataset)
    )
    dropped = [
        drop
        for directory in store.directories
        for drop in json.loads((directory / "report.json").read_text(encoding="utf-8"))["dropped"]
    ]
    if dropped and not exclude_bad:
        shown = "\n".join(f"  {drop['file']}: {drop['reason']}" for drop in dropped)
        raise DataError(
            f"{dataset}: {len(dropped)} files cannot be used; mend or remove them, or leave them"
            f" out with --exclude-bad:\n{shown}"
        )

    def waveforms() -> Iterator[NDArray[np.float32]]:
        for clip, length in enumerate(store.lengths.tolist()):
            yield from_int16(store.read(clip, 0, length))

    return LabelledCorpus(
        name=Path(dataset).stem if is_table(dataset) else dataset.replace("/", "-"),
        ids=store.ids,
        labels=store.labels,
        groups=store.groups,
        class_names=store.class_names,
        fingerprint=store.fingerprint,
        waveforms=waveforms,
        excluded=tuple(dropped),
    )
