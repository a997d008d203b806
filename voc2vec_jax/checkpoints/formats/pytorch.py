"""PyTorch's files (`pytorch_model.bin`, fairseq's `.pt`) as plain data, without PyTorch.

Both formats hold a pickle of the structure and, apart from it, the bytes of the storages that
tensors are views of: as members of a zip archive since PyTorch 1.6, one after the other behind the
pickle before. See torch/serialization.py and torch/_utils.py for the layout. The pickle is read by
`plain_pickle`, which runs nothing; storages are mapped into memory, not copied.
"""

import io
import math
import mmap
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from voc2vec_jax.checkpoints.formats.plain_pickle import Global, Opaque, read_pickle
from voc2vec_jax.errors import CheckpointError, PickleError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

DTYPES = {
    **{
        f"torch.{name}": np.dtype(name)
        for name in (
            "bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64",
            "float16", "float32", "float64", "complex64", "complex128",
        )
    },
    "torch.bfloat16": np.dtype(ml_dtypes.bfloat16),
}  # fmt: skip
STORAGES = {
    f"torch.{kind}Storage": DTYPES[f"torch.{name}"]
    for kind, name in {
        "Bool": "bool", "Byte": "uint8", "Char": "int8", "Short": "int16", "Int": "int32",
        "Long": "int64", "Half": "float16", "BFloat16": "bfloat16", "Float": "float32",
        "Double": "float64", "ComplexFloat": "complex64", "ComplexDouble": "complex128",
    }.items()
} | {"torch.storage.UntypedStorage": DTYPES["torch.uint8"]}  # fmt: skip

SPARE_BYTES = 2**26
EXPANSION = 4
"""Expanded and tied tensors are stored once. So that a small file cannot ask for all memory, its
tensors may count this many times its own bytes, and the spare ones on top."""


@dataclass(frozen=True)
class Storage:
    raw: np.ndarray  # [bytes] uint8
    dtype: np.dtype


def read_torch(path: Path) -> object:
    """What `torch.save` wrote, of either format: plain data with NumPy arrays for tensors.

    Arrays keep their dtype (bfloat16 is that of `ml_dtypes`), are read-only, and are views of the
    mapped file: pages are read when they are used, and the file must not be cut short meanwhile.
    Objects of other classes, such as fairseq's, become `Opaque` records.

    Raises:
        CheckpointError: Unreadable, damaged, or asking for anything but plain data; nothing that
            the file names is ever imported or called.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if mapped[:2] != b"PK":
                return _read_legacy(mapped)
            # Only for the directory: PyTorch may write any checksum, and copies are not wanted.
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
        return _read_zip(mapped, entries)
    except OSError as error:
        raise CheckpointError(f"{path}: not readable ({error})") from None
    except (
        ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError,
        RuntimeError, TypeError, ValueError, struct.error, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        # A damaged pickle trips over any of them, and PyTorch has none of its own here.
        reason = f"{error}" if isinstance(error, PickleError) else f"damaged: {error!r:.200}"
        raise CheckpointError(
            f"{path}: not a plain file of PyTorch tensors ({reason}); download it again, and do "
            "not trust its source if it stays so"
        ) from None


def _read_zip(mapped: mmap.mmap, entries: list[zipfile.ZipInfo]) -> object:
    members: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        parts = entry.filename.replace("\\", "/").split("/")
        if len(parts) < 2 or not parts[0] or ".." in parts or ":" in parts[0]:
            raise PickleError(f"archive member {entry.filename[:200]!r} climbs out of the archive")
        if entry.filename in members:
            raise PickleError(f"archive member {entry.filename[:200]!r} exists twice")
        members[entry.filename] = entry
    roots = {name.split("/")[0] for name in members}
    if len(roots) != 1:
        raise PickleError("an archive without the one folder of a PyTorch file")
    (root,) = roots
    if f"{root}/constants.pkl" in members:
        raise PickleError("a TorchScript program; save its state_dict instead")
    if f"{root}/data.pkl" not in members:
        raise PickleError("an archive without data.pkl")

    def member(name: str) -> memoryview:
        if f"{root}/{name}" not in members:
            raise PickleError(f"archive member {name[:200]!r} is missing")
        return _stored(mapped, members[f"{root}/{name}"])

    order = bytes(member("byteorder")).decode() if f"{root}/byteorder" in members else "little"
    tensors = _Tensors(len(mapped), order)
    known: dict[tuple[str, str], Storage] = {}

    def load_storage(persistent_id: Any) -> Storage:
        type_name, dtype, key, count = _storage_id(persistent_id)
        if (type_name, key) not in known:
            known[type_name, key] = tensors.storage(member(f"data/{key}"), dtype, count)
        return known[type_name, key]

    return read_pickle(io.BytesIO(member("data.pkl")), tensors.makers(), load_storage)


def _stored(mapped: mmap.mmap, entry: zipfile.ZipInfo) -> memoryview:
    """The bytes of an uncompressed member."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise PickleError(f"archive member {entry.filename[:200]!r} is compressed or encrypted")
    header = mapped[entry.header_offset : entry.header_offset + 30]
    signature, name_bytes, extra_bytes = struct.unpack("<4s22xHH", header)
    start = entry.header_offset + 30 + name_bytes + extra_bytes
    if signature != b"PK\x03\x04" or start + entry.file_size > len(mapped):
        raise PickleError(f"archive member {entry.filename[:200]!r} is damaged or cut short")
    return memoryview(mapped)[start : start + entry.file_size]


