"""Linear probe of a frozen model: `python -m tools.probe runs/mine/export --table clips.csv`.

Compares the model with itself at random initialisation, with statistics of MFCCs and with chance,
on folds that share no speaker. `python -m data_pipelines.corpora` makes the tables of EmoGator and
Donate-a-Cry.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from data_pipelines.stores.flat_store import FlatStore, from_int16
from voc2vec_jax.checkpoints.loading import load_encoder
from voc2vec_jax.cli.command import parsed, prepare_process, run
from voc2vec_jax.config import DataConfig
from voc2vec_jax.evaluation import probing
from voc2vec_jax.evaluation.clip_vectors import mfcc_statistics
from voc2vec_jax.files import write_json
from voc2vec_jax.scores import Scores


@dataclass(frozen=True)
class Arguments:
    """Frozen linear probe, cross-validated over groups."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Model folders or hub ids of one architecture, such as runs with different seeds."""
    table: Path
    """CSV with the columns path, label and group, and start and end for segments."""
    out: Path | None = None
    """Also write the figures there, as JSON."""
    folds: int = 5
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seed is another division into folds."""
    init_seeds: tuple[int, ...] = (0, 1, 2)
    """Random initialisations to compare with."""
    data_dir: Path | None = None
    """Where decoded corpora are kept; default `$VOC2VEC_DATA_DIR`, else `~/.cache/voc2vec_jax`."""


@dataclass(frozen=True)
class Row:
    """One way of making features, and its scores by layer: one per model and division."""

    name: str
    models: int
    scores: dict[str, list[Scores]]


def read_clips(arguments: Arguments) -> tuple[FlatStore, list[NDArray[np.float32]]]:
    """The decoded table."""
    from data_pipelines.corpora.sources import open_corpus

    data_dir = None if arguments.data_dir is None else str(arguments.data_dir)
    store = open_corpus(DataConfig(table=str(arguments.table), data_dir=data_dir))
    lengths = enumerate(store.lengths.tolist())
    return store, [from_int16(store.read(clip, 0, length)) for clip, length in lengths]


def rows(arguments: Arguments, store: FlatStore, waveforms: list[NDArray[np.float32]]) -> list[Row]:
    """Every comparison of the table, printed as it comes."""

    def row(name: str, sources: list[probing.Features]) -> Row:
        scores: dict[str, list[Scores]] = {}
        for features in sources:
            for seed in arguments.seeds:
                found = probing.probe(
                    features, store.labels, store.groups, folds=arguments.folds, seed=seed
                )
                for layer, score in found.items():
                    scores.setdefault(layer, []).append(score)
        made = Row(name, len(sources), scores)
        print("\n".join(lines(made)), flush=True)
        return made

    loaded = [load_encoder(source, padding="masked") for source in arguments.models]
    fresh = [probing.randomly_initialised(loaded[0], seed) for seed in arguments.init_seeds]
    chance = Row("majority class", 1, {"-": [probing.majority(store.labels)]})
    print("\n".join(lines(chance)))
    return [
        chance,
        row("MFCC statistics", [{"MFCC": mfcc_statistics(waveforms)}]),
        row("random initialisation", [probing.hidden_statistics(m, waveforms) for m in fresh]),
        row("pre-trained", [probing.hidden_statistics(m, waveforms) for m in loaded]),
    ]


def figures(values: list[float]) -> tuple[float, float]:
    """Mean and sample standard deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def lines(row: Row) -> list[str]:
    """A line of Markdown per layer."""
    out = []
    for layer, scores in row.scores.items():
        uar, f1 = (figures([getattr(s, field) for s in scores]) for field in ("uar", "macro_f1"))
        out.append(
            f"| {row.name} | {layer} | {uar[0]:.3f} ± {uar[1]:.3f} | {f1[0]:.3f} ± {f1[1]:.3f} "
            f"| {row.models} × {len(scores) // row.models} |"
        )
    return out


def report(arguments: Arguments, store: FlatStore, made: list[Row]) -> dict[str, object]:
    """The figures as plain values, without paths of the machine."""
    table = []
    for row in made:
        for layer, scores in row.scores.items():
            entry: dict[str, object] = {"features": row.name, "layer": layer, "models": row.models}
            for field in ("uar", "macro_f1"):
                values = [getattr(score, field) for score in scores]
                mean, deviation = figures(values)
                entry |= {f"{field}_mean": round(mean, 4), f"{field}_std": round(deviation, 4)}
                entry[field] = [round(value, 4) for value in values]
            table.append(entry)
    return {
        "table": arguments.table.name,
        "clips": len(store.ids),
        "classes": store.class_names,
        "groups": len(set(store.groups)),
        "folds": arguments.folds,
        "division_seeds": list(arguments.seeds),
        "init_seeds": list(arguments.init_seeds),
        "rows": table,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (see the README)."""

    def work() -> None:
        arguments = parsed(Arguments, argv, __doc__, "tools.probe")
        store, waveforms = read_clips(arguments)
        print("| features | layer | UAR | macro F1 | models × divisions |\n|---|---|---|---|---|")
        made = rows(arguments, store, waveforms)
        if arguments.out is not None:
            write_json(arguments.out, report(arguments, store, made))

    return run(work)


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
