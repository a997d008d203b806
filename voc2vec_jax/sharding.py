"""Where arrays live: the only file that names mesh axes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from voc2vec_jax.config import ConfigError, MeshConfig

BATCH_AXES = ("data", "fsdp")


def build_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices; one device gives the trivial mesh, by the same code.

    Raises:
        ConfigError: The axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp]
    fixed = math.prod(size for size in sizes if size != -1)
    shape = [len(devices) // fixed if size == -1 else size for size in sizes]
    if math.prod(shape) != len(devices):
        raise ConfigError(
            f"mesh=(data={config.data}, fsdp={config.fsdp}): does not use exactly the "
            f"{len(devices)} devices present"
        )
    axis_types = (AxisType.Auto,) * len(shape)
    return jax.make_mesh(tuple(shape), BATCH_AXES, axis_types=axis_types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Splits the largest axis that the fsdp axis divides; anything else is replicated."""
    size = mesh.shape["fsdp"]
    candidates = [axis for axis, length in enumerate(shape) if length % size == 0]
    if size == 1 or not candidates:
        return PartitionSpec()
    largest = max(candidates, key=lambda axis: shape[axis])
    return PartitionSpec(*["fsdp" if axis == largest else None for axis in range(len(shape))])


def state_shardings(abstract_state: Any, mesh: Mesh) -> Any:
    """Shardings of parameters and optimiser state alike: one rule, by shape."""
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, parameter_spec(leaf.shape, mesh)), abstract_state
    )


def check_batch(rows: int, mesh: Mesh) -> None:
    """Refuses a batch whose clips the mesh does not divide."""
    devices = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if rows % devices:
        raise ConfigError(
            f"a batch of {rows} clips does not divide over data × fsdp = {devices} devices; "
            f"make data.batch_multiple a multiple of {devices}"
        )


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch as global arrays, clips split over the batch axes."""
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
