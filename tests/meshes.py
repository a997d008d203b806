"""Trains the same models on several meshes of 8 virtual devices; prints what it saw as JSON.

A process of its own, because the number of devices is fixed when JAX starts; see `test_meshes.py`.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.reference import clips
from voc2vec_jax.audio.frame_grid import frames_from_samples
from voc2vec_jax.checkpoints.orbax import Checkpoints
from voc2vec_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from voc2vec_jax.distributed import sharding
from voc2vec_jax.models.parameters import merge
from voc2vec_jax.objectives import Draws, Wav2Vec2Task, build_task
from voc2vec_jax.training.update import Training

STEPS = 20
MESHES = {
    "one device": (1, 1, 1),
    "data": (8, 1, 1),
    "fsdp": (1, 8, 1),
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
CONFIGS = {
    "wav2vec2": CONFIG,
    "hubert": dataclasses.replace(
        CONFIG,
        task="hubert",
        model=dataclasses.replace(
            CONFIG.model,
            model_type="hubert",
            final_dim=8,
            num_clusters=12,
            # The layout of large models, so that both are here.
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            conv_bias=True,
        ),
        data=DataConfig(labels="labels"),
    ),
    "classify": dataclasses.replace(
        CONFIG,
        task="classify",
        model=dataclasses.replace(
            CONFIG.model, labels=("cry", "laugh", "moan"), mask_time_prob=0.2, mask_time_length=2
        ),
    ),
}


def batch_of(step: int, task: str = "wav2vec2") -> dict[str, np.ndarray]:
    """Eight clips of noise of unequal length, with random labels where the task wants some."""
    waveform, lengths = clips([4_000, 3_700, 3_300, 3_000, 2_500, 2_000, 1_500, 900], seed=step)
    batch, random = {"waveform": waveform, "lengths": lengths}, np.random.default_rng(step)
    if task == "hubert":
        model = CONFIG.model
        frames = frames_from_samples(waveform.shape[1], model.conv_kernel, model.conv_stride)
        # -1: no label. The task ignores those of padding.
        batch["targets"] = random.integers(-1, 12, (len(lengths), frames)).astype(np.int32)
    if task == "classify":
        batch["labels"] = random.integers(0, 3, len(lengths)).astype(np.int32)
        # Weights of classes; the last row fills the batch and counts nowhere.
        batch["weight"] = np.where(np.arange(8) < 7, 0.5 + batch["labels"], 0).astype(np.float32)
    return batch


class Trace:
    """A run of a task on one mesh, update by update.

    For wav2vec 2.0 also the codes that were chosen, and how narrowly each one won.
    """

    def __init__(self, task: str, shape: tuple[int, int, int]):
        self.config = dataclasses.replace(CONFIGS[task], mesh=MeshConfig(*shape))
        devices = jax.devices()[: int(np.prod(shape))]
        mesh = sharding.build_mesh(self.config.mesh, devices)
        self.training = Training(self.config, build_task(self.config), mesh)
        self.state = self.training.initial_state()
        self.shardings = {
            path: list(value.sharding.spec) for path, value in self.state["params"].items()
        }
        self.figures: list[dict[str, float]] = []
        self.codes: list[np.ndarray] = []
        self.gaps: list[np.ndarray] = []
        for step in range(STEPS):
            if task == "wav2vec2":
                params = jax.device_get(self.state["params"])
                codes, gaps = choices(self.training, params, batch_of(step), step)
                self.codes.append(codes)
                self.gaps.append(gaps)
            self.state, figures = self.update(self.state, step)
            self.figures.append(figures)

    def update(self, state: dict[str, Any], step: int) -> tuple[dict[str, Any], dict[str, float]]:
        """The next state, and the means of all figures."""
        batch = sharding.place_batch(batch_of(step, self.config.task), self.training.mesh)
        state, metrics = self.training.step(state, batch)
        return state, {k: float(v.total) / float(v.count) for k, v in metrics.items()}


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


def relative(ours: float, theirs: float) -> float:
    """Relative difference; the absolute one from 0."""
    return abs(ours - theirs) / (abs(theirs) or 1.0)


def compare(trace: Trace, other: Trace) -> dict[str, Any]:
    """Largest relative difference of losses up to the first flipped code, and its narrow lead."""
    differences, flipped_gap = [0.0], None
    for step in range(STEPS):
        if trace.codes:
            flipped = trace.codes[step] != other.codes[step]
            if flipped.any():
                flipped_gap = float(np.max(np.minimum(trace.gaps[step], other.gaps[step])[flipped]))
                break
        differences.append(relative(trace.figures[step]["loss"], other.figures[step]["loss"]))
    return {
        "difference": max(differences),
        "compared": len(differences) - 1,
        "flipped_gap": flipped_gap,
    }


def largest_differences(trace: Trace, other: Trace) -> dict[str, float]:
    """Of every figure over all updates, relative."""
    return {
        name: max(
            relative(ours[name], theirs[name])
            for ours, theirs in zip(trace.figures, other.figures, strict=True)
        )
        for name in trace.figures[0]
    }


def moved(traces: dict[str, Trace], source: str) -> dict[str, Any]:
    """What becomes of the state that one mesh saved where others restore it."""
    seen = {}
    with tempfile.TemporaryDirectory() as folder:
        with Checkpoints(Path(folder), keep=1) as checkpoints:
            checkpoints.save(STEPS, traces[source].state, {})
        saved = [np.asarray(leaf) for leaf in jax.tree.leaves(traces[source].state)]
        for name, trace in traces.items():
            with Checkpoints(Path(folder), keep=None) as checkpoints:
                state = checkpoints.restore(STEPS, trace.training.described_state)
            found = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
            places = {
                path: list(value.sharding.spec) == trace.shardings[path]
                for path, value in state["params"].items()
            }
            seen[name] = {
                "leaves": len(found),
                "equal": all(a.tobytes() == b.tobytes() for a, b in zip(found, saved, strict=True)),
                "in place": all(places.values()),
                "next loss": trace.update(state, STEPS)[1]["loss"],
            }
    return seen


def main() -> None:
    report: dict[str, Any] = {"devices": len(jax.devices())}
    for task in CONFIGS:
        traces = {name: Trace(task, shape) for name, shape in MESHES.items()}
        reference = traces["one device"]
        report[task] = {
            "losses": [figures["loss"] for figures in reference.figures],
            "meshes": {
                name: {
                    **compare(trace, reference),
                    "shardings": trace.shardings,
                    "figures": largest_differences(trace, reference),
                }
                for name, trace in traces.items()
            },
        }
        if task == "hubert":
            report["moved"] = moved(traces, "fsdp")
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
