"""PyTorch's files without PyTorch: what it saves is read as it reads it, and nothing else runs."""

import argparse
import builtins
import collections
import io
import os
import pickle
import struct
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings

from voc2vec_jax.checkpoints.formats.plain_pickle import Global, Opaque
from voc2vec_jax.checkpoints.formats.pytorch import LEGACY_MAGIC, LEGACY_PROTOCOL, read_torch
from voc2vec_jax.errors import CheckpointError

ZIP, LEGACY = True, False
BOTH = pytest.mark.parametrize("zipped", [ZIP, LEGACY], ids=["zip", "legacy"])
DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16,
    torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.complex64, torch.complex128,
]  # fmt: skip


def save(value: object, path: Path, zipped: bool = ZIP, **options: Any) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


def assert_same(ours: Any, theirs: torch.Tensor) -> None:
    expected = to_numpy(theirs)
    assert (ours.dtype, ours.shape) == (expected.dtype, expected.shape)
    assert ours.tobytes() == expected.tobytes()


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    """Of any type, and any view: transposed, cut, stepped through, expanded, without elements."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    count = int(np.prod(shape))
    raw = draw(st.integers(0, 2**32 - 1))
    values = torch.from_numpy(np.random.default_rng(raw).integers(0, 200, count))
    tensor = values.to(dtype).reshape(shape)
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["permute", "cut", "expand"]))
        if kind == "permute":
            tensor = tensor.permute(draw(st.permutations(range(tensor.dim()))))
        elif kind == "expand":
            tensor = tensor.expand(draw(st.integers(0, 4)), *tensor.shape)
        elif tensor.dim():
            axis = draw(st.integers(0, tensor.dim() - 1))
            start, step = draw(st.integers(0, 2)), draw(st.integers(1, 3))
            tensor = tensor[(slice(None),) * axis + (slice(start, None, step),)]
    return tensor


@BOTH
@settings(max_examples=100, deadline=None, derandomize=True)
@given(tensors=st.lists(views(), min_size=1, max_size=4))
def test_every_tensor_is_read_as_pytorch_reads_it(
    tmp_path_factory: pytest.TempPathFactory, zipped: bool, tensors: list[torch.Tensor]
) -> None:
    path = tmp_path_factory.mktemp("views") / "a.bin"
    save(tensors, path, zipped)
    # PyTorch writes these types in the old format, but does not read them.
    unread = {torch.uint16, torch.uint32, torch.uint64} if zipped is LEGACY else set()
    lost = any(tensor.dtype in unread for tensor in tensors)
    theirs = tensors if lost else torch.load(path, weights_only=True)
    ours: Any = read_torch(path)
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert_same(our, their)


@BOTH
def test_tensors_may_share_a_storage(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    saved = {"whole": base, "transposed": base.T, "column": base[:, 2], "again": base}
    ours: Any = read_torch(save(saved, tmp_path / "a.bin", zipped))
    for name, tensor in saved.items():
        assert_same(ours[name], tensor)
    assert np.shares_memory(ours["whole"], ours["column"])
    with pytest.raises(ValueError, match="read-only"):
        ours["whole"][0, 0] = 1


@BOTH
def test_structures_are_plain_data(tmp_path: Path, zipped: bool) -> None:
    linear = torch.nn.Linear(3, 2)
    saved = {
        "state": linear.state_dict(),  # an OrderedDict with attributes
        "parameter": linear.weight,
        "size": torch.Size([2, 3]),
        "type": torch.float16,
        "plain": [1, -(2**40), 2.5, None, True, "text", b"\x00\xff", {1, 2}, (3, (4,))],
        "default": collections.defaultdict(list, {"a": [1]}),
        7: "a number as a key",
    }
    ours: Any = read_torch(save(saved, tmp_path / "a.bin", zipped))
    assert type(ours["state"]) is dict
    assert_same(ours["state"]["weight"], linear.weight)
    assert_same(ours["parameter"], linear.weight)
    assert ours["size"] == (2, 3)
    assert ours["type"] == Global("torch.float16")
    assert ours["plain"] == saved["plain"]
    assert ours["default"] == {"a": [1]}
    assert ours[7] == "a number as a key"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    saved = {"w": torch.ones(3), "names": {"a", "b"}, "bytes": b"12", "long": "x" * 300}
    path = save(saved, tmp_path / "a.bin", pickle_protocol=protocol)
    ours: Any = read_torch(path)
    assert_same(ours.pop("w"), saved.pop("w"))  # type: ignore[arg-type]
    assert ours == saved


@BOTH
def test_objects_of_other_classes_are_records(tmp_path: Path, zipped: bool) -> None:
    saved = {
        "args": argparse.Namespace(normalize=True, inner=argparse.Namespace(a=[1])),
        "scalar": np.float64(2.5),
        "array": np.arange(3),
        "path": Path("somewhere"),
    }
    ours: Any = read_torch(save(saved, tmp_path / "a.bin", zipped))
    assert ours["args"].class_name == "argparse.Namespace"
    assert ours["args"].state["normalize"] is True
    assert ours["args"].state["inner"].state == {"a": [1]}
    assert all(type(ours[name]) is Opaque for name in ("scalar", "array", "path"))


def with_member(path: Path, change: Callable[[dict[str, bytes]], None], **options: Any) -> None:
    """Writes a PyTorch archive again with other members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", **options) as archive:
        warnings.simplefilter("ignore")  # a name that exists twice
        for name, content in members.items():
            archive.writestr(name.rstrip("*"), content)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.int8])
