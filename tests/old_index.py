"""The index of a store as older versions wrote it."""

import hashlib
import json
from pathlib import Path

from data_pipelines.stores.flat_store import FlatStore


def as_it_was(store: FlatStore, directory: Path) -> None:
    """Puts the index of a store into a directory as it was written before there were scales."""
    old = {
        "format_version": 2,
        "sample_rate": 16_000,
        "sha256": hashlib.sha256("".join(store.clip_sha256).encode()).hexdigest(),
        "class_names": store.class_names,
        "ids": list(store.ids),
        "lengths": store.lengths.tolist(),
        "labels": store.labels.tolist(),
        "groups": list(store.groups),
        "folds": list(store.folds),
        "sources": list(store.sources),
        "means": store.means.tolist(),
        "variances": store.variances.tolist(),
        "clip_sha256": list(store.clip_sha256),
    }
    (directory / "index.json").write_text(json.dumps(old))
    (directory / "index.arrow").unlink()
