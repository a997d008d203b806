"""The works in this package; never loads PyTorch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from tools.benchmarking import work
from tools.benchmarking.work import WORKS, Request, Work
from voc2vec_jax.checkpoints import loading
from voc2vec_jax.checkpoints.source import read_source
from voc2vec_jax.config import (
    Config,
    MaskConfig,
    MeshConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)
from voc2vec_jax.distributed import sharding
from voc2vec_jax.features import frames
from voc2vec_jax.features.kmeans import assigner
from voc2vec_jax.models import ModelOutput
from voc2vec_jax.models.parameters import Params, describe, merge
from voc2vec_jax.objectives import Wav2Vec2Task
from voc2vec_jax.training.update import Training

jax.devices()  # starting JAX is part of no measurement


def versions() -> dict[str, str]:
    """What was measured."""
    return {"jax": jax.__version__, "device": jax.devices()[0].device_kind}


def prepare(request: Request) -> Callable[[], float]:
    """A function that does the work once, waits for it, and returns a figure to compare."""
    name, folder = WORKS[request.work], request.folder
    if request.work == "load":
        return lambda: _load(folder)
    if request.work == "inference":
        return _inference(name, folder)
    if request.work == "labels":
        return _labels(name, folder)
    return (_pretraining if request.work == "pretrain" else _fine_tuning)(name, folder)


def _load(folder: str) -> float:
    model = loading.from_pretrained(folder)
    values = (np.asarray(value).reshape(-1) for value in model.params.values())
    return float(sum(float(np.vdot(value, value)) for value in values))


def _inference(given: Work, folder: str) -> Callable[[], float]:
    model, waveform = loading.from_pretrained(folder), given.waveform()

    def run() -> float:
        out = model(waveform)
        assert isinstance(out, ModelOutput)
        return float(np.abs(np.asarray(out.last_hidden_state)).mean())

    return run


def _labels(given: Work, folder: str) -> Callable[[], float]:
    model, clips = loading.from_pretrained(folder, padding="masked"), given.waveforms()
    layer = frames.LayerFeatures(model, model.config.num_hidden_layers // 2)
    assign = assigner(work.centroids(layer.width))
    plan = frames.batches([len(clip) for clip in clips])

    def run() -> float:
        made = frames.stream(layer, clips.__getitem__, plan, assign)
        return float(np.mean(np.concatenate([labels for batch in made for labels, _ in batch])))

    return run


def _fine_tuning(given: Work, folder: str) -> Callable[[], float]:
    model = loading.from_pretrained(folder)
    graphdef, _ = describe(model.architecture, model.config)
    optimizer = optax.adamw(work.LEARNING_RATE, weight_decay=work.WEIGHT_DECAY)
    waveform, labels = given.waveform(), given.labels()

    def step(params: Params, state: Any, index: jax.Array) -> tuple[Params, Any, jax.Array]:
        key = jax.random.fold_in(jax.random.key(0), index) if given.dropout else None

        def loss_of(params: Params) -> jax.Array:
            whole: Any = merge(graphdef, params)
            logits = whole(waveform, key=key).logits
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    compiled = jax.jit(step, donate_argnums=(0, 1))
    held = {"params": model.params, "state": jax.jit(optimizer.init)(model.params), "index": 0}
    del model

    def run() -> float:
        held["params"], held["state"], loss = compiled(held["params"], held["state"], held["index"])
        held["index"] += 1
        jax.block_until_ready(held["params"])
        return float(loss)

    return run


def _pretraining(given: Work, folder: str) -> Callable[[], float]:
    config = Config(
        model=read_source(Path(folder)).config,
        mask=MaskConfig(),
        objective=ObjectiveConfig(
            feature_grad_mult=work.FEATURE_GRAD_MULT,
            feature_penalty_weight=work.FEATURE_PENALTY_WEIGHT,
            gumbel_temperature_start=work.GUMBEL_TEMPERATURE,
        ),
        optim=OptimConfig(
            learning_rate=work.LEARNING_RATE, warmup_steps=0, weight_decay=work.WEIGHT_DECAY
        ),
        train=TrainConfig(),
    )
    task = Wav2Vec2Task(config)
    training = Training(config, task, sharding.build_mesh(MeshConfig()))
    params, _ = loading.load_params(folder, task.architecture, config.model)
    held = {"state": training.initial_state(params)}
    del params
    waveform = given.waveform()
    lengths = np.full(given.clips, waveform.shape[1], np.int32)
    batch = sharding.place_batch({"waveform": waveform, "lengths": lengths}, training.mesh)

    def run() -> float:
        held["state"], metrics = training.step(held["state"], batch)
        jax.block_until_ready(held["state"])
        return float(metrics["loss"].total / metrics["loss"].count)

    return run
