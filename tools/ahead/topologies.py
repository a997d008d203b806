"""Devices by name: of TPU slices and GPU hosts that are not there, or of this machine's CPU."""

import importlib.metadata
import importlib.util
import math
import os
import re
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from tools.ahead.chips import CHIPS, Chip
from voc2vec_jax.errors import ConfigError

KNOWN = {
    "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
    "v5e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"),
    "v6e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "h100": ("1", "2", "4", "8"),
    "cpu": ("1", "2", "4", "8"),
}
"""Shapes that are worth trying; libtpu decides."""

# What the compiler would ask the GPU, as XLA's protocol buffer `GpuTargetConfig`: the limits of
# compute capability 9.0 as in the CUDA programming guide, the rest as in CHIPS.
H100_TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024  thread_dim_limit_y: 1024  thread_dim_limit_z: 64
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  device_memory_size: 84942979072  memory_bandwidth: 3352320000000  l2_cache_size: 52428800
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9  minor: 10  patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclass(frozen=True)
class Topology:
    """Devices to compile for."""

    name: str
    shape: tuple[int, ...]
    devices: tuple[jax.Device, ...]
    chip: Chip | None
    """None for a CPU, of which nothing is published."""
    limit_bytes: int
    """What a device can hold."""

    @property
    def compiler_options(self) -> dict[str, bool | float]:
        """What compiling without the devices needs besides."""
        # Its tile sizes are found by trying them out on the device.
        return {"xla_gpu_enable_triton_gemm": False} if self.name.startswith("h100") else {}

    @property
    def versions(self) -> dict[str, str]:
        """Of what compiles for it, besides JAX."""
        if self.chip is None:
            return {}
        package = "jax-cuda12-plugin" if self.name.startswith("h100") else "libtpu"
        return {package: importlib.metadata.version(package)}


def parse_name(name: str) -> tuple[str, tuple[int, ...]]:
    """`v5e:4x4` as ("v5e", (4, 4)).

    Raises:
        ConfigError: It is not such a name.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if match is None or match[1] not in KNOWN:
        known = "; ".join(f"{kind}:{{{', '.join(shapes)}}}" for kind, shapes in KNOWN.items())
        raise ConfigError(f"--topology {name}: not known; try one of {known}")
    return match[1], tuple(int(length) for length in match[2].split("x"))


def find_topology(name: str) -> Topology:
    """The devices of a topology.

    Raises:
        ConfigError: The name is not known, or what compiles for it is not installed.
    """
    kind, shape = parse_name(name)
    chip = CHIPS.get(kind)
    if kind == "cpu":
        devices = _cpu_devices(name, math.prod(shape))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Topology(name, shape, devices, chip, memory // len(devices))
    assert chip is not None
    devices = _gpu_devices(name, shape) if kind == "h100" else _tpu_devices(name, kind, shape)
    return Topology(name, shape, devices, chip, chip.hbm_bytes)


def _cpu_devices(name: str, count: int) -> tuple[jax.Device, ...]:
    present = jax.devices("cpu")
    if len(present) < count:
        raise ConfigError(
            f"--topology {name}: JAX shows {len(present)} CPU devices; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
        )
    return tuple(present[:count])


def _tpu_devices(name: str, kind: str, shape: tuple[int, ...]) -> tuple[jax.Device, ...]:
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(f"--topology {name}: the TPU compiler is missing; pip install '.[aot]'")
    options: dict[str, object] = {}
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # or a chip would be two devices
    if math.prod(shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        devices = topologies.get_topology_desc(name, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        if "lockfile" in str(error) or "in use" in str(error):
            raise ConfigError(
                f"--topology {name}: another process holds libtpu; wait until it ends, or remove "
                f"/tmp/libtpu_lockfile if there is none ({str(error).splitlines()[0]})"
            ) from error
        raise ConfigError(
            f"--topology {name}: libtpu does not know it; try one of "
            f"{kind}:{{{', '.join(KNOWN[kind])}}} ({str(error).splitlines()[0]})"
        ) from error
    if len(devices) != math.prod(shape):
        raise ConfigError(
            f"--topology {name}: libtpu makes {len(devices)} devices of {math.prod(shape)} chips"
        )
    return tuple(devices)


def _gpu_devices(name: str, shape: tuple[int, ...]) -> tuple[jax.Device, ...]:
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        raise ConfigError(
            f"--topology {name}: the CUDA compiler is missing; pip install 'jax[cuda12-local]' at "
            f"the version of JAX, {jax.__version__}"
        )
    bounds = f"1x1x{math.prod(shape)}"  # slices × hosts × GPUs
    described = topologies.get_topology_desc(
        bounds, "cuda", target_config=H100_TARGET, topology=bounds
    )
    return tuple(described.devices)
