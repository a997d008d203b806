"""Fine-tuning against PyTorch: the same weights and batches, nothing random, the same curve."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.conftest import ARCHITECTURES, NO_DROPOUT, TINY
from tests.reference import clips, hf_model, tensors_of
from voc2vec_jax.checkpoints import convert
from voc2vec_jax.config import (
    ClassifyConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from voc2vec_jax.distributed import sharding
from voc2vec_jax.models.architectures import CLASSIFIERS
from voc2vec_jax.models.parameters import describe
from voc2vec_jax.objectives import ClassifyTask
from voc2vec_jax.training.update import Training

CLASS_WEIGHTS = np.array([0.4, 1.3, 2.5], np.float32)
OPTIM = OptimConfig(
    learning_rate=5e-4,
    warmup_steps=10,
    beta1=0.9,
    beta2=0.999,
    epsilon=1e-8,
    epsilon_placement="torch",
    weight_decay=0.0,
    clip_norm=1.0,
)


def batch_of(step: int, samples: int, rows: int) -> dict[str, np.ndarray]:
    """Four batches that come again and again; each class has a pitch of its own."""
    rng = np.random.default_rng(step % 4)
    lengths = [samples, *rng.integers(samples // 3, samples, rows - 1).tolist()]
    waveform, sizes = clips(lengths, seed=step % 4)
    labels = rng.integers(0, 3, rows).astype(np.int32)
    time = np.arange(samples) / 16_000
    tones = np.sin(2 * np.pi * 300 * (1 + labels[:, None]) * time).astype(np.float32)
    waveform = np.where(waveform != 0, 0.3 * waveform + tones, 0).astype(np.float32)
    return {
        "waveform": waveform,
        "lengths": sizes,
        "labels": labels,
        "weight": CLASS_WEIGHTS[labels],
    }


def compare(
    model: ModelConfig, steps: int, samples: int, rows: int, optim: OptimConfig = OPTIM
) -> dict[str, float]:
    """Largest differences of losses (relative) and of final logits (absolute)."""
    config = Config(
        task="classify",
        model=model,
        data=DataConfig(batch_clips=rows),
        classify=ClassifyConfig(padding="hf"),
        optim=optim,
        train=TrainConfig(num_steps=steps),
    )
    reference = hf_model(CLASSIFIERS[model.model_type].__name__, model).train()
    _, expected = describe(CLASSIFIERS[model.model_type], model)
    params, _ = convert.from_hf(tensors_of(reference), expected)
    mesh = sharding.build_mesh(config.mesh, jax.devices()[:1])
    training = Training(config, ClassifyTask(config), mesh)
    state = training.initial_state(params)

    optimizer = torch.optim.AdamW(
        reference.parameters(), lr=optim.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0
    )

    def rate(done: int) -> float:  # transformers.get_linear_schedule_with_warmup
        warmup = optim.warmup_steps
        return done / warmup if done < warmup else max(0.0, (steps - done) / max(1, steps - warmup))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    curve = []
    for step in range(steps):
        batch = batch_of(step, samples, rows)
        state, metrics = training.step(state, sharding.place_batch(batch, training.mesh))
        optimizer.zero_grad()
        logits = reference(torch.tensor(batch["waveform"])).logits
        loss = functional.cross_entropy(
            logits, torch.tensor(batch["labels"]).long(), weight=torch.tensor(CLASS_WEIGHTS)
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        curve.append((float(metrics["loss"].total / metrics["loss"].count), float(loss.detach())))
    batch = batch_of(1, samples, rows)
    ours = training.predict(state["params"], sharding.place_batch(batch, training.mesh))
    with torch.no_grad():
        theirs = reference.eval()(torch.tensor(batch["waveform"])).logits.numpy()
    losses = np.array(curve)
    assert losses[-4:, 1].mean() < 0.95 * losses[:4, 1].mean(), "it has to learn something"
    return {
        "loss": float(np.max(np.abs(losses[:, 0] - losses[:, 1]) / losses[:, 1])),
        "logits": float(np.abs(np.asarray(ours) - theirs).max()),
        "last loss": float(losses[-1, 1]),
    }


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        ("wav2vec2", "base"),
        pytest.param("hubert", "large", marks=pytest.mark.thorough),
        pytest.param("wav2vec2", "large", marks=pytest.mark.slow),
        pytest.param("hubert", "base", marks=pytest.mark.slow),
    ],
)
def test_fifty_steps_of_tiny_models(family: str, layout: str) -> None:
    model = ModelConfig(
        **{**TINY, **NO_DROPOUT, **ARCHITECTURES[layout]},
        model_type=family,
        labels=("a", "b", "c"),
        apply_spec_augment=False,
    )
    found = compare(model, steps=50, samples=4_000, rows=4)
    print(found)
    assert found["loss"] <= 1e-4
    assert found["logits"] <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("family", CLASSIFIERS)
def test_steps_of_base_models(family: str) -> None:
    model = ModelConfig(
        **NO_DROPOUT, model_type=family, labels=("a", "b", "c"), apply_spec_augment=False
    )
    optim = dataclasses.replace(OPTIM, learning_rate=1e-4, warmup_steps=2)
    found = compare(model, steps=10, samples=8_000, rows=3, optim=optim)
    print(found)
    assert found["loss"] <= 1e-4
    assert found["logits"] <= 1e-3


@pytest.mark.unoptimised
def test_weights_below_one_do_not_change_the_mean() -> None:
    """A batch whose weights add up to less than 1 is divided by just that, as in PyTorch."""
    model = ModelConfig(**{**TINY, **NO_DROPOUT}, labels=("a", "b", "c"), apply_spec_augment=False)
    config = Config(
        task="classify",
        model=model,
        optim=dataclasses.replace(OPTIM, warmup_steps=0),
        train=TrainConfig(num_steps=4),
    )
    mesh = sharding.build_mesh(config.mesh, jax.devices()[:1])
    training = Training(config, ClassifyTask(config), mesh)
    batch = batch_of(0, 4_000, 4)
    norms = []
    for scale in (1.0, 0.01):
        scaled = {**batch, "weight": (scale * batch["weight"]).astype(np.float32)}
        placed = sharding.place_batch(scaled, training.mesh)
        _, metrics = training.step(training.initial_state(), placed)
        norms.append(float(metrics["gradient_norm"].total))
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
