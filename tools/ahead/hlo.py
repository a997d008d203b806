"""Which collectives a compiled program runs, read from its text."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {
    "pred": 8,
    **{f"{kind}{bits}": bits for kind in "su" for bits in (4, 8, 16, 32, 64)},
    "bf16": 16,
    "f16": 16,
    "f32": 32,
    "f64": 64,
    "c64": 64,
}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = (.*)$")
_OPCODE = re.compile(r"\s*([\w-]+)\(")
_ARRAY = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)"
)
_CALLED_LISTS = re.compile(r"(branch_computations|called_computations)=\{([^}]*)\}")
_CHANNEL = re.compile(r"channel_id=(\d+)")
OF_ALL_MANUAL = "1"
"""The channel that JAX gives to every exchange that is written out (`psum` in a `shard_map`); the
partitioner counts its own from there on."""
_GROUPS = re.compile(
    r"replica_groups=(?:\[\d+,(?P<iota>\d+)\]<=|\{\{(?P<listed>[\d,]*)\}"
    r"|mesh\[(?P<sizes>[^\]]*)\][^{]*\{(?P<axes>[^}]*)\})"
)
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_CONSTANT = re.compile(r"constant\((\d+)\)")


@dataclass(frozen=True)
class Collective:
    """One exchange between devices, as one device sees it."""

    kind: str
    payload_bytes: int
    """Of the whole array on one device: what an all-reduce or a permutation takes, what an
    all-gather makes, what a reduce-scatter or an all-to-all starts from."""
    group: int
    """Devices that take part; 0 if the text does not say, which means all of them."""
    times: int = 1
    """How often it runs: trip counts of the loops around it, multiplied."""

    def wire_bytes(self, devices: int) -> float:
        """What a device sends to others, by the ring algorithms, in all its `times`.

        An all-reduce is a reduce-scatter and an all-gather.
        """
        n = self.group or devices
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}
        return self.times * self.payload_bytes * share.get(self.kind, (n - 1) / n)


@dataclass(frozen=True)
class _Instruction:
    type: str
    opcode: str
    rest: str


def collectives(text: str) -> tuple[list[Collective], int]:
    """Every collective of a program, each once, and how many loops of unknown length hold any.

    The pair of an asynchronous start and its done is one; so are the parts of one exchange that the
    compiler spread over several fusions, which share a channel. What runs in a loop counts as often
    as the compiler says that the loop runs, or once where it cannot say. Of a conditional, both
    sides count: layer drop is seen as if no layer was dropped.

    Args:
        text: `Compiled.as_text()`.
    """
    computations, entry = _parse(text)
    if entry is None:
        return [], 0
    times: dict[str, int] = defaultdict(int)
    unknown = set()

    def visit(name: str, count: int) -> None:
        times[name] += count
        for instruction in computations.get(name, ()):
            for how, called in _calls(instruction):
                trips = 1
                if how == "body":
                    known = _trip_count(computations, instruction)
                    trips = known or 1
                    if known is None:
                        unknown.add(called)
                visit(called, count * trips)

    visit(entry, 1)
    found, channels = [], set()
    for name, instructions in computations.items():
        for instruction in instructions if times[name] else ():
            collective = _collective(name, instruction, times[name])
            if collective is None:
                continue
            channel = _CHANNEL.search(instruction.rest)
            if channel is not None and channel[1] != OF_ALL_MANUAL:
                if channel[1] in channels:
                    continue
                channels.add(channel[1])
            found.append(collective)
    return found, sum(_holds_collective(computations, name) for name in unknown)


def summary(found: list[Collective], devices: int) -> dict[str, dict[str, float]]:
    """By kind: how many a step runs, bytes of their arrays, and bytes that a device sends."""
    kinds: dict[str, dict[str, float]] = {}
    for collective in found:
        entry = kinds.setdefault(collective.kind, {"count": 0, "bytes": 0, "wire_bytes": 0})
        entry["count"] += collective.times
        entry["bytes"] += collective.times * collective.payload_bytes
        entry["wire_bytes"] += round(collective.wire_bytes(devices))
    return kinds


def array_bytes(type_text: str) -> list[int]:
    """Bytes of each array of a type, which may be a tuple."""
    sizes = []
    for dtype, dims in _ARRAY.findall(type_text):
        count = math.prod(int(dim) for dim in dims.split(",") if dim)
        sizes.append(-(-count * BITS[dtype] // 8))
    return sizes


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str | None]:
    computations: dict[str, list[_Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = header[2]
            computations[current] = []
            if header[1]:
                entry = current
        elif current is not None and (match := _INSTRUCTION.match(line)):
            type_text, rest = _split_type(match[1])
            opcode = _OPCODE.match(rest)
            if opcode:
                computations[current].append(_Instruction(type_text, opcode[1], rest))
    return computations, entry


def _split_type(text: str) -> tuple[str, str]:
    """The type at the start of an instruction, and the rest; layouts have parentheses too."""
    depth = 0
    for index, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == " " and depth == 0:
            return text[:index], text[index:]
    return text, ""


def _calls(instruction: _Instruction) -> Iterator[tuple[str, str]]:
    if instruction.opcode in ("async-update", "async-done"):
        return  # they name the computation that their start has begun
    yield from _CALLED.findall(instruction.rest)
    for how, names in _CALLED_LISTS.findall(instruction.rest):
        for name in names.split(","):
            yield how, name.strip().lstrip("%")


def _trip_count(computations: dict[str, list[_Instruction]], loop: _Instruction) -> int | None:
    """As the compiler says it, or the N of a condition that is nothing but `index < N`.

    JAX's scans count from 0; TPU programs do not say more.
    """
    known = _TRIP_COUNT.search(loop.rest)
    if known:
        return int(known[1])
    condition = _CONDITION.search(loop.rest)
    instructions = computations.get(condition[1], []) if condition else []
    compared = [i for i in instructions if i.opcode == "compare" and "direction=LT" in i.rest]
    numbers = [_CONSTANT.search(i.rest) for i in instructions if i.opcode == "constant"]
    if len(compared) == len(numbers) == 1 and numbers[0]:
        return int(numbers[0][1])
    return None


def _group_size(instruction: _Instruction) -> int:
    """Devices of a replica group, in any of the three notations; 0 if there is none."""
    groups = _GROUPS.search(instruction.rest)
    if groups is None:
        return 0
    if groups["iota"]:
        return int(groups["iota"])
    if groups["sizes"] is not None:  # mesh['data'=4,'fsdp'=2] {'fsdp'}
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", groups["sizes"]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", groups["axes"]))
    return len([device for device in groups["listed"].split(",") if device])


def _collective(name: str, instruction: _Instruction, times: int) -> Collective | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    sizes = array_bytes(instruction.type)
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        # (operands, results), and for some backends scalars that belong to the exchange.
        sizes = [size for size in sizes if size > 4] or sizes
        sizes = sizes[len(sizes) // 2 :]
    group = _group_size(instruction)
    if kind == "reduce-scatter":
        sizes = [size * max(group, 1) for size in sizes]
    if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # a TPU's: a fusion that keeps a slice of the sum
    return Collective(kind, sum(sizes), group, times)


def _holds_collective(computations: dict[str, list[_Instruction]], name: str) -> bool:
    return any(
        instruction.opcode.removesuffix("-start") in KINDS
        or any(_holds_collective(computations, called) for _, called in _calls(instruction))
        for instruction in computations.get(name, ())
    )
