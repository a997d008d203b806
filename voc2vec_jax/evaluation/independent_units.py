"""What must not straddle a fold: groups, joined where clips of theirs are copies of one another."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voc2vec_jax.scores import Ints

LARGE_SHARE = 0.05
"""Of all clips; a group that joining made larger than that is said."""

Copies = Sequence[Sequence[int]] | None
"""Sets of clips, by their places, that are the same recording; None where nobody looked."""


@dataclass(frozen=True, eq=False)
class Units:
    """Of a corpus: clips of one unit are not independent of each other."""

    of_clip: Ints
    """[clips] number of each clip's unit; numbers follow the names of groups in their order."""
    names: tuple[str, ...]
    """[clips] the group, or the first of those that were joined; '' for a clip on its own."""
    recording: Ints
    """[clips] number of the set of copies that a clip is in, -1 where it has none."""
    checked: bool
    """Whether copies were looked for."""
    joined: tuple[tuple[str, ...], ...]
    """Groups that were joined into one, each time; a clip without a group is none of them."""
    largest_joined: float
    """Share of the clips in the largest unit that joining made."""


def units_of(groups: Sequence[str], copies: Copies) -> Units:
    """Groups, with those joined that have clips in one set of copies.

    Args:
        groups: [clips] speaker, session or upload; a clip whose group is '' is its own.
        copies: Of the clips.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    recording = np.full(len(groups), -1)
    for number, clips in enumerate(copies or ()):
        recording[list(clips)] = number
    own = [f"group {group}" if group else f"clip {clip}" for clip, group in enumerate(groups)]
    found, members = np.unique(np.array(own, dtype=object), return_inverse=True)
    # Each set of copies is a path through the groups that its clips are of.
    ends = [(members[a], members[b]) for s in copies or () for a, b in itertools.pairwise(s)]
    pairs = np.array(ends, np.int64).reshape(-1, 2).T
    links = csr_array((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), (len(found), len(found)))
    count, component = connected_components(links, directed=False)
    first = np.full(count, len(found))
    np.minimum.at(first, component, np.arange(len(found)))
    of_clip = first[component[members]]

    parts: dict[int, list[str]] = {}
    for group, place in zip(found, first[component], strict=True):
        parts.setdefault(int(place), []).append(group)
    joined = {place: names for place, names in parts.items() if len(names) > 1}
    sizes = np.bincount(of_clip, minlength=len(found))
    names = [*groups]
    for clip in np.flatnonzero(np.isin(of_clip, list(joined))).tolist():
        known = _groups_of(joined[of_clip[clip]])
        names[clip] = known[0] if known else f"copies of {found[of_clip[clip]]}"
    return Units(
        of_clip=of_clip,
        names=tuple(names),
        recording=recording,
        checked=copies is not None,
        joined=tuple(_groups_of(parts) for parts in joined.values()),
        largest_joined=max((sizes[place] for place in joined), default=0) / len(groups),
    )


def _groups_of(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.removeprefix("group ") for name in names if name.startswith("group "))


def said_of_copies(units: Units, labels: Ints) -> list[str]:
    """What a reader has to know of the copies in a corpus, whatever its folds."""
    if not units.checked:
        return ["copies of clips were not looked for: there is no sound to compare"]
    copied = units.recording >= 0
    if not copied.any():
        return []
    recordings = np.unique(units.recording[copied])
    found = [f"{copied.sum()} clips are copies of one another, of {len(recordings)} recordings"]
    pairs = np.unique(np.stack([units.recording[copied], labels[copied]]), axis=1)
    conflicting = int(np.sum(np.bincount(pairs[0]) > 1))
    if conflicting:
        found.append(f"{conflicting} recordings have copies with different labels")
    return found


def said_of_joining(units: Units) -> list[str]:
    """What was joined for the sake of copies, as it matters to folds that keep units whole."""
    if not units.joined:
        return []
    named = sum(len(groups) for groups in units.joined)
    several = sum(1 for groups in units.joined if len(groups) > 1)
    found = [
        f"copies share a side of every fold: {named} groups were joined into {several}"
        if several
        else "copies share a side of every fold"
    ]
    if units.largest_joined > LARGE_SHARE:
        found.append(
            f"a joined group has {units.largest_joined:.0%} of the clips: folds may be unequal"
        )
    return found
