"""The TFDS records of all datasets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.stores.flat_store import Clip, Int16Array


def features(class_names: Sequence[str]) -> tfds.features.FeaturesDict:
    """The fields of a record; `flat_store.Clip` says what they mean."""
    return tfds.features.FeaturesDict(
        {
            # int16 [S], 16 kHz mono. As bytes: the default, a varint each, is three times as long.
            "audio": tfds.features.Tensor(
                shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES
            ),
            "id": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=list(class_names)),  # -1: unknown
            "group": tfds.features.Text(),
            "fold": tfds.features.Text(),
            "source": tfds.features.Text(),
        }
    )


def record_of(clip: Clip, samples: Int16Array) -> dict[str, Any]:
    """A record with the fields of `features`."""
    return {
        "audio": samples.astype(np.int16),
        "id": clip.id,
        "label": clip.label,
        "group": clip.group,
        "fold": clip.fold,
        "source": clip.source,
    }
