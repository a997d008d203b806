"""Labelled corpora for commands: here the data pipelines and the evaluation meet."""

from pathlib import Path

from data_pipelines.batches.fine_tuning import left_out
from data_pipelines.corpora import sources
from data_pipelines.preparation.copies import copies_of
from data_pipelines.stores.flat_store import FlatStore
from voc2vec_jax.audio.spelling import escaped
from voc2vec_jax.audio.tables import is_table
from voc2vec_jax.cli.command import say
from voc2vec_jax.config import DataConfig
from voc2vec_jax.errors import DataError
from voc2vec_jax.evaluation.labelled_corpus import LabelledCorpus

SHOWN_FILES = 20


def named_corpus(name: str, data_dir: Path | None) -> DataConfig:
    """A corpus by one word: a table (`FILE.csv`, `FILE.tsv`), or a dataset by its name."""
    kept = None if data_dir is None else str(data_dir)
    if is_table(name):
        return DataConfig(table=name, data_dir=kept)
    return DataConfig(name=name, data_dir=kept)


def corpus_name(data: DataConfig) -> str:
    """What a corpus is called in tables, and its folder among those of a suite."""
    own = data.folder or data.table
    return escaped(Path(own).stem) if own else data.name.replace("/", "-")


def open_labelled(
    data: DataConfig, *, exclude_bad: bool = False
) -> tuple[FlatStore, LabelledCorpus]:
    """The corpus that `data` names, decoded if this is its first use.

    Returns:
        Its store, and the clips as evaluations want them.

    Raises:
        ConfigError: No such corpus.
        DataError: It cannot be read, or a file of it cannot, and it is not to be excluded. Files
            that were left out on purpose, or as copies, are counted in a note.
    """
    store = sources.open_corpus(data, classes=True)
    without = left_out(store)
    dropped, copies, excluded = without["dropped"], without["copies"], without["excluded"]
    if dropped and not exclude_bad:
        lines = [f"  {drop['file']}: {drop['reason']}" for drop in dropped[:SHOWN_FILES]]
        if len(dropped) > SHOWN_FILES:
            lines.append(f"  … and {len(dropped) - SHOWN_FILES} more (report.json has them all)")
        raise DataError(
            f"{len(dropped)} files cannot be used:\n" + "\n".join(lines) + "\nmend or remove them "
            "(then they are read again), or leave them out with --exclude-bad"
        )
    if copies or excluded:
        say(
            f"note: {store.name}: {len(excluded)} files were left out on purpose, and {len(copies)}"
            " as copies of others (report.json lists them)"
        )
    return store, LabelledCorpus(
        name=corpus_name(data),
        ids=store.ids,
        labels=store.labels,
        groups=store.groups,
        class_names=store.class_names,
        folds=store.folds,
        # Without labels it is refused anyway, and need not be listened to first.
        copies=copies_of(store) if (store.labels >= 0).all() else None,
        fingerprint=store.fingerprint,
        waveforms=lambda: (store.waveform(clip) for clip in range(len(store.ids))),
        excluded=dropped,
    )
