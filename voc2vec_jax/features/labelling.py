"""The steps from clips to labels: open features, fit clusters on a sample, label every clip."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.checkpoints.loading import load_encoder
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.features.frames import (
    Features,
    LayerFeatures,
    MfccFeatures,
    Read,
    batches,
    stream,
)
from voc2vec_jax.features.kmeans import Floats, KMeansSettings, assigner, fit
from voc2vec_jax.features.on_disk import write_frames
from voc2vec_jax.files import write_json

SAMPLE, CENTROIDS, FACTS = "sample.float32", "centroids.npy", "fit.json"

Report = Callable[[int], None]
"""Told how many clips have been done, each time that it is some more."""


def open_features(name: str, model: str | None) -> tuple[Features, str | None]:
    """Features by name.

    Args:
        name: `mfcc`, or `layer:6` for the sixth layer of `model`.
        model: Whatever `from_pretrained` reads.

    Returns:
        The features, and `PretrainedModel.sha256` of the model.

    Raises:
        ConfigError: No such features or layer, or a model too many or too few.
        CheckpointError, ConversionError: As `from_pretrained`.
    """
    kind, _, number = name.partition(":")
    if name == "mfcc":
        if model is not None:
            raise ConfigError(f"model={model}: MFCCs need none; leave it out, or ask for layer:6")
        return MfccFeatures(), None
    if kind != "layer" or not number.isdecimal():
        raise ConfigError(f"features={name!r}: give mfcc, or layer:6 for a model's sixth layer")
    if model is None:
        raise ConfigError(f"features={name}: says a layer of which model? Give a model")
    loaded = load_encoder(model, padding="masked")
    try:
        features = LayerFeatures(loaded, int(number))
    except ValueError as error:
        raise ConfigError(f"features={name}: {error}") from None
    return features, loaded.sha256


def sample_clips(clips: int, share: float, seed: int) -> NDArray[np.int64]:
    """Numbers of the clips that clusters are fit on, at least one, in increasing order."""
    count = int(np.ceil(share * clips))
    return np.sort(np.random.default_rng(seed).permutation(clips)[:count])


def fit_clusters(
    features: Features,
    read: Read,
    lengths: Sequence[int] | NDArray[np.integer],
    settings: KMeansSettings,
    directory: Path,
    report: Report = lambda clips: None,
) -> tuple[Floats, dict[str, Any]]:
    """Centroids of the frames of some clips.

    What is done lies in `directory`, where the same call after a kill finds it.

    Args:
        features: What is clustered.
        read: Gives the samples of clip 0, 1, …
        lengths: Samples of each clip.
        settings: Of k-means.
        directory: Holds the features until clusters are found, and those from then on.
        report: See `Report`.

    Returns:
        float32 [clusters, D], and figures of the fit.

    Raises:
        ConfigError: There are fewer frames than clusters.
    """
    facts_path, sample_path = directory / FACTS, directory / SAMPLE
    if not facts_path.exists():
        frames = write_frames(features, read, lengths, sample_path, report)
        try:
            found = fit(frames, settings)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        np.save(directory / CENTROIDS, found.centroids)
        facts = {key: value for key, value in asdict(found).items() if key != "centroids"}
        write_json(facts_path, {"clips": len(lengths), **facts})
    sample_path.unlink(missing_ok=True)
    return np.load(directory / CENTROIDS), json.loads(facts_path.read_text(encoding="utf-8"))


def label_clips(
    features: Features,
    read: Read,
    lengths: Sequence[int] | NDArray[np.integer],
    centroids: Floats,
    done: NDArray[np.bool_],
    emit: Callable[[int, NDArray[np.int32], float], None],
) -> None:
    """Labels the clips that are not done; features are computed and dropped batch by batch.

    Args:
        features: What the clusters are of.
        read: Gives the samples of clip 0, 1, …
        lengths: Samples of each clip.
        centroids: float32 [clusters, D].
        done: [clips] bool.
        emit: Gets clip, labels [T] and the sum over frames of the squared distance to the centroid.
    """
    # A batch of which anything is missing is computed as it was the first time.
    work = [clips for clips in batches(lengths) if not done[clips].all()]
    missing, assign = ~done, assigner(centroids)
    features.expect(lengths, work, assign)
    made = stream(features, read, work, assign)
    for clips, arrays in zip(work, made, strict=True):
        for clip, (labels, distances) in zip(clips, arrays, strict=True):
            if missing[clip]:
                emit(clip, labels, float(distances.sum(dtype=np.float64)))
