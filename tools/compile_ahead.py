"""Compile a run's training step for devices that are not there: does it fit, how fast may it be?

No data and no accelerator is needed. The program is the very one that training would run, for the
longest bucket of the plan, which needs the most memory. TPU slices need the extra `aot`
(pip install '.[aot]'), H100s `jax[cuda12-local]`.

Examples:
  The base recipe on 16 chips of a TPU v5e:
    python -m tools.compile_ahead --config configs/wav2vec2_base.py --topology v5e:4x4
  With other values than the file has, as in training; all figures into a file:
    python -m tools.compile_ahead --config configs/hubert_large_voc125.py --topology v5e:16x16 \\
        --mesh.fsdp 8 --train.precision bf16 --train.remat layers --out out.json
  The largest batch that fits, by mesh and rematerialisation:
    python -m tools.compile_ahead --config configs/wav2vec2_base.py --topology v6e:4x4 --sweep
  For the CPU of this machine as four devices:
    python -m tools.compile_ahead --config configs/tiny.py --topology cpu:4
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from voc2vec_jax.cli.command import run
from voc2vec_jax.cli.config_files import parse_over_config
from voc2vec_jax.config import Config


@dataclass(frozen=True)
class Arguments:
    """The command line; `run` holds the configuration with its overrides."""

    config: str
    """Configuration file; `FILE.py:NAME` picks another function of it than `get_config`."""
    topology: str
    """Kind and shape: v5e:4x4, v5e:16x16, v4:4x4x4, v6e:4x4, v5p:2x2x2, h100:8, cpu:4."""
    run: Annotated[Config, tyro.conf.arg(name="")]
    json: bool = False
    """Print all figures as JSON instead of tables."""
    out: Path | None = None
    """Also write that JSON here, after each program."""
    effort: Literal["low", "default"] = "low"
    """Of the compiler. `low` takes a fraction of the time and bounds memory from above; `default`
    is what training uses."""
    every_bucket: bool = False
    """Compile for the other buckets too."""
    sweep: bool = False
    """Find the largest batch that fits, for three meshes and every `train.remat`."""


def parse(argv: Sequence[str]) -> Arguments:
    """The command line on top of the configuration file that it names; see `parse_over_config`."""
    return parse_over_config(Arguments, argv, __doc__, "tools.compile_ahead")


def prepare_environment(topology: str) -> None:
    """What JAX and libtpu read when they are loaded."""
    # The CPU is where JAX itself runs; libtpu would ask a Google host what it is.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is taken
    kind, _, count = topology.partition(":")
    flag = "--xla_force_host_platform_device_count"
    flags = os.environ.get("XLA_FLAGS", "")
    if kind == "cpu" and count.isdecimal() and flag not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}={count}".strip()


def reports(arguments: Arguments) -> Iterator[dict[str, Any]]:
    """What was asked for, program by program; the longest bucket first."""
    from tools.ahead.program import Request, compile_step
    from tools.ahead.sweep import sweep
    from tools.ahead.topologies import find_topology

    topology = find_topology(arguments.topology)
    buckets = arguments.run.data.used_bucket_seconds[::-1]
    requests = [
        Request(arguments.run, topology, seconds, arguments.effort)
        for seconds in (buckets if arguments.every_bucket else buckets[:1])
    ]
    found = sweep(requests[0]) if arguments.sweep else map(compile_step, requests)
    for report in found:
        yield {"config": arguments.config, **report}


def compile_ahead(arguments: Arguments) -> None:
    """Compiles, shows what it sees as it goes, and writes it.

    Raises:
        ConfigError: The topology is not known, or mesh, model and batch do not go with it.
    """
    prepare_environment(arguments.topology)
    from tools.ahead import display
    from voc2vec_jax.files import write_json

    console, done = Console(stderr=arguments.json), []
    for report in reports(arguments):
        done.append(report)
        figures = {"sweep": done} if arguments.sweep else {**done[0], "buckets": done[1:]}
        if arguments.out:  # after each: a sweep takes long
            write_json(arguments.out, figures)
        if arguments.sweep:
            print(f"{display.title(report)}: {report['batch']['clips']} clips", file=sys.stderr)
            continue
        console.print(display.one(report))
        if not report["fits"]:
            console.print(report.get("compiler_says", "more than a device holds"), markup=False)
        console.print(display.assumptions(report))
    if arguments.sweep:
        console.print(display.swept(done))
    if arguments.json:
        print(json.dumps(figures, indent=2))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code. What does not fit is a finding, no failure."""
    return run(lambda: compile_ahead(parse(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    sys.exit(main())
