"""The pieces of fine-tuning: the loss, what is drawn, and the figures that choose an epoch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch.nn import functional

from tests.labelled_corpus import CLASSES, MODEL
from voc2vec_jax.config import ClassifyConfig, Config
from voc2vec_jax.objectives import ClassifyTask, build_task
from voc2vec_jax.objectives.losses import cross_entropy

CONFIG = Config(task="classify", model=dataclasses.replace(MODEL, labels=CLASSES))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_pytorch(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((6, 3)).astype(np.float32) * 5
    labels = rng.integers(0, 3, 6)
    expected = functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), reduction="none", label_smoothing=smoothing
    )
    found = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


class Says:
    """A model that says what it is told to."""

    def __init__(self, logits: np.ndarray):
        self.logits = jnp.asarray(logits)

    def __call__(self, *signal: object, **options: object) -> "Says":
        return self


def test_the_loss_is_pytorchs_weighted_mean_once_it_is_divided() -> None:
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((5, 3)).astype(np.float32)
    labels, weights = np.array([0, 2, 1, 0, 2]), np.array([0.2, 3.0, 1.0], np.float32)
    batch = {
        "waveform": jnp.zeros((5, 400)),
        "lengths": jnp.full(5, 400),
        "labels": jnp.asarray(labels),
        # The last row only fills up the batch.
        "weight": jnp.asarray(np.where(np.arange(5) < 4, weights[labels], 0)),
    }
    task = build_task(CONFIG)
    draws = task.draw(batch["lengths"], 400, jax.random.key(0), train=False)
    loss, count, metrics = task.loss(Says(logits), batch, draws, jnp.zeros(()))
    expected = functional.cross_entropy(
        torch.tensor(logits[:4]), torch.tensor(labels[:4]), weight=torch.tensor(weights)
    )
    assert float(loss / count) == pytest.approx(float(expected), rel=1e-5)
    correct = (logits[:4].argmax(1) == labels[:4]).sum()
    assert (float(metrics["accuracy"].total), float(metrics["accuracy"].count)) == (correct, 4)


@pytest.mark.parametrize("padding", ["masked", "hf"])
def test_spec_augment_hides_what_the_checkpoint_says(padding: str) -> None:
    """Within a clip; under `hf`, where nothing tells padding apart, anywhere."""
    model = dataclasses.replace(
        MODEL, mask_time_prob=0.3, mask_time_length=4, mask_feature_prob=0.4, mask_feature_length=2
    )
    config = dataclasses.replace(
        CONFIG,
        model=model,
        classify=ClassifyConfig(padding=padding),  # type: ignore[arg-type]
    )
    task, lengths = ClassifyTask(config), jnp.full(64, 16_000)
    draw = jax.jit(lambda key: task.draw(lengths, 64_000, key))
    draws = draw(jax.random.key(0))
    spans = np.asarray(draws.span_mask)
    inside, beyond = spans[:, :49].mean(), spans[:, 60:].mean()
    assert 0.1 < inside < 0.4
    assert (beyond > 0.1) == (padding == "hf")
    assert 0.2 < np.asarray(draws.channel_mask).mean() < 0.6
    other = draw(jax.random.key(1))
    assert not np.array_equal(other.span_mask, spans)
    assert draws.model_key is not None
    quiet = task.draw(lengths, 64_000, jax.random.key(0), train=False)
    assert jax.tree.leaves(quiet) == []
    off = dataclasses.replace(config, model=dataclasses.replace(model, apply_spec_augment=False))
    assert ClassifyTask(off).draw(lengths, 64_000, jax.random.key(0)).span_mask is None


@pytest.mark.parametrize("protocol", ["grouped", "paper"])
def test_figures_are_those_of_scikit_learn(protocol: str) -> None:
    """One class is absent; how it counts where it is predicted depends on the protocol."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 40).astype(np.int32)
    logits = rng.standard_normal((40, 3)).astype(np.float32)
    batch = {
        "clips": np.arange(40),
        "labels": labels,
        "weight": np.full(40, 2.0, np.float32),
        "lengths": np.full(40, 4_000),
    }
    figures = ClassifyTask(CONFIG, protocol).figures([(batch, logits)])  # type: ignore[arg-type]
    predicted = logits.argmax(1)
    assert (predicted == 2).any()
    assert figures["accuracy"] == pytest.approx((predicted == labels).mean())
    names = [0, 1, 2] if protocol == "paper" else [0, 1]
    macro = f1_score(labels, predicted, labels=names, average="macro", zero_division=0.0)
    assert figures["macro_f1"] == pytest.approx(macro)
    if protocol == "grouped":
        per_class = [(predicted[labels == label] == label).mean() for label in (0, 1)]
        assert figures["uar"] == pytest.approx(np.mean(per_class))
        with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
            assert figures["uar"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    expected = functional.cross_entropy(torch.tensor(logits), torch.tensor(labels).long())
    assert figures["loss"] == pytest.approx(float(expected), rel=1e-5)
