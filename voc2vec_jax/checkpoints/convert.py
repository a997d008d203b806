"""Hugging Face tensors to ours and back, without losing or inventing anything.

Module names are Hugging Face names, so the table holds only what the last part of a path is called
and whether its axes are reversed (PyTorch keeps weights as [out, in, taps], JAX as
[taps, in, out]). It serves both directions. A ledger sees to it that every source tensor is used
once, every parameter filled once and every shape right; otherwise one error lists all offenders.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from voc2vec_jax.errors import ConversionError
from voc2vec_jax.models.parameters import AbstractParams

Tensors = dict[str, np.ndarray]

ENCODER_PREFIXES = ("wav2vec2.", "hubert.")
"""Where models with a head keep the encoder, by family; a bare encoder has no prefix."""
ENCODER_ROOTS = {"feature_extractor", "feature_projection", "encoder", "masked_spec_embed"}
"""What an encoder's own tensors begin with; all else is a head."""
MASK_EMBEDDING = "masked_spec_embed"
"""Read in training only, so that a file may lack it or have it to spare, as in transformers."""
ALIGNMENT_BYTES = 64
STRIP = 32
"""Elements of the last axis that are copied together."""


class Row(NamedTuple):
    """How one kind of parameter is called on either side."""

    leaf: str
    hf_leaf: str
    reverse_axes: bool
    also_read: str | None = None


TABLE = {
    row.leaf: row
    for row in (
        Row("kernel", "weight", reverse_axes=True),
        Row("scale", "weight", reverse_axes=False),
        Row("bias", "bias", reverse_axes=False),
        Row("masked_spec_embed", "masked_spec_embed", reverse_axes=False),
        Row("codevectors", "codevectors", reverse_axes=False),
        Row("layer_weights", "layer_weights", reverse_axes=False),
        Row("label_embs_concat", "label_embs_concat", reverse_axes=False),
        # Checkpoints of 2021-2023 say weight_g/weight_v, which every transformers release reads,
        # so that is what is written; releases since 4.36 may write the other spelling.
        Row("weight_g", "weight_g", True, also_read="parametrizations.weight.original0"),
        Row("weight_v", "weight_v", True, also_read="parametrizations.weight.original1"),
    )
}


@dataclass(frozen=True)
class Ledger:
    """What became of every name: parameters that were filled, are new, or were left behind."""

    kept: tuple[str, ...]
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"weights: {len(self.kept)} kept, {len(self.new)} new, {len(self.dropped)} dropped"
        ]
        lines += [f"  new      {name}" for name in self.new]
        lines += [f"  dropped  {name}" for name in self.dropped]
        return "\n".join(lines)


def hf_name(path: str, *, also_read: bool = False) -> str | None:
    """Hugging Face's name of a parameter path; its second spelling, or None, if `also_read`."""
    module, _, leaf = path.rpartition(".")
    row = TABLE[leaf]
    name = row.also_read if also_read else row.hf_leaf
    if name is None:
        return None
    return f"{module}.{name}" if module else name


def to_hf(params: Mapping[str, jax.Array | np.ndarray]) -> Tensors:
    """Parameters by dotted path as Hugging Face tensors, float32, C-contiguous."""
    tensors = {}
    for path, value in params.items():
        name = hf_name(path)
        assert name is not None
        tensors[name] = np.ascontiguousarray(
            _reversed_if_needed(path, np.asarray(value)), np.float32
        )
    return tensors


