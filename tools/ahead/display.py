"""Reports as tables for people."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

GIB = 2**30


def gib(count: float | None) -> str:
    """Bytes in GiB, two places."""
    return "–" if count is None else f"{count / GIB:.2f}"


def fits(report: dict[str, Any]) -> str:
    """Yes or no."""
    return "yes" if report["fits"] else "no"


def one(report: dict[str, Any]) -> Table:
    """Everything about one program."""
    memory, batch = report["bytes"], report["batch"]
    shown = Table("of each device", "", title=title(report))
    for name, value in (
        ("parameters, GiB", gib(memory["parameters"])),
        ("optimiser state, GiB", gib(memory["optimizer"])),
        ("batch, GiB", gib(memory["batch"])),
        ("temporaries (activations), GiB", gib(memory["temporaries"])),
        ("peak, GiB", f"{gib(memory['peak'])} of {gib(memory['limit'])}"),
        ("fits", fits(report)),
    ):
        shown.add_row(name, value)
    if report["flops"] is not None:
        shown.add_row("FLOPs", f"{report['flops']:.3g}")
    if report["bytes_accessed"] is not None:
        shown.add_row("bytes to and from HBM, GiB", gib(report["bytes_accessed"]))
    for kind, entry in (report["collectives"] or {}).items():
        shown.add_row(kind, f"{entry['count']:,.0f} × together {gib(entry['bytes'])} GiB")
    estimate = report["estimate"]
    if estimate:
        parts = ", ".join(
            f"{name} {estimate[f'{name}_seconds']:.3f}" for name in ("compute", "memory", "network")
        )
        shown.add_row("estimated step, s", f"{estimate['step_seconds']:.3f} ({parts})")
        shown.add_row("estimated audio hours per hour", f"{estimate['audio_hours_per_hour']:,.0f}")
    shown.add_row("compiled in, s", f"{report['compile_seconds']:.0f} ({report['effort']} effort)")
    shown.caption = f"{batch['clips']} clips of {batch['seconds']:g} s per update, on all devices"
    return shown


def title(report: dict[str, Any]) -> str:
    """What was compiled for what."""
    mesh = " × ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    return (
        f"{report['config']} on {report['topology']} ({mesh}), {report['precision']}, "
        f"remat {report['remat']}, {report['parameters']:,} parameters"
    )


def assumptions(report: dict[str, Any]) -> str:
    """What the estimate of the step time rests on; empty without one."""
    if not report["estimate"]:
        return ""
    assumed = report["estimate"]["assumed"]
    return (
        f"estimate, not a measurement: {assumed['share_of_peak_flops']:.0%} of peak FLOPs, "
        f"{assumed['share_of_hbm_rate']:.0%} of the HBM rate, "
        f"{assumed['share_of_link_rate']:.0%} of the link rate; a step takes {assumed['overlap']}"
    )


def swept(reports: Sequence[dict[str, Any]]) -> Table:
    """A line for each mesh and way of rematerialising, with the largest batch that fits."""
    first = reports[0]
    columns = ("data", "fsdp", "tensor", "remat", "clips", "seconds", "peak GiB", "fits", "hours/h")
    shown = Table(*columns, title=f"{first['config']} on {first['topology']}: largest batches")
    for report in reports:
        batch, estimate = report["batch"], report["estimate"]
        shown.add_row(
            *(str(size) for size in report["mesh"].values()),
            report["remat"],
            str(batch["clips"]),
            f"{batch['clips'] * batch['seconds']:,.0f}",
            gib(report["bytes"]["peak"]),
            fits(report),
            f"{estimate['audio_hours_per_hour']:,.0f}" if estimate else "–",
        )
    return shown
