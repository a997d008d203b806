"""The weight files of a Hugging Face folder as NumPy arrays, and back: whole or in shards."""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from voc2vec_jax.checkpoints.convert import Tensors
from voc2vec_jax.checkpoints.formats.pytorch import read_torch
from voc2vec_jax.errors import CheckpointError

__all__ = [
    "CheckpointError",
    "read_safetensors",
    "read_tensors",
    "write_tensors",
    "writing_tensors",
]

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
TORCH_BIN = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"

MAX_SHARD_BYTES = 5_000_000_000
"""As the hub recommends and huggingface_hub has it; transformers 5.23 writes up to 50 GB."""
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


class SafetensorsFiles(Mapping[str, np.ndarray]):
    """Tensors that stay in their files until they are asked for, one at a time.

    Args:
        files: The file of every tensor, by its name.

    Raises:
        CheckpointError: On access: the file has been damaged, or NumPy lacks the tensor's type.
    """

    def __init__(self, files: Mapping[str, Path]):
        self._files = files

    def __getitem__(self, name: str) -> np.ndarray:
        path = self._files[name]
        # Opened anew each time: as long as a file is open, all that was read of it counts as
        # memory of this process.
        with _opened(path) as file:
            tensor: np.ndarray = file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def read_tensors(folder: Path) -> Mapping[str, np.ndarray]:
    """All tensors of a folder, in the dtypes that it has, read when they are asked for.

    Looks for `model.safetensors`, `model.safetensors.index.json` with its shards,
    `pytorch_model.bin` and `pytorch_model.bin.index.json` with its shards, in this order.

    Raises:
        CheckpointError: None of them, a damaged one, or an index and shards that do not belong
            together; all shards or tensors concerned are listed.
    """
    if (folder / SAFETENSORS).is_file():
        return read_safetensors(folder / SAFETENSORS)
    if (folder / SAFETENSORS_INDEX).is_file():
        return _read_shards(folder / SAFETENSORS_INDEX)
    if (folder / TORCH_BIN).is_file():
        return _read_bin(folder / TORCH_BIN)
    if (folder / TORCH_INDEX).is_file():
        return _read_shards(folder / TORCH_INDEX)
    raise CheckpointError(
        f"{folder / SAFETENSORS}: not found, nor {TORCH_BIN}, nor the index of a checkpoint in "
        f"shards ({SAFETENSORS_INDEX}, {TORCH_INDEX})"
    )


def read_safetensors(path: Path) -> Mapping[str, np.ndarray]:
    """All tensors of a single file, read when they are asked for.

    Raises:
        CheckpointError: A damaged file, or a type that NumPy lacks.
    """
    return SafetensorsFiles(dict.fromkeys(_safetensors_names(path), path))


