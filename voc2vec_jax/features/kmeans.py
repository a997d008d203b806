"""k-means over frames: scikit-learn finds the clusters, the device gives every frame its own.

The settings are those of fairseq's HuBERT recipe.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Assign = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""[..., D] frames to labels [...] int32 and squared distances [...] float32."""


@dataclass(frozen=True)
class KMeansSettings:
    """What decides the clusters, besides the frames."""

    clusters: int = 100
    seed: int = 0
    batch_frames: int = 10_000
    max_iterations: int = 100
    initialisations: int = 20
    patience_batches: int = 100
    """Stop when the inertia of this many batches in a row was not the lowest yet."""


@dataclass(frozen=True)
class KMeansFit:
    """Clusters, and how well they fit the frames that they were found on."""

    centroids: Floats
    """float32 [clusters, D]"""
    frames: int
    inertia_per_frame: float
    """Mean squared distance to the nearest centroid."""
    iterations: int


def fit(frames: Floats, settings: KMeansSettings) -> KMeansFit:
    """MiniBatchKMeans with k-means++ initialisation, no tolerance and no reassignment.

    Args:
        frames: float32 [N, D] in C order; a memory-mapped file stays on the disk.
        settings: See `KMeansSettings`.

    Raises:
        ValueError: There are fewer frames than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans  # takes a second to import

    if len(frames) < settings.clusters:
        raise ValueError(
            f"clusters={settings.clusters}: the sample has {len(frames)} frames; give fewer"
            " clusters, or a larger share of the clips"
        )
    model = MiniBatchKMeans(
        n_clusters=settings.clusters,
        init="k-means++",
        max_iter=settings.max_iterations,
        batch_size=settings.batch_frames,
        tol=0.0,
        max_no_improvement=settings.patience_batches,
        n_init=settings.initialisations,
        reassignment_ratio=0.0,
        random_state=settings.seed,
        compute_labels=False,
    )
    model.fit(frames)
    centroids = np.ascontiguousarray(model.cluster_centers_, np.float32)
    assign, total = assigner(centroids), 0.0
    for start in range(0, len(frames), settings.batch_frames):
        block = jnp.asarray(np.asarray(frames[start : start + settings.batch_frames]))
        total += float(np.asarray(assign(block)[1]).sum(dtype=np.float64))
    return KMeansFit(centroids, len(frames), total / len(frames), int(model.n_iter_))


def assigner(centroids: Floats) -> Assign:
    """A compiled function that gives frames the index of their nearest centroid.

    By squared distance; of centroids that are as near it is the first, as in scikit-learn.

    Args:
        centroids: float32 [clusters, D].
    """
    table = jnp.asarray(centroids, jnp.float32)
    norms = jnp.sum(table * table, axis=1)  # [clusters]

    def assign(frames: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = frames.astype(jnp.float32).reshape(-1, frames.shape[-1])  # [N, D]
        products = jnp.matmul(rows, table.T, precision="highest")  # [N, clusters]
        distances = norms[None, :] - 2 * products  # less the row's own norm, which moves no minimum
        labels = jnp.argmin(distances, axis=1).astype(jnp.int32)
        nearest = jnp.min(distances, axis=1) + jnp.sum(rows * rows, axis=1)
        shape = frames.shape[:-1]
        return labels.reshape(shape), jnp.maximum(nearest, 0.0).reshape(shape)

    return jax.jit(assign)


class Tally:
    """Counts labels clip by clip, for `quality`.

    Args:
        clusters: Labels are below this.
        classes: Of clips, 0 if they have none.
    """

    def __init__(self, clusters: int, classes: int = 0) -> None:
        self.counts = np.zeros(clusters, np.int64)
        self.joint = np.zeros((classes, clusters), np.int64)
        """[classes, clusters] frames of each pair."""

    def add(self, labels: NDArray[np.integer], clip_class: int = -1) -> None:
        """Counts the labels [T] of a clip, whose class is -1 if unknown."""
        counts = np.bincount(labels, minlength=len(self.counts))
        self.counts += counts
        if 0 <= clip_class < len(self.joint):
            self.joint[clip_class] += counts


def quality(tally: Tally, inertia_per_frame: float | None = None) -> dict[str, Any]:
    """What can be said of labels without training on them.

    Entropies are in nats; perplexity is exp(entropy), the number of clusters that would be as
    uncertain if all were alike. Where classes of clips are known, every frame of a clip counts as
    one of its class: class purity is the share of frames whose class is the commonest of their
    cluster, cluster purity the reverse, and PNMI the mutual information over the entropy of classes
    (HuBERT's measures, with classes of clips for phones). Class purity and PNMI grow with the
    number of clusters, so compare labels of as many.

    Args:
        tally: Of all clips.
        inertia_per_frame: Mean squared distance of frames to their centroids, where known.
    """
    frames = int(tally.counts.sum())
    shares = tally.counts / max(frames, 1)
    entropy = _entropy(shares)
    found: dict[str, Any] = {
        "frames": frames,
        "inertia_per_frame": inertia_per_frame,
        "used_clusters": int(np.count_nonzero(tally.counts)),
        "largest_share": float(shares.max()),
        "entropy": entropy,
        "perplexity": float(np.exp(entropy)),
    }
    labelled = tally.joint.sum()
    if labelled and np.count_nonzero(tally.joint.sum(axis=1)) > 1:
        joint = tally.joint / labelled
        classes, clusters = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
        information = classes + clusters - _entropy(joint.ravel())
        found |= {
            "classes": int(np.count_nonzero(tally.joint.sum(axis=1))),
            "class_purity": float(joint.max(axis=0).sum()),
            "cluster_purity": float(joint.max(axis=1).sum()),
            "pnmi": float(information / classes),
        }
    return found


def _entropy(shares: NDArray[np.float64]) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())