def _read_legacy(mapped: mmap.mmap) -> object:
    def refuse(persistent_id: object) -> object:
        raise PickleError("a storage where there should be none")

    magic = read_pickle(mapped, {}, refuse)
    if magic != LEGACY_MAGIC or read_pickle(mapped, {}, refuse) != LEGACY_PROTOCOL:
        raise PickleError("a pickle, but not one of PyTorch")
    system: Any = read_pickle(mapped, {}, refuse)
    tensors = _Tensors(len(mapped), "little" if system["little_endian"] else "big")
    start = mapped.tell()

    # The storages' places are known only behind the pickle that uses them, so it is read twice.
    ids: dict[str, tuple[np.dtype, int]] = {}

    def note(persistent_id: Any) -> None:
        _, dtype, key, count = _storage_id(persistent_id)
        ids[key] = dtype, count

    read_pickle(mapped, dict.fromkeys(tensors.makers(), lambda *_: None), note)
    keys: Any = read_pickle(mapped, {}, refuse)
    known: dict[str, Storage] = {}
    position = mapped.tell()
    for key in keys:
        if type(key) is not str or key not in ids:
            raise PickleError("a storage that no tensor is a view of")
        dtype, count = ids[key]
        (stored_count,) = struct.unpack("<q", mapped[position : position + 8])
        end = position + 8 + count * dtype.itemsize
        if stored_count != count or end > len(mapped):
            raise PickleError(f"storage {key[:200]!r} is damaged or cut short")
        known[key] = tensors.storage(memoryview(mapped)[position + 8 : end], dtype, count)
        position = end
    mapped.seek(start)

    def load_storage(persistent_id: Any) -> Storage:
        return known[_storage_id(persistent_id)[2]]

    return read_pickle(mapped, tensors.makers(), load_storage)


def _storage_id(persistent_id: Any) -> tuple[str, np.dtype, str, int]:
    """Type, dtype, key and number of elements: ("storage", type, key, device, elements).

    The old format has a sixth item, which says where in another storage this one lies; files that
    use it have not been written since 2018.
    """
    kind, storage_type, key, _, count, *views = persistent_id
    if kind != "storage" or views not in ([], [None]) or type(key) is not str:
        raise PickleError("a persistent id that is not of a storage")
    if type(storage_type) is not Global or storage_type.name not in STORAGES:
        raise PickleError("a storage of an unknown type")
    if type(count) is not int or count < 0:
        raise PickleError("a storage without a size")
    return storage_type.name, STORAGES[storage_type.name], key, count


