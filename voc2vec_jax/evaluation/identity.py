"""What a run is: the sha256 of its content and the values of its settings, never a path or a name.

    OUT/settings.json   the identity of the evaluation in OUT; another run in OUT has to share it

A file of figures that a tool writes carries an `identity` in the same sense.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from voc2vec_jax.errors import ConfigError, ResultsError
from voc2vec_jax.evaluation.independent_units import Copies
from voc2vec_jax.evaluation.versions import versions
from voc2vec_jax.files import differences, write_json
from voc2vec_jax.scores import Ints

FORMAT_VERSION = 2
SETTINGS = "settings.json"
LEFTOVERS = ("folds/*.json", "results.json", "export.json")
"""What an evaluation leaves that would be taken for that of another one."""
TERMS = {
    "model_sha256": "the model's parameters or configuration",
    "vectors_sha256": "the vectors of the clips",
    "corpus_fingerprint": "the clips of the corpus",
    "labelling_sha256": "the classes, labels, groups or folds of the clips",
    "given_folds_sha256": "the folds of --folds-csv",
}
NAMED_BY = {
    "model_sha256": "model",
    "vectors_sha256": "model",
    "corpus_fingerprint": "dataset",
    "labelling_sha256": "dataset",
}
"""Which of the names says where that content was found."""


@dataclass(frozen=True)
class Identity:
    """Two runs with equal content and settings give equal numbers."""

    content: Mapping[str, str]
    """sha256 of each thing that decides the numbers, such as `model_sha256`."""
    settings: Mapping[str, Any]
    """Plain values that decide them, such as the protocol and epochs."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What the things are called and where they lie, as given: decides nothing."""

    @functools.cached_property
    def run_sha256(self) -> str:
        """Equal if, and only if, content and settings are."""
        plain = json.dumps([dict(self.content), dict(self.settings)], sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "run_sha256": self.run_sha256,
            "content": dict(self.content),
            "settings": dict(self.settings),
            "names": dict(self.names),
        }

    def differences_from(self, found: Mapping[str, Any]) -> list[str]:
        """What differs from the identity in a file (`to_dict`), each in a few words."""
        now = json.loads(json.dumps(self.to_dict()))  # tuples become lists, as in the file
        said = []
        for name in sorted({*found["content"], *now["content"]}):
            there, asked = found["content"].get(name), now["content"].get(name)
            if there != asked:
                (one,) = differences({name: there}, {name: asked}, TERMS)
                said.append(one + _places(NAMED_BY.get(name, name), found["names"], self.names))
        return [*said, *differences(found["settings"], now["settings"])]


def _places(name: str, there: Mapping[str, str], now: Mapping[str, str]) -> str:
    if name not in there or name not in now:
        return ""
    if there[name] == now[name]:
        return f" (both from {now[name]})"
    return f" (from {there[name]} there, {now[name]} now)"


def labelling_sha256(
    class_names: Sequence[str],
    labels: Ints,
    groups: Sequence[str],
    copies: Copies = None,
    folds: Sequence[str] = (),
) -> str:
    """Changes with all that decides folds, which the fingerprint of the samples does not know of.

    Args:
        class_names: What the labels mean.
        labels: [clips].
        groups: Of each clip.
        copies: Sets of clips that are the same recording.
        folds: The fold that each clip comes with, if those are used.
    """
    content = [list(class_names), np.asarray(labels).tolist(), list(groups)]
    content += [[list(clips) for clips in copies or ()], list(folds)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def claim(out: Path, identity: Identity) -> None:
    """Makes a folder that of an evaluation, or sees that it is.

    Args:
        out: Is made if it is not there.
        identity: Of the evaluation; not what may differ between two starts, such as the seeds.

    Raises:
        ConfigError: Another evaluation is there already, or the remains of one that says not which.
        ResultsError: Its identity cannot be read, or an older version wrote it.
    """
    path = out / SETTINGS
    if not path.exists():
        left = sorted(found for pattern in LEFTOVERS for found in out.glob(pattern))
        if left:
            raise ConfigError(
                f"{out}: has {left[0].relative_to(out)} without {SETTINGS}, so that nothing says"
                f" what it is of; delete {out}, or give another --out"
            )
        write_json(path, {**identity.to_dict(), "versions": versions()}, by_many=True)
        return
    differing = identity.differences_from(_read(path))
    if differing:
        raise ConfigError(
            f"{out}: holds another evaluation ({'; '.join(differing)}); give another --out"
        )


def _read(path: Path) -> dict[str, Any]:
    fix = f"delete {path.parent} and run again, or give another --out"
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        if found.get("format_version") != FORMAT_VERSION:
            raise ResultsError(
                f"{path}: was written by another version of this package, which knew a model by"
                f" its path and not by its content; {fix}"
            )
        for part in ("content", "settings", "names"):
            found[part] = dict(found[part])
    except ResultsError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{path}: is damaged ({error}); {fix}") from error
    return found


def refuse_other_figures(path: Path, identity: Identity) -> None:
    """Sees that a file of figures may be written: it is not there, or is of the same content.

    Args:
        path: A JSON object with `identity` (`to_dict`).
        identity: Of the figures that it is to hold.

    Raises:
        ConfigError: It holds figures of something else, or of nobody knows what.
    """
    if not path.exists():
        return
    fix = "delete it, or give another --out"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["identity"]
        differing = identity.differences_from(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: is there and does not say what it is of; {fix}") from error
    if differing:
        raise ConfigError(f"{path}: holds figures of another run ({'; '.join(differing)}); {fix}")
