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

from data_pipelines.preparation.copies import copies_of
from data_pipelines.stores.flat_store import FlatStore
from voc2vec_jax.checkpoints.loading import load_encoder
from voc2vec_jax.checkpoints.pretrained import PretrainedModel
from voc2vec_jax.cli.command import parsed, prepare_process, run, say
from voc2vec_jax.config import DataConfig
from voc2vec_jax.evaluation import probing
from voc2vec_jax.evaluation.clip_vectors import EXTRACTORS, mfcc_statistics
from voc2vec_jax.evaluation.identity import Identity, labelling_sha256, refuse_other_figures
from voc2vec_jax.evaluation.independent_units import said_of_copies, said_of_joining, units_of
from voc2vec_jax.evaluation.linear import LOGISTIC_REGRESSION
from voc2vec_jax.evaluation.versions import versions
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
    """Also write the figures there, as JSON; a file with those of other models, clips or settings
    is refused."""
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
    return store, [store.waveform(clip) for clip in range(len(store.ids))]


def groups_of(store: FlatStore) -> Sequence[str]:
    """Group of each clip, joined where clips are copies of one another, which is said."""
    if (store.labels < 0).any():  # is refused anyway, and need not be listened to first
        return store.groups
    units = units_of(store.groups, copies_of(store))
    for sentence in (*said_of_copies(units, store.labels), *said_of_joining(units)):
        say(f"note: {sentence}")
    return units.names


def identity_of(
    arguments: Arguments,
    store: FlatStore,
    groups: Sequence[str],
    loaded: Sequence[PretrainedModel],
) -> Identity:
    """What decides the figures."""
    return Identity(
        content={
            **{f"model {place}": model.sha256 for place, model in enumerate(loaded, start=1)},
            "corpus_fingerprint": store.fingerprint,
            "labelling_sha256": labelling_sha256(store.class_names, store.labels, groups),
        },
        settings={
            "folds": arguments.folds,
            "division_seeds": list(arguments.seeds),
            "init_seeds": list(arguments.init_seeds),
            "strengths": list(LOGISTIC_REGRESSION.strengths),
            "mfcc": dict(EXTRACTORS["mfcc"].parameters),
        },
        names={"dataset": arguments.table.name},
    )


def rows(
    arguments: Arguments,
    store: FlatStore,
    groups: Sequence[str],
    waveforms: list[NDArray[np.float32]],
    loaded: Sequence[PretrainedModel],
) -> list[Row]:
    """Every comparison of the table, printed as it comes."""

    def row(name: str, sources: list[probing.Features]) -> Row:
        scores: dict[str, list[Scores]] = {}
        for features in sources:
            for seed in arguments.seeds:
                found = probing.probe(
                    features, store.labels, groups, folds=arguments.folds, seed=seed
                )
                for layer, score in found.items():
                    scores.setdefault(layer, []).append(score)
        made = Row(name, len(sources), scores)
        print("\n".join(lines(made)), flush=True)
        return made

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


def report(
    arguments: Arguments,
    store: FlatStore,
    groups: Sequence[str],
    made: list[Row],
    identity: Identity,
) -> dict[str, object]:
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
        "identity": identity.to_dict(),
        "versions": versions(),
        "table": arguments.table.name,
        "clips": len(store.ids),
        "classes": store.class_names,
        "groups": len(set(groups)),
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
        groups = groups_of(store)
        loaded = [load_encoder(source, padding="masked") for source in arguments.models]
        identity = identity_of(arguments, store, groups, loaded)
        if arguments.out is not None:
            refuse_other_figures(arguments.out, identity)
        print("| features | layer | UAR | macro F1 | models × divisions |\n|---|---|---|---|---|")
        made = rows(arguments, store, groups, waveforms, loaded)
        if arguments.out is not None:
            write_json(arguments.out, report(arguments, store, groups, made, identity))

    return run(work)


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
