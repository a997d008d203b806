"""The largest batch that fits, for ways of saving memory."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, get_args

from tools.ahead.program import Request, compile_step
from voc2vec_jax.config import Config
from voc2vec_jax.config.train import Remat

MOST_UNITS = 1_024
"""Beyond so many multiples of the smallest batch nobody asks."""


def largest(fits: Callable[[int], bool], guess: int, most: int) -> int:
    """The largest number from 1 to `most` that fits, if all below it do; 0 if none does.

    A good guess saves trials: the search goes away from it in steps that double.
    """
    low, high, step = 0, most + 1, 1  # low fits, high does not
    trial = min(max(guess, 1), most)
    while high - low > 1:
        if fits(trial):
            low, trial = trial, trial + step
        else:
            high, trial = trial, trial - step
        step *= 2
        if not low < trial < high:
            trial = (low + high) // 2
    return low


def sweep(request: Request) -> Iterator[dict[str, Any]]:
    """For every mesh and way of rematerialising, the report of the largest batch that fits.

    Where none does, the report is that of the smallest one. Meshes differ in `mesh.fsdp` (1, 8, or
    all devices); `mesh.tensor` and everything else is the configuration's.
    """
    devices = len(request.topology.devices)
    tensor = max(request.config.mesh.tensor, 1)
    batch_devices = devices // tensor
    for fsdp in sorted({f for f in (1, 8, batch_devices) if batch_devices % f == 0}):
        mesh = dataclasses.replace(request.config.mesh, data=batch_devices // fsdp, fsdp=fsdp)
        for remat in get_args(Remat):
            train = dataclasses.replace(request.config.train, remat=remat)
            config = dataclasses.replace(request.config, mesh=mesh, train=train)
            yield largest_batch(dataclasses.replace(request, config=config), batch_devices)


def largest_batch(request: Request, batch_devices: int) -> dict[str, Any]:
    """The report of the largest batch that fits; of the smallest, if not even that does.

    Args:
        request: Says everything but the batch.
        batch_devices: What clips have to divide over, besides micro-batches.
    """
    config = request.config
    parts = batch_devices * config.train.accumulate_steps
    unit = math.lcm(config.data.batch_multiple, parts)
    reports: dict[int, dict[str, Any]] = {}

    def compiled(units: int) -> dict[str, Any]:
        if units not in reports:
            changed = with_clips(config, units * unit, request.seconds)
            reports[units] = compile_step(dataclasses.replace(request, config=changed))
        return reports[units]

    memory = compiled(1)["bytes"]
    guess = 1
    if memory["temporaries"]:
        guess = int((memory["limit"] - memory["arguments"]) / memory["temporaries"])
    return compiled(max(largest(lambda n: bool(compiled(n)["fits"]), guess, MOST_UNITS), 1))


def with_clips(config: Config, clips: int, seconds: float) -> Config:
    """The configuration with batches of so many clips in the bucket of `seconds`."""
    data = dataclasses.replace(
        config.data,
        bucket_seconds=(seconds,),
        max_seconds=seconds,
        batch_clips=None,
        batch_multiple=clips,
        batch_seconds=clips * seconds,
    )
    return dataclasses.replace(config, data=data)
