"""k-means assigns as scikit-learn does, and what is said of labels is what it says it is."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import mutual_info_score

from voc2vec_jax.features.kmeans import KMeansSettings, Tally, assigner, fit, quality

FEW = KMeansSettings(clusters=6, initialisations=3)


def blobs(frames: int = 3_000, width: int = 39, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = 30 * random.standard_normal((6, width))
    which = random.integers(0, 6, frames)
    return (centres[which] + random.standard_normal((frames, width))).astype(np.float32)


@pytest.mark.parametrize("width", [1, 39, 768])
def test_assignment_is_that_of_scikit_learn(width: int) -> None:
    random = np.random.default_rng(width)
    frames = (20 * random.standard_normal((2_000, width)) + 5).astype(np.float32)
    model = KMeans(40, n_init=1, max_iter=3, random_state=0).fit(frames)
    labels, distances = assigner(model.cluster_centers_)(frames)
    np.testing.assert_array_equal(labels, model.predict(frames))
    np.testing.assert_allclose(np.sum(distances), model.inertia_, rtol=1e-4)


def test_of_equally_near_centroids_the_first_wins() -> None:
    centroids = np.array([[5.0, 5.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], np.float32)
    labels, distances = assigner(centroids)(np.zeros((2, 3, 2), np.float32))
    assert np.asarray(labels).tolist() == [[1] * 3] * 2
    np.testing.assert_array_equal(distances, np.ones((2, 3)))


def test_the_fit_finds_what_is_there_and_repeats(tmp_path: Path) -> None:
    frames = blobs()
    found = fit(frames, FEW)
    assert found.centroids.shape == (6, 39)
    assert found.centroids.dtype == np.float32
    assert found.inertia_per_frame == pytest.approx(39, rel=0.05)  # unit variance in each dimension
    frames.tofile(tmp_path / "frames")
    mapped = np.memmap(tmp_path / "frames", np.float32, "r", shape=frames.shape)
    np.testing.assert_array_equal(fit(mapped, FEW).centroids, found.centroids)


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(ValueError, match=r"clusters=6: the sample has 5 frames; give fewer"):
        fit(blobs(5), FEW)


def test_the_settings_are_fairseqs() -> None:
    assert KMeansSettings() == KMeansSettings(
        clusters=100,
        seed=0,
        batch_frames=10_000,
        max_iterations=100,
        initialisations=20,
        patience_batches=100,
    )


def test_usage_and_entropy() -> None:
    tally = Tally(clusters=5)
    tally.add(np.array([0, 0, 1, 1]))
    tally.add(np.array([2, 2, 3, 3]))
    found = quality(tally, inertia_per_frame=3.5)
    assert found["frames"] == 8
    assert found["inertia_per_frame"] == 3.5
    assert found["used_clusters"] == 4
    assert found["largest_share"] == 0.25
    assert found["entropy"] == pytest.approx(np.log(4))
    assert found["perplexity"] == pytest.approx(4)
    assert "pnmi" not in found


def test_purity_and_mutual_information() -> None:
    """Counted by hand; mutual information by scikit-learn."""
    clips = [(0, [0, 0, 0, 1]), (1, [1, 1, 1, 2]), (-1, [4, 4, 4, 4])]
    tally = Tally(clusters=5, classes=2)
    for clip_class, labels in clips:
        tally.add(np.array(labels), clip_class)
    found = quality(tally)
    assert found["frames"] == 12  # those of the clip without a class too
    assert found["classes"] == 2
    assert found["class_purity"] == (3 + 3 + 1) / 8
    assert found["cluster_purity"] == (3 + 3) / 8
    of_frame = [clip_class for clip_class, labels in clips[:2] for _ in labels]
    information = mutual_info_score(of_frame, clips[0][1] + clips[1][1])
    assert found["pnmi"] == pytest.approx(information / np.log(2))


def test_labels_that_say_all_or_nothing_of_classes() -> None:
    for labels, pnmi in (([[0], [1]], 1.0), ([[0], [0]], 0.0)):
        tally = Tally(clusters=2, classes=2)
        for clip_class, of_clip in enumerate(labels):
            tally.add(np.array(of_clip), clip_class)
        assert quality(tally)["pnmi"] == pytest.approx(pnmi)
