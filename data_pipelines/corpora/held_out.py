"""Which clips are held out of training: whole groups, by a rule that only needs their names."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_pipelines.stores.columns import Strings
from voc2vec_jax.errors import ConfigError


def held_out(
    ids: Sequence[str], groups: Sequence[str], usable: NDArray[np.bool_], share: float, seed: int
) -> NDArray[np.bool_]:
    """The clips to evaluate on.

    Groups are gone through in an order that follows from the seed and their names, and each is
    taken that still fits into the share; if none does, the smallest one is. So there is always
    something to evaluate on, and as much as the sizes of the groups allow without exceeding it.

    Args:
        ids: [clips] unique names.
        groups: [clips] what must not straddle the split; a clip without one ('') is its own.
        usable: [clips] bool, clips that count; the others are never held out.
        share: Of the usable clips, above 0.
        seed: Another one holds out other groups.

    Returns:
        [clips] bool, True where held out.

    Raises:
        ConfigError: All clips are of one group, so that nothing would be left to train on.
    """
    by_group = Strings.of(groups).prefixed("group ").plain
    by_clip = Strings.of(ids).prefixed("clip ").plain
    named = pc.if_else(
        pc.greater(pc.binary_length(by_group), 0), by_group, by_clip
    ).dictionary_encode()
    names, of_clip = named.dictionary.to_pylist(), named.indices.to_numpy()
    sizes = np.bincount(of_clip[usable], minlength=len(names))
    heard = np.flatnonzero(sizes).tolist()
    if len(heard) < 2:
        raise ConfigError(
            f"data.eval_share={share}: the {usable.sum()} clips are of {len(heard)} group, and a "
            "group is held out as a whole; give 0, or more groups"
        )
    order = sorted(
        heard, key=lambda name: hashlib.sha256(f"{seed} {names[name]}".encode()).digest()
    )
    room = share * int(sizes.sum())
    taken = np.zeros(len(names), bool)
    for name in order:
        if sizes[name] <= room:
            taken[name] = True
            room -= int(sizes[name])
    if not taken.any():
        taken[min(order, key=lambda name: sizes[name])] = True
    return usable & taken[of_clip]
