"""Trains the same model on several meshes of 8 virtual devices; prints what it saw as JSON.

A process of its own, because the number of devices is fixed when JAX starts; see `test_meshes.py`.
"""

import dataclasses
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.reference import clips
from voc2vec_jax import sharding
from voc2vec_jax.config import Config, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from voc2vec_jax.models.parameters import merge
from voc2vec_jax.tasks import Draws, Wav2Vec2Task
from voc2vec_jax.update import Training

STEPS = 20
MESHES = {
    "one device": (1, 1, 1),
    "data": (4, 1, 1),
    "fsdp": (1, 4, 1),
    "data and fsdp": (2, 2, 1),
    "all three": (2, 2, 2),
}
CONFIG = Config(
    model=ModelConfig(  # with the dropout and layer drop that are the defaults
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8, 8, 8),  # few, for they take the longest to compile
        conv_kernel=(10, 8, 8),
        conv_stride=(5, 8, 8),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_codevectors_per_group=4,
        codevector_dim=8,
        proj_codevector_dim=8,
        num_negatives=5,
    ),
    optim=OptimConfig(learning_rate=1e-3, warmup_steps=2),
    train=TrainConfig(num_steps=STEPS),
)


def batch_of(step: int) -> dict[str, np.ndarray]:
    """Eight clips of noise of unequal length."""
    waveform, lengths = clips([4_000, 3_700, 3_300, 3_000, 2_500, 2_000, 1_500, 900], seed=step)
    return {"waveform": waveform, "lengths": lengths}


class Trace:
    """A run on one mesh: loss, codes and how narrowly each code won, update by update."""

    def __init__(self, shape: tuple[int, int, int]):
        config = dataclasses.replace(CONFIG, mesh=MeshConfig(*shape))
        task = Wav2Vec2Task(config)
        devices = jax.devices()[: int(np.prod(shape))]
        training = Training(config, task, sharding.build_mesh(config.mesh, devices))
        state = training.initial_state()
        self.losses: list[float] = []
        self.codes: list[np.ndarray] = []
        self.gaps: list[np.ndarray] = []
        for step in range(STEPS):
            params = jax.device_get(state["params"])
            codes, gaps = choices(training, params, batch_of(step), step)
            self.codes.append(codes)
            self.gaps.append(gaps)
            batch = sharding.place_batch(batch_of(step), training.mesh)
            state, metrics = training.step(state, batch)
            self.losses.append(float(metrics["loss"].total / metrics["loss"].count))
        self.shardings = {
            path: list(value.sharding.spec) for path, value in state["params"].items()
        }


_compiled: dict[str, Any] = {}


def choices(
    training: Training, params: dict[str, np.ndarray], batch: dict[str, np.ndarray], step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes [B, T, G] that an update is about to choose, and each one's lead over the next best.

    Always computed on one device, by one program, so that only the parameters differ.
    """
    task = training.task
    assert isinstance(task, Wav2Vec2Task)

    def choose(
        params: dict[str, jax.Array], batch: dict[str, jax.Array], draws: Draws
    ) -> tuple[jax.Array, jax.Array]:
        model = merge(training._graphdef, params)
        features = model.wav2vec2(
            batch["waveform"], batch["lengths"], padding="masked"
        ).extract_features
        groups, entries = draws.gumbel.shape[2:]
        logits = model.quantizer.weight_proj(features).reshape(*features.shape[:2], groups, entries)
        noisy = logits + draws.gumbel
        best, second = jnp.moveaxis(jax.lax.top_k(noisy, 2)[0], -1, 0)
        return jnp.argmax(noisy, axis=-1), best - second

    if not _compiled:
        _compiled["choose"] = jax.jit(choose)
    key = jax.random.fold_in(jax.random.key(training.config.train.seed), step)
    draws = task.draw(jnp.asarray(batch["lengths"]), batch["waveform"].shape[1], key)
    codes, gaps = _compiled["choose"](params, batch, draws)
    counted = np.asarray(draws.span_mask)
    return np.asarray(codes)[counted], np.asarray(gaps)[counted]


def compare(trace: Trace, other: Trace) -> dict[str, Any]:
    """Largest relative difference of losses up to the first flipped code, and its narrow lead."""
    differences, flipped_gap = [0.0], None
    for step in range(STEPS):
        flipped = trace.codes[step] != other.codes[step]
        if flipped.any():
            flipped_gap = float(np.max(np.minimum(trace.gaps[step], other.gaps[step])[flipped]))
            break
        ours, theirs = trace.losses[step], other.losses[step]
        differences.append(abs(ours - theirs) / abs(theirs))
    return {
        "difference": max(differences),
        "compared": len(differences) - 1,
        "flipped_gap": flipped_gap,
    }


def main() -> None:
    traces = {name: Trace(shape) for name, shape in MESHES.items()}
    reference = traces["one device"]
    report = {
        name: {**compare(trace, reference), "shardings": trace.shardings}
        for name, trace in traces.items()
    }
    json.dump({"devices": len(jax.devices()), "losses": reference.losses, **report}, sys.stdout)


if __name__ == "__main__":
    main()