def test_the_other_byte_order_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(6).to(dtype).reshape(2, 3).T
    path = save({"w": tensor}, tmp_path / "a.bin")
    unit = (
        torch.finfo(dtype).bits // 8 if dtype.is_floating_point else {torch.int8: 1}.get(dtype, 4)
    )

    def swap(members: dict[str, bytes]) -> None:
        raw = np.frombuffer(members["a/data/0"], np.uint8).reshape(-1, unit)
        members["a/data/0"] = raw[:, ::-1].tobytes()
        members["a/byteorder"] = b"big"

    with_member(path, swap)
    ours: Any = read_torch(path)
    assert_same(ours["w"], torch.load(path, weights_only=True)["w"])
    assert_same(ours["w"], tensor)


# Attacks

CANARY = "canary"
"""A file that any of these would make in the current folder."""


class Reduce:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: object, state: object = None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


class Setstate:
    """Pickled as an object whose class takes its state by a method with consequences."""

    def __setstate__(self, state: object) -> None:
        Path(CANARY).touch()

    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}


def gadget() -> None:
    Path(CANARY).touch()


CALLS = {
    "posix.system": Reduce(os.system, f"touch {CANARY}"),
    "builtins.eval": Reduce(builtins.eval, f"open({CANARY!r}, 'w')"),
    "builtins.exec": Reduce(builtins.exec, f"open({CANARY!r}, 'w')"),
    "builtins.getattr": Reduce(getattr, Reduce(__import__, "os"), "system"),
    "builtins.open": Reduce(open, CANARY, "w"),
    "subprocess.Popen": Reduce(subprocess.Popen, ["touch", CANARY]),
    "torch.hub.load": Reduce(torch.hub.load, ".", CANARY),
    "torch.storage._load_from_bytes": Reduce(torch.storage._load_from_bytes, b""),
    "numpy hidden in a reduce": Reduce(Reduce(np.save, CANARY, 1).reduced[0], CANARY, [1]),
    "setstate": Setstate(),
    "function": Reduce(gadget),
}
CALLED = {
    "posix.system": r"'posix\.system'",
    "builtins.getattr": r"'(builtins|__builtin__)\.getattr'",
    "setstate": r"'tests\.test_torch_files\.Setstate'",
    "function": r"'tests\.test_torch_files\.gadget'",
}
INERT = {"numpy hidden in a reduce"}
"""Read as a record of the name."""


@pytest.fixture
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@BOTH
@pytest.mark.usefixtures("_in_folder")
@pytest.mark.parametrize("name", CALLS)
def test_calls_are_refused_and_never_made(name: str, zipped: bool) -> None:
    path = save({"w": torch.ones(2), "x": CALLS[name]}, Path("a.bin"), zipped)
    if name in INERT:
        ours: Any = read_torch(path)
        assert ours["x"].class_name.startswith("numpy.")
    else:
        named = CALLED.get(name, "asks for ")
        with pytest.raises(CheckpointError, match=rf"^a\.bin: not a plain file .*{named}"):
            read_torch(path)
    assert not Path(CANARY).exists()


def by_hand(*instructions: bytes) -> bytes:
    return b"\x80\x02" + b"".join(instructions) + b"."


