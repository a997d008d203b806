"""What the first update of a run shows: what was compiled, how large everything is, and where."""

import math
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from voc2vec_jax import compiling
from voc2vec_jax.checkpoints.orbax import State
from voc2vec_jax.objectives import Batch, Metrics
from voc2vec_jax.training import optimizer
from voc2vec_jax.training.update import Training

MIB = 2**20


def first_update(
    training: Training, state: State, batch: Batch, shapes: compiling.Shapes | None = None
) -> tuple[State, Metrics, dict[str, Any]]:
    """An update like any other, and a report of it.

    Args:
        training: The run.
        state: On the mesh; used up.
        batch: On the mesh.
        shapes: Says that this one is compiled, and how many are left.

    Returns:
        The next state, its figures, and the report: plain values, the sizes in bytes those of one
        device. What the platform does not tell is None.
    """
    described = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=value.sharding)
        for name, value in batch.items()
    }
    started = time.monotonic()
    with (shapes or compiling.Shapes()).first(batch):
        compiled = training.lower_step(described).compile()  # `step` finds it in JAX's cache
    compiled_at = time.monotonic()
    state, metrics = training.step(state, batch)
    ratio = jax.device_get(metrics["loss"])
    done_at = time.monotonic()
    loss = float(ratio.total / (ratio.count or 1))
    devices = list(training.mesh.devices.flat)
    report = {
        "step": int(state["step"]),
        "task": training.config.task,
        "first_loss": loss if math.isfinite(loss) else None,
        "compile_seconds": round(compiled_at - started, 3),
        "update_seconds": round(done_at - compiled_at, 3),
        "devices": {
            "count": len(devices),
            "kind": devices[0].device_kind,
            "processes": jax.process_count(),
        },
        "mesh": dict(training.mesh.shape),
        "batch": {name: list(value.shape) for name, value in batch.items()},
        "parameters": _parameters(training),
        "bytes_per_device": {
            "parameters": bytes_per_device(state["params"]),
            "optimizer_state": bytes_per_device(state["opt_state"]),
            **_program(compiled),
        },
        "device_memory": _device_memory(),
        "host_peak_memory_mib": peak_memory_mib(),
    }
    return state, metrics, report


def _parameters(training: Training) -> dict[str, Any]:
    """Numbers of parameters in all and by block, trained and frozen."""
    config, params = training.config, training.abstract_state["params"]
    trained = set(optimizer.trained_paths(config.optim, list(params)))
    blocks: dict[str, dict[str, int]] = {}
    for path, value in params.items():
        block = block_of(path, config.model.model_type)
        counts = blocks.setdefault(block, {"trained": 0, "frozen": 0})
        counts["trained" if path in trained else "frozen"] += math.prod(value.shape)
    everything = {k: sum(c[k] for c in blocks.values()) for k in ("trained", "frozen")}
    return {**everything, "blocks": blocks}


def block_of(path: str, model_type: str) -> str:
    """The part of a model that a parameter belongs to, by its Hugging Face name.

    Args:
        path: Dotted.
        model_type: `wav2vec2` or `hubert`: how the encoder is called inside larger models.
    """
    parts = path.removeprefix(f"{model_type}.").split(".")
    return ".".join(parts[:2]) if parts[0] == "encoder" else parts[0]


def bytes_per_device(tree: Any) -> int:
    """What a device holds of arrays, or of descriptions of arrays that say where they lie."""

    def held(leaf: jax.Array | jax.ShapeDtypeStruct) -> int:
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(map(held, jax.tree.leaves(tree)))


def _program(compiled: jax.stages.Compiled) -> dict[str, int | None]:
    """What the compiled update needs, as its compiler says."""
    names = {"arguments": "argument", "outputs": "output", "temporaries": "temp"}
    memory = compiled.memory_analysis()
    return {name: getattr(memory, f"{of}_size_in_bytes", None) for name, of in names.items()}


def _device_memory() -> dict[str, int | None] | None:
    """Of the first device of this process; CPUs do not say."""
    stats = jax.local_devices()[0].memory_stats()
    if not stats:
        return None
    return {name: stats.get(name) for name in ("peak_bytes_in_use", "bytes_limit")}


def peak_memory_mib() -> int:
    """Largest resident size of this process so far."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes // (1024 * 1024 if sys.platform == "darwin" else 1024)


def table(report: Mapping[str, Any]) -> str:
    """The report for people."""
    parameters, sizes, devices = (
        report["parameters"],
        report["bytes_per_device"],
        report["devices"],
    )
    loss = report["first_loss"]
    rows: list[tuple[str, Iterable[object]]] = [
        (block, (f"{counts['trained']:,}", f"{counts['frozen']:,}"))
        for block, counts in parameters["blocks"].items()
    ]
    rows.append(("all", (f"{parameters['trained']:,}", f"{parameters['frozen']:,}")))
    lines = [f"{'parameters':<28}{'trained':>14}{'frozen':>14}"]
    lines += ["{:<28}{:>14}{:>14}".format(block, *counts) for block, counts in rows]
    mesh = ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    known = [f"{k.replace('_', ' ')} {v / MIB:,.1f}" for k, v in sizes.items() if v is not None]
    lines += [
        f"devices   {devices['count']} × {devices['kind']} ({mesh}), processes "
        f"{devices['processes']}",
        "batch     " + ", ".join(f"{k} {v}" for k, v in report["batch"].items()),
        "MiB per device: " + ", ".join(known),
    ]
    memory = report["device_memory"]
    if memory is not None:
        told = [f"{k.replace('_', ' ')} {v / MIB:,.0f}" for k, v in memory.items() if v]
        lines.append("MiB of the first device: " + ", ".join(told))
    lines.append(
        f"first update (step {report['step']}): loss "
        f"{'not a number' if loss is None else f'{loss:.4g}'}, compiled in "
        f"{report['compile_seconds']:.1f} s, done in {report['update_seconds']:.1f} s, host peak "
        f"{report['host_peak_memory_mib']:,} MiB"
    )
    return "\n".join(lines)