def write_tensors(
    folder: Path, tensors: Mapping[str, np.ndarray], max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes `model.safetensors`, or shards and their index as transformers names them.

    What an earlier export left in the folder is replaced: no shard or single file of it stays.

    Args:
        folder: An existing folder.
        tensors: By Hugging Face name.
        max_shard_bytes: Of a file's tensors; a tensor that is larger gets a file to itself.

    Raises:
        OSError: The disk is full, or the folder cannot be written to. The folder is as it was.
    """
    with writing_tensors(folder, tensors, max_shard_bytes):
        pass


@contextmanager
def writing_tensors(
    folder: Path, tensors: Mapping[str, np.ndarray], max_shard_bytes: int = MAX_SHARD_BYTES
) -> Iterator[None]:
    """`write_tensors` in two steps: inside the block all bytes are on disk under other names.

    Leaving the block puts them in place, an exception in it removes them: files that belong to
    the tensors, such as `config.json`, are written inside.
    """
    # Imported here: it costs time that reading need not pay.
    from huggingface_hub import split_state_dict_into_shards_factory

    assert tensors
    split = split_state_dict_into_shards_factory(
        dict(sorted(tensors.items())),
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )
    files = {folder / name: names for name, names in split.filename_to_tensors.items()}
    unfinished: list[Path] = []
    try:
        for path, names in files.items():
            unfinished.append(_part(path))
            shard = {name: np.asarray(tensors[name], order="C") for name in names}
            save_file(shard, unfinished[-1], metadata={"format": "pt"})
        if split.is_sharded:
            unfinished.append(_part(folder / SAFETENSORS_INDEX))
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            unfinished[-1].write_text(text, encoding="utf-8")
        yield
    except BaseException as error:
        for path in unfinished:
            path.unlink(missing_ok=True)
        if isinstance(error, SafetensorError):
            raise OSError(f"{unfinished[-1]}: could not be written ({error}); make room") from None
        raise
    _put_in_place(folder, list(files), sharded=split.is_sharded)


def _put_in_place(folder: Path, files: list[Path], *, sharded: bool) -> None:
    """Renames what is unfinished; a process killed here leaves no mixture that could be read.

    Readers take the single file where there is one, so it is the first to come and the last to
    go. New shards may bear the names of old ones, so the old index goes before they come.
    """
    index = folder / SAFETENSORS_INDEX
    if sharded:
        index.unlink(missing_ok=True)
    for path in files:
        os.replace(_part(path), path)
    if sharded:
        os.replace(_part(index), index)
        (folder / SAFETENSORS).unlink(missing_ok=True)
    else:
        index.unlink(missing_ok=True)
    for path in folder.iterdir():
        if path not in files and SHARD.fullmatch(path.name.removesuffix(".part")):
            path.unlink()
    for name in (SAFETENSORS, SAFETENSORS_INDEX):
        _part(folder / name).unlink(missing_ok=True)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _read_shards(index: Path) -> Mapping[str, np.ndarray]:
    """Everything is checked by the files' headers before the first tensor is read."""
    promised = _read_index(index)
    missing = sorted(name for name in promised if not (index.parent / name).is_file())
    if missing:
        raise CheckpointError(
            f"{index}: {len(missing)} of {len(promised)} shards are missing "
            f"({', '.join(missing)}); download them"
        )
    # PyTorch's files are mapped, so that this takes no memory either.
    torch = index.name == TORCH_INDEX
    states = {name: _read_bin(index.parent / name) for name in promised} if torch else {}
    problems = []
    for name, names in promised.items():
        held = set(states[name] if torch else _safetensors_names(index.parent / name))
        problems += [f"{name} lacks {tensor}" for tensor in sorted(names - held)]
        problems += [f"{name} also holds {tensor}" for tensor in sorted(held - names)]
    if problems:
        raise CheckpointError(
            f"{index}: its shards are not those that it describes; download them again:\n  "
            + "\n  ".join(problems)
        )
    if torch:
        return {tensor: value for state in states.values() for tensor, value in state.items()}
    return SafetensorsFiles(
        {tensor: index.parent / name for name, names in promised.items() for tensor in names}
    )


def _read_index(index: Path) -> dict[str, set[str]]:
    """Names of the tensors of each shard."""
    try:
        fields: Any = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{index}: not readable as JSON ({error})") from None
    weight_map = fields.get("weight_map") if isinstance(fields, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{index}: has no weight_map from tensors to files; download it again"
        )
    suffix = ".bin" if index.name == TORCH_INDEX else ".safetensors"
    promised: dict[str, set[str]] = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not re.fullmatch(rf"[\w.-]+{re.escape(suffix)}", name):
            raise CheckpointError(
                f"{index}: keeps {tensor} in {name!r}; must be a *{suffix} file beside it"
            )
        promised.setdefault(name, set()).add(tensor)
    return dict(sorted(promised.items()))


def _safetensors_names(path: Path) -> list[str]:
    """Of a file that holds nothing which cannot be read: one tensor of each type is."""
    smallest: dict[str, tuple[int, str]] = {}
    with _opened(path) as file:
        names: list[str] = list(file.keys())
        for name in names:
            header = file.get_slice(name)
            size, dtype = math.prod(header.get_shape()), header.get_dtype()
            smallest[dtype] = min(smallest.get(dtype, (size, name)), (size, name))
        for _, name in smallest.values():
            file.get_tensor(name)
    return names


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; whatever goes wrong inside the block is said of it."""
    try:
        with safe_open(path, "numpy") as file:
            yield file
    except (SafetensorError, ValueError, TypeError, OSError) as error:
        raise _damaged(path, error) from None
    except AttributeError as error:  # 8-bit and smaller floats have no NumPy type
        raise CheckpointError(
            f"{path}: holds a type that NumPy lacks ({error}); save it as float32"
        ) from None


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: not a whole safetensors file ({error}); copy or download it again"
    )


def _read_bin(path: Path) -> Tensors:
    state = read_torch(path)
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path}: not a plain file of PyTorch tensors (holds a {type(state).__name__}); save "
            "the model's state_dict"
        )
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, np.ndarray):
            raise CheckpointError(
                f"{path}: not a plain file of PyTorch tensors ({name!r:.200} is a "
                f"{type(tensor).__name__}); save the model's state_dict"
            )
    return state
