"""Strings of a million clips, held by Arrow: a fraction of what a list of them takes."""

from collections.abc import Iterator, Sequence
from typing import Any, Self, SupportsIndex, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_AT_ONCE = 65_536
"""Strings that an iteration makes at a time."""


class Strings(Sequence[str]):
    """A sequence of strings in an Arrow array, of strings or of a dictionary of them."""

    def __init__(self, values: pa.Array) -> None:
        self.values = values

    @classmethod
    def of(cls, strings: Sequence[str]) -> "Strings":
        """The same strings; those that Arrow holds already are not copied."""
        return strings if isinstance(strings, cls) else cls(pa.array(strings, pa.large_string()))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All strings of several, one after the other."""
        column = pa.chunked_array([part.values for part in parts])
        return cls(column.unify_dictionaries().combine_chunks())

    @property
    def plain(self) -> pa.Array:
        """As an array of strings, without a dictionary."""
        packed = pa.types.is_dictionary(self.values.type)
        return self.values.dictionary_decode() if packed else self.values

    def prefixed(self, prefix: str) -> Self:
        """Each with `prefix` in front, but for empty ones."""
        if pa.types.is_dictionary(self.values.type):
            words = type(self)(self.values.dictionary).prefixed(prefix).values
            return type(self)(pa.DictionaryArray.from_arrays(self.values.indices, words))
        ahead, nothing = (pa.scalar(word, self.values.type) for word in (prefix, ""))
        longer = pc.binary_join_element_wise(ahead, self.values, nothing)
        return type(self)(pc.if_else(pc.equal(self.values, nothing), nothing, longer))

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._texts(self.values[index])
        place = int(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"no string {place} among {len(self)}")
        return self._texts(self.values.slice(place % len(self), 1))[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self._texts(self.values.slice(start, _AT_ONCE))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(list(self), dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __repr__(self) -> str:
        more = ", …" if len(self) > 3 else ""
        return f"<{len(self)} strings: {', '.join(map(repr, self[:3]))}{more}>"

    def _texts(self, values: pa.Array) -> list[str]:
        texts: list[str] = values.to_pylist()
        return texts


class Digests(Strings):
    """Digests as hexadecimal strings, held as bytes."""

    def _texts(self, values: pa.Array) -> list[str]:
        return [digest.hex() for digest in values.to_pylist()]
