"""The classes of clips, from the labels that a user has written beside them."""

import logging
import re
from collections.abc import Sequence

from voc2vec_jax.audio.spelling import composed
from voc2vec_jax.errors import DataError

UNKNOWN = frozenset({"", "-1"})
MAX_NUMBERS = 50
"""More numbers than this, with gaps between them, are a quantity and no classes."""

_DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+[eE][+-]?\d+|\d+\.\d*[eE][+-]?\d+)")

logger = logging.getLogger(__name__)


def classes_of(labels: Sequence[str]) -> tuple[list[str], list[int]]:
    """Class names, sorted (by value where all of them are numbers), and the class of each clip.

    Spellings of a name that differ in accents only (NFC and NFD) are one class; it is said.

    Args:
        labels: As written; '' and '-1' mean unknown, which becomes -1.
    """
    spellings: dict[str, set[str]] = {}
    for label in set(labels) - UNKNOWN:
        spellings.setdefault(composed(label), set()).add(label)
    for name, several in spellings.items():
        if len(several) > 1:
            logger.warning("class %r: is written in %d ways, taken as one", name, len(several))
    numbers = all(name.isdecimal() for name in spellings)
    names = sorted(spellings, key=lambda name: (int(name), name) if numbers else (0, name))
    classes = {name: number for number, name in enumerate(names)}
    of_label = {label: classes[name] for name, several in spellings.items() for label in several}
    return names, [of_label.get(label, -1) for label in labels]


def refuse_no_classes(table: str, labels: Sequence[tuple[int, str]]) -> None:
    """Refuses cells that hold a number to predict, or several classes at once.

    `;` and `|` part classes where a part occurs in another cell too, `,` where all parts are
    classes of other rows; so that `crying, sobbing` may be the name of a class.

    Args:
        table: For the message.
        labels: Line and label of each row.

    Raises:
        DataError: It names line and label.
    """
    first: dict[str, int] = {}
    for line, label in labels:
        if label not in UNKNOWN:
            first.setdefault(label, line)
    for label, line in first.items():
        if _DECIMAL.fullmatch(label):
            raise DataError(
                f"{table}: line {line}: `label` {label!r} is a number; labels are classes, numbers"
                " cannot be predicted yet (write the number of a class without a point)"
            )
    values = sorted(int(label) for label in first if label.isdecimal())
    if len(values) == len(first) > MAX_NUMBERS and values[-1] - values[0] >= len(values):
        raise DataError(
            f"{table}: `label` holds {len(values)} different numbers from {values[0]} to"
            f" {values[-1]}, with gaps; labels are classes, numbers cannot be predicted yet"
        )
    for separator in ";|,":
        parts = {
            label: [part.strip() for part in label.split(separator) if part.strip()]
            for label in first
            if separator in label
        }
        known = {label for label in first if separator not in label}
        for label, own in parts.items():
            if separator == ",":
                several = len(own) > 1 and known.issuperset(own)
            else:
                others = known.union(*(found for other, found in parts.items() if other != label))
                several = len(own) > 1 and not others.isdisjoint(own)
            if several:
                raise DataError(
                    f"{table}: line {first[label]}: `label` {label!r} holds {len(own)} classes;"
                    " give one class a row, several at once cannot be learnt yet"
                )


def say_empty_classes(corpus: str, class_names: Sequence[str], found: set[int]) -> None:
    """Names the classes none of whose files could be read."""
    for number, name in enumerate(class_names):
        if number not in found:
            logger.warning(
                "%s: class %r has no clip: none of its files could be read", corpus, name
            )
