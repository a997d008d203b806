"""Chips by the figures that their makers publish. Nothing here was measured."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One accelerator; what a program sees as one device."""

    name: str
    bf16_flops: float
    """Peak per second, dense."""
    fp32_flops: float
    """Peak per second of products of float32 arrays at JAX's default precision."""
    hbm_bytes: int
    """What a program may use."""
    hbm_bytes_per_second: float
    link_bytes_per_second: float
    """One way, of one link; of a chip behind a switch, of all its links together."""
    torus_axes: int
    """Two links per axis to neighbours; 0: a switch joins all chips."""
    closes_at: int = 0
    """An axis whose length is a multiple of this is a ring; others are lines."""
    between_slices_bytes_per_second: float = 0.0
    """Share of a chip in its host's network, one way."""

    def bytes_per_second(self, shape: tuple[int, ...]) -> float:
        """What a chip of a slice of this shape can send to its neighbours."""
        if not self.torus_axes:
            return self.link_bytes_per_second
        ways = (2 if length % self.closes_at == 0 else 1 for length in shape if length > 1)
        return self.link_bytes_per_second * sum(ways)


GIB = 2**30
# FLOPs, HBM and DCN: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}. Rates of links and which axes
# close to rings: "How to Scale Your Model", chapter 2 (jax-ml.github.io/scaling-book/tpus).
# Usable HBM: what libtpu 0.0.42 names when a program does not fit. Products of float32 arrays are
# one pass in bfloat16 unless jax_default_matmul_precision says otherwise.
# H100 SXM: nvidia.com/en-us/data-center/h100 (dense; NVLink 900 GB/s both ways together; float32
# products are TF32), memory and its bandwidth as openxla/xla's h100_sxm.txtpb has them; JAX takes
# three quarters of it, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
CHIPS = {
    "v4": Chip("TPU v4", 275e12, 275e12, int(30.75 * GIB), 1.2e12, 4.5e10, 3, 4, 6.25e9),
    "v5e": Chip("TPU v5e", 197e12, 197e12, int(15.75 * GIB), 8.19e11, 4.5e10, 2, 16, 3.125e9),
    "v5p": Chip("TPU v5p", 459e12, 459e12, int(95.74 * GIB), 2.765e12, 9e10, 3, 4, 6.25e9),
    "v6e": Chip("TPU v6e", 918e12, 918e12, int(31.25 * GIB), 1.638e12, 9e10, 2, 16, 12.5e9),
    "h100": Chip("NVIDIA H100 SXM", 989.4e12, 494.7e12, 63_707_234_304, 3.35232e12, 4.5e11, 0),
}

COMPUTE_UTILISATION = 0.4
"""Assumed share of peak FLOPs. Well-tuned transformers reach .4 to .6 on these chips; convolutions
of 512 channels and a width of 768 are no reason for more."""
MEMORY_UTILISATION = 0.8
LINK_UTILISATION = 0.8
HOP_SECONDS = 1e-6
"""Latency from a chip to its neighbour, as the same chapter has it."""


@dataclass(frozen=True)
class StepTime:
    """Where the time of a step goes, in seconds, by rates and assumed utilisation."""

    compute: float
    memory: float
    network: float

    @property
    def seconds(self) -> float:
        """As if no exchange overlapped with anything else; the true time may be less by that."""
        return max(self.compute, self.memory) + self.network


def step_time(
    chip: Chip,
    shape: tuple[int, ...],
    *,
    precision: str,
    flops: float,
    bytes_accessed: float,
    wire_bytes: float,
) -> StepTime:
    """An estimate for one device from what its program does.

    Args:
        chip: The device.
        shape: Of the slice.
        precision: `train.precision`.
        flops: Of one step.
        bytes_accessed: Between HBM and the chip, as the compiler counts them: an upper bound, since
            it takes nothing for granted that stays on the chip between two fusions.
        wire_bytes: That the device sends.
    """
    peak = chip.bf16_flops if precision == "bf16" else chip.fp32_flops
    return StepTime(
        compute=flops / (peak * COMPUTE_UTILISATION),
        memory=bytes_accessed / (chip.hbm_bytes_per_second * MEMORY_UTILISATION),
        network=wire_bytes / (chip.bytes_per_second(shape) * LINK_UTILISATION),
    )


def all_reduce_seconds(
    payload_bytes: float, chip: Chip, shape: tuple[int, ...], slices: int = 1
) -> float:
    """Time to add up an array over all chips of one or several slices, each in whole.

    Within a slice a reduce-scatter and an all-gather over all its axes; between slices, in the
    middle of the two, each chip exchanges its own part over the hosts' network.

    Args:
        payload_bytes: Of the array on each chip.
        chip: Of which the slices are made.
        shape: Of one slice.
        slices: How many.
    """
    chips = math.prod(shape)
    rate = chip.bytes_per_second(shape) * LINK_UTILISATION
    seconds = 0.0
    if chips > 1:
        hops = sum(2 * (length - 1) for length in shape)
        seconds += 2 * (chips - 1) / chips * payload_bytes / rate + hops * HOP_SECONDS
    if slices > 1:
        between = chip.between_slices_bytes_per_second * LINK_UTILISATION
        seconds += 2 * (slices - 1) / slices * (payload_bytes / chips) / between
    return seconds
