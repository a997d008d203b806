"""Voc125, the pre-training mixture of the voc2vec paper, and mixtures of one's own."""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.corpora.prepared import PREPARE, find_prepared, open_prepared
from data_pipelines.stores.flat_store import FlatStore
from data_pipelines.stores.report import read_report
from voc2vec_jax.errors import ConfigError, DataError

NAME = "voc125"
PAPER: Mapping[str, tuple[int, float]] = MappingProxyType(
    {
        "audioset_vocalization": (13_439, 36.94),
        "freesound_babies": (1_450, 23.42),
        "human_voice": (179, 0.06),
        "nnime": (5_596, 3.55),
        "nonspeech7k": (6_983, 6.72),
        "recanvo": (7_077, 2.46),
        "singing_database": (113, 3.97),
        "tut_babies": (1_540, 13.17),
        "vocalsketch": (10_705, 10.53),
        "vocalsound": (20_985, 24.37),
    }
)
"""Clips and hours by the paper's table; together 68,067 and, by its rounded hours, 125.19."""

logger = logging.getLogger(__name__)


def prepared_reports(data_dir: Path) -> dict[str, dict[str, Any] | None]:
    """The report of each of the ten datasets; None for those that are not prepared."""
    directories = {name: find_prepared(name, data_dir) for name in PAPER}
    return {
        name: read_report(directory) if directory else None
        for name, directory in directories.items()
    }


def statement(reports: Mapping[str, dict[str, Any] | None]) -> str:
    """What of Voc125 there is, against the paper, and what is missing."""
    there = {name: report for name, report in reports.items() if report}
    missing = [f"{name} ({PAPER[name][1]} h)" for name, report in reports.items() if not report]
    clips = sum(report["clips"] for report in there.values())
    hours = sum(report["hours"] for report in there.values())
    paper_clips, paper_hours = (sum(column) for column in zip(*PAPER.values(), strict=True))
    text = (
        f"{NAME}: {len(there)} of {len(PAPER)} datasets; {clips} of {paper_clips} clips,"
        f" {hours:.2f} of {paper_hours:.2f} h"
    )
    return f"{text}; missing: {', '.join(missing)}" if missing else f"{text}; complete"


def open_mixture(name: str, data_dir: Path) -> FlatStore:
    """Several prepared datasets as one.

    Args:
        name: `voc125`, which means those of the ten that are prepared, or names joined by `+`.
        data_dir: Where they are prepared.

    Raises:
        ConfigError: A dataset is named twice.
        DataError: A dataset that is named, or every one of Voc125, is not prepared.
    """
    if name == NAME:
        reports = prepared_reports(data_dir)
        names = [dataset for dataset, report in reports.items() if report]
        if not names:
            raise DataError(
                f"{NAME}: none of its datasets is prepared in {data_dir}; run {PREPARE} {NAME}"
                f" --manual-dir DIR --data-dir {data_dir}"
            )
        log = logger.info if len(names) == len(PAPER) else logger.warning
        log("%s", statement(reports))
    else:
        names = name.split("+")
        if len(set(names)) < len(names):
            raise ConfigError(f"data.name={name!r}: names a dataset twice")
    return FlatStore.join({dataset: open_prepared(dataset, data_dir) for dataset in names})


def mixture_rates(store: FlatStore, temperature: float) -> NDArray[np.float64] | None:
    """How often an epoch hears each clip, so that it lasts as long as all of them once.

    A dataset of h hours has the share h^(1/temperature) / sum(h^(1/temperature)) of an epoch.

    Args:
        store: Datasets that were joined.
        temperature: At least 1.

    Returns:
        float64 [clips], or None if each is heard once.

    Raises:
        ConfigError: The temperature is below 1 or not finite.
    """
    if not 1 <= temperature < np.inf:
        raise ConfigError(
            f"data.mixture_temperature={temperature}: must be finite and at least 1 (by hours)"
        )
    if temperature == 1 or len(store.directories) == 1:
        return None
    samples = np.bincount(store.parts, weights=store.lengths)
    shares = samples ** (1 / temperature)
    rates: NDArray[np.float64] = shares / shares.sum() * samples.sum() / samples
    return rates[store.parts]
