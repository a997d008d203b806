"""Which clips are held out of training: whole groups, by a rule that only needs their names."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
    names = [
        f"group {group}" if group else f"clip {id_}" for id_, group in zip(ids, groups, strict=True)
    ]
    sizes = Counter(name for name, use in zip(names, usable, strict=True) if use)
    if len(sizes) < 2:
        raise ConfigError(
            f"data.eval_share={share}: the {usable.sum()} clips are of {len(sizes)} group, and a "
            "group is held out as a whole; give 0, or more groups"
        )
    order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    room = share * sizes.total()
    taken = set()
    for name in order:
        if sizes[name] <= room:
            taken.add(name)
            room -= sizes[name]
    if not taken:
        taken.add(min(order, key=lambda name: sizes[name]))
    return usable & np.array([name in taken for name in names])