def from_hf(
    tensors: Mapping[str, np.ndarray],
    expected: AbstractParams,
    *,
    new_heads: bool = False,
    replace_heads: bool = False,
    redrawn: tuple[str, ...] = (),
) -> tuple[Tensors, Ledger]:
    """Hugging Face tensors as parameters for the paths in `expected`.

    A prefix that only one side has (`wav2vec2.`, `hubert.`) is bridged. The encoder must match
    completely, but for the mask embedding, which only training reads: it is new where the source
    lacks it. Heads that the target has no place for are dropped; one that the source lacks is new
    only if that is asked for.

    Args:
        tensors: By Hugging Face name, any floating dtype; read one by one.
        expected: Shapes and dtypes by dotted path.
        new_heads: Allow parameters of a head that the source lacks; they are not in the result.
        replace_heads: Leave the source's heads behind even where they would fit.
        redrawn: Parameters whose path begins so are new whatever the source holds under their
            name, of whichever shape; what it holds is dropped.

    Returns:
        Arrays by dotted path, cast to the expected dtype, and the ledger.

    Raises:
        ConversionError: Listing all tensors that are missing, unexpected, spelt twice, of the
            wrong shape, not floating point, or not finite.
    """
    source, heads = _bridge_prefix(tensors, expected)
    if replace_heads:
        heads |= {name for name in source if _is_head(name, expected)}
        source = {name: held for name, held in source.items() if name not in heads}
        new_heads = True
    problems: list[str] = []
    result: Tensors = {}
    used: set[str] = set()
    new: list[str] = []
    superseded: list[str] = []
    for path, shape in expected.items():
        names = [name for name in (hf_name(path), hf_name(path, also_read=True)) if name in source]
        if not names:
            may_be_new = path.startswith(redrawn) or is_mask_embedding(path)
            if may_be_new or (new_heads and _is_head(path, expected)):
                new.append(path)
            else:
                problems.append(f"missing     {hf_name(path)}  {_hf_shape(path, shape.shape)}")
            continue
        used.update(names)
        if path.startswith(redrawn):
            new.append(path)
            superseded += names
            continue
        if len(names) > 1:
            problems.append(f"twice       {' and '.join(names)} hold the same parameter")
            continue
        value = np.asarray(tensors[source[names[0]]])
        if list(value.shape) != _hf_shape(path, shape.shape):
            problems.append(
                f"mis-shaped  {names[0]}  {list(value.shape)}, expected "
                f"{_hf_shape(path, shape.shape)}"
            )
        elif not _is_floating(value):
            problems.append(f"not float   {names[0]}  {value.dtype}")
        else:
            # One copy, always: the source may be a map of a file that is about to go.
            with np.errstate(over="ignore"):  # what float32 cannot hold is reported below
                value = _copy(_reversed_if_needed(path, value), shape.dtype)
            if not np.isfinite(value).all():
                problems.append(f"not finite  {names[0]}  holds NaN or infinity")
            result[path] = value
    spare = {n for n in set(source) - used if _is_head(n, expected) or is_mask_embedding(n)}
    dropped = sorted(heads | spare)
    problems += [f"unexpected  {name}" for name in sorted(set(source) - used - spare)]
    if problems:
        raise ConversionError(
            f"{len(problems)} tensors do not fit the model:\n  " + "\n  ".join(problems)
        )
    return result, Ledger(tuple(result), tuple(new), (*dropped, *sorted(superseded)))


def encoder_prefix(names: Iterable[str]) -> str:
    """Where these tensors or parameters keep the encoder: `wav2vec2.`, `hubert.` or nothing."""
    held = {name.partition(".")[0] + "." for name in names}
    return next((prefix for prefix in ENCODER_PREFIXES if prefix in held), "")


def _bridge_prefix(
    tensors: Iterable[str], expected: AbstractParams
) -> tuple[dict[str, str], set[str]]:
    """Source names by their names in the target's layout, and the head tensors left over."""
    source, target = encoder_prefix(tensors), encoder_prefix(expected)
    if source and not target:
        encoder = {name.removeprefix(source): name for name in tensors if name.startswith(source)}
        return encoder, {name for name in tensors if not name.startswith(source)}
    if target and not source:
        return {
            target + name if _root(name) in ENCODER_ROOTS else name: name for name in tensors
        }, set()
    if not source:  # a head may stand beside a bare encoder
        roots = {_root(path) for path in expected}
        heads = {name for name in tensors if _root(name) not in roots | ENCODER_ROOTS}
        return {name: name for name in tensors if name not in heads}, heads
    return {name: name for name in tensors}, set()


def is_mask_embedding(name: str) -> bool:
    """Whether a tensor or parameter is what replaces masked frames."""
    return name.rpartition(".")[2] == MASK_EMBEDDING


def _root(name: str) -> str:
    return name.partition(".")[0]


def _is_head(name: str, expected: AbstractParams) -> bool:
    prefix = encoder_prefix(expected)
    return bool(prefix) and not name.startswith(prefix)


def _reversed_if_needed(path: str, value: np.ndarray) -> np.ndarray:
    """A view, as PyTorch and JAX see each other's axes."""
    return value.T if TABLE[path.rpartition(".")[2]].reverse_axes else value


def _copy(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """In C order, and at an address where JAX on a CPU uses the copy instead of making its own."""
    size = value.size * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT_BYTES
    copy = memory[start : start + size].view(dtype).reshape(value.shape)
    if value.ndim < 2:
        copy[...] = value
        return copy
    # In strips: reversing the axes of a large array at once misses the cache at every element.
    for first in range(0, value.shape[-1], STRIP):
        strip = np.s_[..., first : first + STRIP]
        copy[strip] = value[strip]
    return copy


def _hf_shape(path: str, shape: tuple[int, ...]) -> list[int]:
    row = TABLE[path.rpartition(".")[2]]
    return list(reversed(shape)) if row.reverse_axes else list(shape)


def _is_floating(value: np.ndarray) -> bool:
    # bfloat16 and its kin are registered outside NumPy's own kinds.
    return value.dtype.kind == "f" or value.dtype.name.startswith(("bfloat", "float"))