class _Tensors:
    """Makes tensors of one file, up to the bytes that a file of its size may ask for."""

    def __init__(self, file_bytes: int, byte_order: str):
        if byte_order not in ("little", "big"):
            raise PickleError("a byte order that is neither little nor big")
        self.bytes_left = EXPANSION * file_bytes + SPARE_BYTES
        self.swapped = byte_order != sys.byteorder

    def makers(self) -> dict[str, Callable[..., object]]:
        """By the names under which PyTorch's pickles ask for them."""
        return {
            "torch._utils._rebuild_tensor": self.tensor,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_tensor_v3": self.typed_tensor,
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
            "torch._tensor._rebuild_from_type_v2": self.subclass_tensor,
            "torch.Size": lambda sizes=(): tuple(sizes),
            "torch.device": lambda *names: Opaque("torch.device", names),
            "torch.nn.parameter.Parameter": _only_a_name,
            "torch.Tensor": _only_a_name,
            **dict.fromkeys([*DTYPES, *STORAGES], _only_a_name),
        }

    def storage(self, data: memoryview, dtype: np.dtype, count: int) -> Storage:
        if len(data) != count * dtype.itemsize:
            raise PickleError(
                f"a storage of {count} {dtype} has {len(data)} bytes, not {count * dtype.itemsize}"
            )
        raw = np.frombuffer(data, np.uint8)
        if self.swapped:
            self._spend(len(data))
            unit = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
            raw = raw.reshape(-1, unit)[:, ::-1].reshape(-1)
            raw.flags.writeable = False
        return Storage(raw, dtype)

    def tensor(
        self,
        storage: Any,
        offset: Any,
        sizes: Any,
        strides: Any,
        requires_grad: object = False,
        hooks: object = None,
        metadata: object = None,
    ) -> np.ndarray:
        """A view of a storage; offset and strides count elements."""
        if type(storage) is not Storage or metadata:
            raise PickleError("a tensor without a storage, or conjugated lazily")
        numbers = (offset, *sizes, *strides)
        if (
            len(sizes) != len(strides)
            or len(sizes) > 64
            or not all(type(n) is int and n >= 0 for n in numbers)
        ):
            raise PickleError("a tensor whose offset, sizes or strides are no such thing")
        itemsize = storage.dtype.itemsize
        if 0 in sizes:
            return np.ndarray(sizes, storage.dtype, b"")
        last = offset + sum((n - 1) * stride for n, stride in zip(sizes, strides, strict=True))
        if last >= len(storage.raw) // itemsize:
            raise PickleError("a tensor that reaches beyond its storage")
        self._spend(math.prod(sizes) * itemsize)
        # Where there is one element, its stride means nothing and may be anything.
        steps = [stride * itemsize * (n > 1) for n, stride in zip(sizes, strides, strict=True)]
        return np.ndarray(sizes, storage.dtype, storage.raw, offset * itemsize, steps)

    def typed_tensor(
        self, storage: Any, offset: Any, sizes: Any, strides: Any, *rest: Any
    ) -> np.ndarray:
        """A tensor of a dtype that has no storage type of its own, such as uint16."""
        requires_grad, hooks, dtype, *metadata = rest
        if type(dtype) is not Global or dtype.name not in DTYPES or type(storage) is not Storage:
            raise PickleError("a tensor of an unknown type")
        if self.swapped:
            raise PickleError(f"{dtype.name} in the byte order of another machine")
        typed = Storage(storage.raw, DTYPES[dtype.name])
        return self.tensor(typed, offset, sizes, strides, requires_grad, hooks, *metadata)

    def subclass_tensor(self, function: Any, *rest: Any) -> object:
        """A tensor with attributes, which are left out."""
        _class, arguments, _state = rest
        if type(function) is not Global or not function.name.startswith("torch._utils."):
            raise PickleError("a tensor of an unknown class")
        return self.makers()[function.name](*arguments)

    def _spend(self, nbytes: int) -> None:
        self.bytes_left -= nbytes
        if self.bytes_left < 0:
            raise PickleError("its tensors would need far more memory than the file has bytes")


def _only_a_name(*_: object) -> object:
    raise PickleError("calls a type of PyTorch")
