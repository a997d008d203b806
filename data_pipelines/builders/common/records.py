"""The TFDS records of all datasets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.stores.flat_store import Clip
from data_pipelines.stores.sound import Sound


def features(class_names: Sequence[str]) -> tfds.features.FeaturesDict:
    """The fields of a record; `flat_store.Clip` says what they mean."""
    return tfds.features.FeaturesDict(
        {
            # int16 [S], 16 kHz mono. As bytes: the default, a varint each, is three times as long.
            "audio": tfds.features.Tensor(
                shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES
            ),
            # What the samples are multiplied by: 1 within full scale, as where it is absent.
            "scale": tfds.features.Scalar(dtype=np.float32),
            "id": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=list(class_names)),  # -1: unknown
            "group": tfds.features.Text(),
            "fold": tfds.features.Text(),
            "source": tfds.features.Text(),
        }
    )


def record_of(clip: Clip, sound: Sound) -> dict[str, Any]:
    """A record with the fields of `features`."""
    return {
        "audio": sound.samples.astype(np.int16),
        "scale": np.float32(sound.scale),
        "id": clip.id,
        "label": clip.label,
        "group": clip.group,
        "fold": clip.fold,
        "source": clip.source,
    }
