"""Clips with classes, as evaluation needs them, and the folds that they fall into."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from voc2vec_jax.config.recipe import Protocol
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.evaluation.csv_files import GivenFolds
from voc2vec_jax.evaluation.division import Division, divide, division_of
from voc2vec_jax.evaluation.folds import require_labels
from voc2vec_jax.evaluation.independent_units import Copies, Units, units_of
from voc2vec_jax.scores import Ints


@dataclass(frozen=True, eq=False)
class LabelledCorpus:
    """Clips as evaluation needs them, wherever they come from."""

    name: str
    ids: Sequence[str]
    labels: Ints
    """[clips] index into the class names."""
    groups: Sequence[str]
    """Speaker, session or upload of each clip; '' where unknown."""
    class_names: Sequence[str]
    fingerprint: str
    """Equal if, and only if, clips and order are."""
    waveforms: Callable[[], Iterable[NDArray[np.float32]]]
    """Gives float32 [S], 16 kHz, of each clip."""
    folds: Sequence[str] = ()
    """The part of a split that each clip comes with, such as `test`; '' or () where none."""
    copies: Copies = None
    """Sets of clips, by their places, that are the same recording; None where nobody looked."""
    excluded: tuple[Mapping[str, str], ...] = ()
    """`file` and `reason` of each clip that could not be read and is left out on request."""

    @cached_property
    def units(self) -> Units:
        """Groups, joined where they share copies."""
        return units_of(self.groups, self.copies)

    def divided(
        self,
        protocol: Protocol,
        folds: int | None = None,
        seed: int = 0,
        own: GivenFolds | None = None,
    ) -> Division:
        """The folds of a protocol; see `division.divide` for what it raises.

        Args:
            protocol: Whose rules.
            folds: How many; None: 10, or as many as are given.
            seed: Decides the grouped ones.
            own: Of a file, to use in place of a division.
        """
        if own is not None:
            require_labels(self.labels, self.groups)
            about = self.labels, self.groups, self.class_names, self.copies
            return division_of(protocol, seed, own.of_seed(seed), *about)
        marked = [clip for clip, fold in zip(self.ids, self.folds, strict=False) if not fold]
        if protocol == "given" and 0 < len(marked) < len(self.ids):
            raise ConfigError(
                f"{self.name}: {len(marked)} of {len(self.ids)} clips have no fold, such as"
                f" {marked[0]!r}; protocol given wants one for each"
            )
        return divide(
            protocol,
            self.labels,
            self.groups,
            self.class_names,
            folds=folds,
            seed=seed,
            given=self.folds,
            copies=self.copies,
        )