SYSTEM = b"cposix\nsystem\n"
TOUCH = b"X\x0c\x00\x00\x00touch canary"
ORDERED_DICT = b"ccollections\nOrderedDict\n"
NAMESPACE = b"cargparse\nNamespace\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
INSTRUCTIONS = {
    "INST": by_hand(b"(", TOUCH, b"iposix\nsystem\n"),
    "OBJ": by_hand(b"(", SYSTEM, TOUCH, b"o"),
    "NEWOBJ": by_hand(SYSTEM, TOUCH, b"\x85\x81"),
    "STACK_GLOBAL": by_hand(b"\x8c\x05posix\x8c\x06system\x93", TOUCH, b"\x85R"),
    "STACK_GLOBAL of other things": by_hand(b"]]\x93"),
    "EXT1": by_hand(b"\x82\x01"),
    "PERSID": by_hand(b"Pstorage\n"),
    "BUILD on a function": by_hand(REBUILD, b"}X\x01\x00\x00\x00aK\x01sb"),
    "BUILD on a class": by_hand(NAMESPACE, b"N}X\x01\x00\x00\x00aK\x01s\x86b"),
    "BUILD on a list": by_hand(b"]}b"),
    "call of a record": by_hand(NAMESPACE, b")\x81)R"),
    "call of a record's state": by_hand(NAMESPACE, b")\x81q\x00}b", b"h\x00)R)R"),
    "call of text": by_hand(b"X\x06\x00\x00\x00system)R"),
    "call of a made dict": by_hand(ORDERED_DICT, b")R)R"),
    "call with what is no tuple": by_hand(ORDERED_DICT, b"]R"),
    "call of a dtype": by_hand(b"ctorch\nfloat32\n)R"),
    "function as a method's name": by_hand(REBUILD, b"K\x01K\x02K\x03\x87R"),
    "deep key": by_hand(b"}", b")", b"\x85" * 500_000, b"K\x01s"),
    "memo that is not there": by_hand(b"j\xff\xff\xff\xff"),
    "empty stack": by_hand(b"R"),
    "mark that is not there": by_hand(b"t"),
    "left over": by_hand(b"NN"),
    "length beyond the file": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"a.",
    "no end": b"\x80\x02]",
    "not a pickle": b"\x80\x02\xff\xff.",
}


@BOTH
@pytest.mark.usefixtures("_in_folder")
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions_that_plain_data_does_not_need_are_refused(name: str, zipped: bool) -> None:
    path = Path("a.bin")
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", INSTRUCTIONS[name])
    else:
        start = [LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True}]
        path.write_bytes(
            b"".join(pickle.dumps(item, 2) for item in start)
            + INSTRUCTIONS[name]
            + pickle.dumps([], 2)
        )
    with pytest.raises(CheckpointError, match=r"^a\.bin: not a plain file "):
        read_torch(path)
    assert not Path(CANARY).exists()


@pytest.mark.usefixtures("_in_folder")
def test_a_path_through_a_harmless_module_stays_a_name() -> None:
    reached = by_hand(b"\x8c\x08argparse\x8c\x0a_os.system\x93", TOUCH, b"\x85R", b"}b")
    with zipfile.ZipFile("a.bin", "w") as archive:
        archive.writestr("a/data.pkl", reached)
    ours: Any = read_torch(Path("a.bin"))
    assert (ours.class_name, ours.arguments) == ("argparse._os.system", ("touch canary",))
    assert not Path(CANARY).exists()


def test_a_memo_number_takes_no_memory(tmp_path: Path) -> None:
    """`pickle` makes a table as long as the largest number."""
    path = tmp_path / "a.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", by_hand(b"]r\xff\xff\xff\x7f"))
    assert read_torch(path) == []


def tensor_pickle(count: int, offset: int, sizes: Any, strides: Any) -> Any:
    """A tensor that claims what it likes of a storage of `count` float32."""

    class Storage:
        pass

    class Pickler(pickle._Pickler):  # type: ignore[misc, name-defined]
        def persistent_id(self, value: object) -> object:
            claims = ("storage", torch.FloatStorage, "0", "cpu", count)
            return claims if isinstance(value, Storage) else None

    file = io.BytesIO()
    rebuild = torch._utils._rebuild_tensor_v2
    Pickler(file, 2).dump([Reduce(rebuild, Storage(), offset, sizes, strides, False, {})])
    return file.getvalue()


