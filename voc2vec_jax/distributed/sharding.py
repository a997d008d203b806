"""Where arrays live: the only file that names mesh axes."""

import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import DictKey

from voc2vec_jax.config import MeshConfig, ModelConfig
from voc2vec_jax.distributed import processes
from voc2vec_jax.errors import ConfigError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
TENSOR_AXIS = (
    # Megatron's pairs: the first product is split by column, the second by row, so that nothing is
    # exchanged between them.
    (re.compile(r"\.attention\.[qkv]_proj\.(kernel|bias)$"), -1),
    (re.compile(r"\.attention\.out_proj\.kernel$"), 0),
    (re.compile(r"\.feed_forward\.intermediate_dense\.(kernel|bias)$"), -1),
    (re.compile(r"\.feed_forward\.output_dense\.kernel$"), 0),
)
"""Which axis of which parameters the tensor axis splits."""


def build_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices; one device gives the trivial mesh, by the same code.

    Raises:
        ConfigError: The axes do not multiply to the number of devices, or these belong to several
            TPU slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    fixed = math.prod(size for size in sizes if size != -1)
    shape = [len(devices) // fixed if size == -1 else size for size in sizes]
    if math.prod(shape) != len(devices):
        raise ConfigError(
            f"mesh=(data={config.data}, fsdp={config.fsdp}, tensor={config.tensor}): does not use "
            f"exactly the {len(devices)} devices present"
        )
    # Of GPUs that attribute counts hosts, which are no obstacle.
    slices = len({getattr(d, "slice_index", 0) for d in devices if d.platform == "tpu"})
    if slices > 1:
        raise ConfigError(f"mesh: the devices belong to {slices} TPU slices; use a single one")
    axis_types = (AxisType.Auto,) * len(shape)
    # `jax.make_mesh` lets an axis of the mesh be part of one of the torus on v5e only.
    placed = mesh_utils.create_device_mesh(shape, list(devices), allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=axis_types)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The one rule of where a parameter lies.

    Attention and feed-forward are split over the tensor axis; then the largest axis that is left
    and that the fsdp axis divides is split over that; anything else is replicated.

    Args:
        path: Its dotted name.
        shape: Its shape.
        mesh: The devices.
    """
    spec: list[str | None] = [None] * len(shape)
    for pattern, axis in TENSOR_AXIS:
        if mesh.shape["tensor"] > 1 and pattern.search(path):
            spec[axis] = "tensor"
    size = mesh.shape["fsdp"]
    free = [a for a, length in enumerate(shape) if spec[a] is None and length % size == 0]
    if size > 1 and free:
        spec[max(free, key=lambda axis: shape[axis])] = "fsdp"
    return PartitionSpec(*spec) if any(spec) else PartitionSpec()


def state_shardings(abstract_state: Any, mesh: Mesh) -> Any:
    """Shardings of parameters and of the optimiser's copies of them, by one rule."""

    def place(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        # Both are dicts by parameter path, however deep the optimiser keeps its own.
        name = path[-1].key if isinstance(path[-1], DictKey) else ""
        return NamedSharding(mesh, parameter_spec(name, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def gathered(sharding: NamedSharding) -> NamedSharding:
    """Where a parameter lies while it is computed with: whole along the fsdp axis.

    Left to choose, the partitioner multiplies with the parts in turn, for which programs for TPUs
    took up to 3.4 times the memory (docs/scaling.md).
    """
    axes = (None if axis == "fsdp" else axis for axis in sharding.spec)
    return NamedSharding(sharding.mesh, PartitionSpec(*axes))


def check_model(config: ModelConfig, mesh: Mesh) -> None:
    """Refuses a model whose heads or feed-forward width the tensor axis does not divide."""
    size = mesh.shape["tensor"]
    for name in ("num_attention_heads", "intermediate_size"):
        if getattr(config, name) % size:
            raise ConfigError(
                f"mesh.tensor={size}: does not divide model.{name}={getattr(config, name)}"
            )


def check_batch(rows: int, mesh: Mesh, accumulate_steps: int = 1) -> None:
    """Refuses a batch whose clips do not divide over micro-batches and devices."""
    devices = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    parts = devices * accumulate_steps
    if rows % parts:
        split = f"{accumulate_steps} micro-batches × " if accumulate_steps > 1 else ""
        raise ConfigError(
            f"a batch of {rows} clips does not divide over {split}data × fsdp = {devices} devices; "
            f"make data.batch_multiple a multiple of {parts}"
        )


def batch_share(mesh: Mesh) -> tuple[tuple[int, ...], int]:
    """Which blocks of rows of every batch the devices of this process hold, and of how many.

    Where the tensor axis spans processes, several of them hold the same block. Blocks of one
    process need not lie side by side: a mesh follows the wiring of the devices.
    """
    groups = mesh.devices.reshape(-1, mesh.shape["tensor"])
    here = jax.process_index()
    held = [i for i, group in enumerate(groups) if any(d.process_index == here for d in group)]
    return tuple(held), len(groups)


def connect(mesh: Mesh) -> None:
    """Lets devices of several processes meet that will exchange something along any axes.

    On CPUs those that meet for the first time wait for each other for 30 seconds only, and one
    process may compile its first update for longer than another.
    """
    processes.wait_for_all()
    for count in range(1, len(AXES) + 1):
        for axes in itertools.combinations(AXES, count):
            add = functools.partial(jax.lax.psum, axis_name=axes)
            meet = jax.shard_map(
                add, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec()
            )
            jax.block_until_ready(jax.jit(meet)(np.ones((), np.float32)))
    multihost_utils.sync_global_devices("connect")


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Clips split over the batch axes, whatever else an array has whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch as global arrays, clips split over the batch axes."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
