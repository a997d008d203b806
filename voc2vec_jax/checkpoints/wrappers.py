"""What training code of others puts before the names of tensors: `module.`, `model.`, …"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from voc2vec_jax.checkpoints.convert import ENCODER_PREFIXES, ENCODER_ROOTS
from voc2vec_jax.errors import CheckpointError

FIRST = "feature_extractor.conv_layers.0.conv.weight"
"""The one tensor that every wav2vec 2.0 and HuBERT has."""


class Unwrapped(Mapping[str, np.ndarray]):
    """The same tensors without what stands before their names, read when asked."""

    def __init__(self, tensors: Mapping[str, np.ndarray], wrapper: str, place: Path):
        self._tensors = tensors
        self._names: dict[str, str] = {}
        for name in tensors:
            other = self._names.setdefault(name.removeprefix(wrapper), name)
            if other != name:
                raise CheckpointError(
                    f"{place}: {name!r} and {other!r} are one tensor without {wrapper!r}; leave one"
                )

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def wrapper_of(names: Iterable[str], place: Path) -> str:
    """What stands before the names of an encoder, but for its family (`wav2vec2.`, `hubert.`).

    Args:
        names: Of all tensors.
        place: Where they are from, for the error.

    Raises:
        CheckpointError: There is no such encoder among them, or more than one.
    """
    held = list(names)
    before = {name.removesuffix(FIRST) for name in held if name.endswith(FIRST)}
    if not before and (not held or any(_is_ours(name) for name in held)):
        return ""  # a damaged one, whose missing tensors will be listed
    if len(before) != 1:
        found = f"{len(before)} of them" if before else "none"
        raise CheckpointError(
            f"{place}: its weights must hold one encoder of wav2vec 2.0 or HuBERT, and hold {found}"
            f" ({len(held)} tensors, such as {min(held)!r}); give a checkpoint of "
            "these families"
        )
    prefix = before.pop()
    family = next((family for family in ENCODER_PREFIXES if prefix.endswith(family)), "")
    return prefix.removesuffix(family)


def _is_ours(name: str) -> bool:
    """Whether a tensor is of an encoder, with or without the name of its family."""
    family = next((family for family in ENCODER_PREFIXES if name.startswith(family)), "")
    return name.removeprefix(family).partition(".")[0] in ENCODER_ROOTS