CLAIMS: dict[str, tuple[int, Any, Any, Any]] = {
    "true": (6, 0, (2, 3), (3, 1)),
    "too long": (6, 0, (7,), (1,)),
    "offset": (6, 1, (6,), (1,)),
    "huge offset": (6, 2**62, (1,), (1,)),
    "negative offset": (6, -1, (1,), (1,)),
    "stride": (6, 0, (2, 3), (4, 1)),
    "negative stride": (6, 5, (6,), (-1,)),
    "overflowing stride": (6, 0, (3,), (2**63,)),
    "overflowing size": (6, 0, (2**62, 2**62), (0, 0)),
    "expanded to a terabyte": (6, 0, (2**38,), (0,)),
    "negative size": (6, 0, (-1,), (1,)),
    "lengths that differ": (6, 0, (2, 3), (1,)),
    "text": (6, 0, ("2",), (1,)),
    "fraction": (6, 0.0, (2,), (1,)),
    "dimensions": (6, 0, (1,) * 100, (1,) * 100),
    "storage too long": (7, 0, (6,), (1,)),
    "storage too short": (5, 0, (5,), (1,)),
    "terabytes of storage": (2**40, 0, (2**40,), (1,)),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_beyond_the_bytes_there_are_refused(tmp_path: Path, name: str) -> None:
    path = save([torch.ones(6)], tmp_path / "a.bin")
    with_member(path, lambda m: m.update({"a/data.pkl": tensor_pickle(*CLAIMS[name])}))
    if name == "true":
        ours: Any = read_torch(path)
        np.testing.assert_array_equal(ours[0], np.ones((2, 3)))
        return
    before = psutil.Process().memory_info().rss
    with pytest.raises(CheckpointError, match=r"a\.bin: not a plain file"):
        read_torch(path)
    assert psutil.Process().memory_info().rss - before < 2**26


ARCHIVES: dict[str, tuple[Callable[[dict[str, bytes]], Any], str]] = {
    "parent": (lambda m: m.update({"a/../../x": b""}), "climbs out"),
    "absolute": (lambda m: m.update({"/etc/x": b""}), "climbs out"),
    "drive": (lambda m: m.update({"C:\\x": b""}), "climbs out"),
    "twice": (lambda m: m.update({"a/data/0*": b"\0" * 24}), "exists twice"),
    "two roots": (lambda m: m.update({"b/data.pkl": b""}), "one folder"),
    "no structure": (lambda m: m.pop("a/data.pkl"), "without data.pkl"),
    "no storage": (lambda m: m.pop("a/data/0"), "'data/0' is missing"),
    "program": (lambda m: m.update({"a/constants.pkl": b""}), "TorchScript"),
    "byte order": (lambda m: m.update({"a/byteorder": b"middle"}), "byte order"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_pytorch_does_not_write_are_refused(tmp_path: Path, name: str) -> None:
    path = save({"w": torch.ones(6)}, tmp_path / "a.bin")
    change, reason = ARCHIVES[name]
    with_member(path, change)
    with pytest.raises(CheckpointError, match=rf"a\.bin: not a plain file .*{reason}"):
        read_torch(path)
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    """Nothing then bounds what a file unfolds to."""
    path = save({"w": torch.zeros(2**20)}, tmp_path / "a.bin")
    with_member(path, lambda members: None, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**14
    with pytest.raises(CheckpointError, match="compressed"):
        read_torch(path)


@BOTH
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, zipped: bool) -> None:
    path = save({"a": torch.ones(5), "b": torch.ones(7, 3).T}, tmp_path / "a.bin", zipped)
    whole = path.read_bytes()
    for end in [*range(0, 40), *range(40, len(whole), 23), len(whole) - 1]:
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match=r"a\.bin: not "):
            read_torch(path)


@BOTH
@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_damaged_file_gives_one_error_or_other_data(
    tmp_path_factory: pytest.TempPathFactory, zipped: bool, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a.bin"
    namespace = argparse.Namespace(b=[1], c={"d": (2.0, None)})
    save({"a": torch.ones(5, 2).T, "n": namespace}, path, zipped)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    message = ""
    try:
        read_torch(path)
    except CheckpointError as error:
        message = str(error)
    assert not message or (message.startswith(f"{path}: not ") and "\n" not in message)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04", b"\x80\x02}."], ids=repr)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    for wrong in (path, tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match=rf"^{wrong}: not "):
            read_torch(wrong)
