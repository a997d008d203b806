"""Which clips of a pre-training corpus are in an evaluation corpus too, re-encoded or not.

A and B are prepared datasets, mixtures of them (`voc125`, `nnime+vocalsound`) or folders of audio.
Clips are compared by their samples and by an audio fingerprint that survives resampling, mp3, a
change of loudness and the loss of up to half a second.

Examples:
    python -m tools.find_overlap voc125 donate_a_cry --out overlap/
    python -m tools.prepare_data vocalsound --exclude overlap/exclude.txt --overwrite
"""

import csv
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

from data_pipelines.corpora.sources import open_corpus
from data_pipelines.preparation.overlap import Overlap, find_overlaps
from data_pipelines.stores.flat_store import FlatStore
from voc2vec_jax.cli.command import parsed, run
from voc2vec_jax.cli.corpus import named_corpus
from voc2vec_jax.evaluation.identity import Identity, refuse_other_figures
from voc2vec_jax.files import write_json

REPORT = "report.json"


@dataclass(frozen=True)
class Arguments:
    """Writes overlap.csv (pairs), exclude.txt (ids of A) and report.json."""

    a: Annotated[str, tyro.conf.Positional]
    """The corpus to take clips out of: dataset, mixture or folder."""
    b: Annotated[str, tyro.conf.Positional]
    """The corpus to protect."""
    out: Path = Path("overlap")
    """Gets the three files; a folder with those of two other corpora is refused."""
    data_dir: Path | None = None
    """Where datasets are prepared; default `$VOC2VEC_DATA_DIR`, else `~/.cache/voc2vec_jax`."""


def _open(name: str, data_dir: Path | None) -> FlatStore:
    data = named_corpus(name, data_dir)
    return open_corpus(replace(data, folder=name) if Path(name).is_dir() else data)


def find(arguments: Arguments) -> None:
    """Does what the command line asks for.

    Raises:
        ConfigError: The folder holds the overlap of two other corpora; or as
            `sources.open_corpus`, like DataError.
    """
    a, b = (_open(name, arguments.data_dir) for name in (arguments.a, arguments.b))
    content = {"the clips of A": a.fingerprint, "the clips of B": b.fingerprint}
    identity = Identity(content, {}, {"a": arguments.a, "b": arguments.b})
    refuse_other_figures(arguments.out / REPORT, identity)
    overlaps = find_overlaps(a, b)
    excluded = sorted({overlap.a for overlap in overlaps})
    report = {
        "a": {"name": arguments.a, "clips": len(a.ids), "in_b": len(excluded)},
        "b": {
            "name": arguments.b,
            "clips": len(b.ids),
            "in_a": len({overlap.b for overlap in overlaps}),
        },
        "pairs": dict(Counter(overlap.kind for overlap in overlaps)),
        "identity": identity.to_dict(),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / "overlap.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Overlap)])
        writer.writeheader()
        writer.writerows(asdict(overlap) for overlap in overlaps)
    (arguments.out / "exclude.txt").write_text(
        "".join(f"{clip}\n" for clip in excluded), encoding="utf-8"
    )
    write_json(arguments.out / REPORT, report, indent=2)
    print(json.dumps(report, indent=2))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run(lambda: find(parsed(Arguments, argv, __doc__, "tools.find_overlap")))


if __name__ == "__main__":
    sys.exit(main())
