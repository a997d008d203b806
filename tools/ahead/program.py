"""The training step of a configuration, compiled for some devices: memory, work, exchanges."""

import dataclasses
import math
import re
import time
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from tools.ahead import hlo
from tools.ahead.chips import (
    COMPUTE_UTILISATION,
    LINK_UTILISATION,
    MEMORY_UTILISATION,
    step_time,
)
from tools.ahead.topologies import Topology
from voc2vec_jax.audio.frame_grid import frames_from_samples
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.config import Config
from voc2vec_jax.distributed import sharding
from voc2vec_jax.objectives import build_task
from voc2vec_jax.training import precision
from voc2vec_jax.training.first_step import bytes_per_device
from voc2vec_jax.training.update import Training

Effort = Literal["low", "default"]
_OUT_OF_MEMORY = re.compile(
    r"\((?P<used>[\d.]+)(?P<used_unit>[KMGT])\) exceeds available HBM "
    r"\((?P<limit>[\d.]+)(?P<limit_unit>[KMGT])\)"
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def abstract_batch(config: Config, mesh: Mesh, seconds: float) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and places of a batch of the bucket of `seconds`, as training makes it.

    Raises:
        ConfigError: Its clips do not divide over micro-batches and devices.
    """
    rows = config.data.clips_per_batch(seconds)
    sharding.check_batch(rows, mesh, config.train.accumulate_steps)
    samples = round(seconds * SAMPLE_RATE)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "waveform": ((rows, samples), jnp.float32),
        "lengths": ((rows,), jnp.int32),
    }
    if config.task == "hubert":
        model = config.model
        frames = int(frames_from_samples(samples, model.conv_kernel, model.conv_stride))
        shapes["targets"] = ((rows, frames), jnp.int32)
    if config.task == "classify":
        shapes |= {"labels": ((rows,), jnp.int32), "weight": ((rows,), jnp.float32)}
        shapes["clips"] = ((rows,), jnp.int32)
    where = sharding.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=where)
        for name, (shape, dtype) in shapes.items()
    }


@dataclass(frozen=True)
class Request:
    """What to compile."""

    config: Config
    topology: Topology
    seconds: float
    """Of the bucket."""
    effort: Effort = "low"

    @property
    def options(self) -> dict[str, Any]:
        """For the compiler."""
        options: dict[str, Any] = dict(self.topology.compiler_options)
        chip = self.topology.chip
        if self.effort == "low" and chip is not None:
            options["exec_time_optimization_effort"] = -1.0
            if chip.torus_axes:
                # libtpu 0.0.42 otherwise overflows its stack (a segmentation fault in
                # FusedSpatialMajorConvolution) where bf16 blocks are rematerialised.
                options["xla_tpu_dot_dot_fusion"] = False
        return options


def compile_step(request: Request) -> dict[str, Any]:
    """Compiles `Training.step`; nothing is allocated and nothing runs.

    Returns:
        A report (see `docs/scaling.md`), all of one device unless it says otherwise. What the
        compiler did not get to, since the program does not fit, is None.

    Raises:
        ConfigError: The mesh does not fit the topology, the model or the batch.
    """
    config, topology = request.config, request.topology
    mesh = sharding.build_mesh(config.mesh, topology.devices)
    precision.check_sum_of_gradients(config.train, mesh)
    training = Training(config, build_task(config), mesh)
    batch = abstract_batch(config, mesh, request.seconds)
    state = training.described_state
    rows = batch["waveform"].shape[0]
    report: dict[str, Any] = {
        "topology": topology.name,
        "devices": len(topology.devices),
        "mesh": dict(mesh.shape),
        "parameters": sum(math.prod(leaf.shape) for leaf in state["params"].values()),
        "batch": {"clips": rows, "seconds": request.seconds},
        "accumulate_steps": config.train.accumulate_steps,
        "precision": config.train.precision,
        "remat": config.train.remat,
        "effort": request.effort if topology.chip else "default",
        "versions": {"jax": jax.__version__, **topology.versions},
        "bytes": {
            "arguments": None,
            "temporaries": None,
            "peak": None,
            "limit": topology.limit_bytes,
            "parameters": bytes_per_device(state["params"]),
            "optimizer": bytes_per_device(state["opt_state"]),
            "batch": bytes_per_device(batch),
        },
        **dict.fromkeys(("flops", "bytes_accessed", "collectives", "estimate")),
    }
    started = time.monotonic()
    lowered = training.lower_step(batch)
    report["lower_seconds"] = round(time.monotonic() - started, 1)
    started = time.monotonic()
    try:
        compiled = lowered.compile(compiler_options=request.options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        report |= {"fits": False, "compiler_says": _first_lines(str(error))}
        said = _OUT_OF_MEMORY.search(str(error))
        if said:
            report["bytes"] |= {
                name: round(float(said[where]) * _UNITS[said[f"{where}_unit"]])
                for name, where in (("peak", "used"), ("limit", "limit"))
            }
        return report | {"compile_seconds": round(time.monotonic() - started, 1)}
    report["compile_seconds"] = round(time.monotonic() - started, 1)
    _describe_memory(report, compiled)
    _describe_work(report, request, compiled)
    return report


def _describe_memory(report: dict[str, Any], compiled: jax.stages.Compiled) -> None:
    memory: Any = compiled.memory_analysis()
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    report["bytes"] |= {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "peak": max(needed, getattr(memory, "peak_memory_in_bytes", 0)),
    }
    report["fits"] = report["bytes"]["peak"] <= report["bytes"]["limit"]


def _describe_work(report: dict[str, Any], request: Request, compiled: jax.stages.Compiled) -> None:
    """FLOPs, bytes, collectives, and the time that these would take."""
    devices = report["devices"]
    costs: Any = compiled.cost_analysis() or {}
    # The compiler counts what is in a loop once; but for the optimiser, all of a step with
    # micro-batches is in their loop.
    for name, cost in (("flops", "flops"), ("bytes_accessed", "bytes accessed")):
        if costs.get(cost):  # the GPU's compiler counts nothing
            report[name] = costs[cost] * report["accumulate_steps"]
    found, unknown = hlo.collectives(compiled.as_text() or "")
    report["collectives"] = hlo.summary(found, devices)
    report["loops_of_unknown_length"] = unknown
    chip = request.topology.chip
    if chip is None or report["flops"] is None:
        return
    wire = sum(kind["wire_bytes"] for kind in report["collectives"].values())
    estimate = step_time(
        chip,
        request.topology.shape,
        precision=report["precision"],
        flops=report["flops"],
        bytes_accessed=report["bytes_accessed"],
        wire_bytes=wire,
    )
    audio = report["batch"]["clips"] * request.seconds
    report["estimate"] = {
        "step_seconds": estimate.seconds,
        **{f"{name}_seconds": value for name, value in dataclasses.asdict(estimate).items()},
        "audio_hours_per_hour": audio / estimate.seconds,
        "assumed": {
            "share_of_peak_flops": COMPUTE_UTILISATION,
            "share_of_hbm_rate": MEMORY_UTILISATION,
            "share_of_link_rate": LINK_UTILISATION,
            "overlap": "the larger of compute and memory, plus all of the network",
        },
    }


def _first_lines(text: str, count: int = 6) -> str:
    return "\n".join([line for line in text.splitlines() if line.strip()][:count])
