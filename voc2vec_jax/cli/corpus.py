"""Labelled corpora for commands: here the data pipelines and the evaluation meet."""

from pathlib import Path

from data_pipelines.batches.fine_tuning import dropped_files
from data_pipelines.corpora import sources
from data_pipelines.stores.flat_store import FlatStore, from_int16
from voc2vec_jax.audio.spelling import escaped
from voc2vec_jax.audio.tables import is_table
from voc2vec_jax.config import DataConfig
from voc2vec_jax.errors import DataError
from voc2vec_jax.evaluation.cross_validation import LabelledCorpus

SHOWN_FILES = 20


def named_corpus(name: str, data_dir: Path | None) -> DataConfig:
    """A corpus by one word: a table (`FILE.csv`, `FILE.tsv`), or a dataset by its name."""
    kept = None if data_dir is None else str(data_dir)
    if is_table(name):
        return DataConfig(table=name, data_dir=kept)
    return DataConfig(name=name, data_dir=kept)


def open_labelled(
    data: DataConfig, *, exclude_bad: bool = False
) -> tuple[FlatStore, LabelledCorpus]:
    """The corpus that `data` names, decoded if this is its first use.

    Returns:
        Its store, and the clips as evaluations want them.

    Raises:
        ConfigError: No such corpus.
        DataError: It cannot be read, or a file of it cannot, and it is not to be excluded.
    """
    store = sources.open_corpus(data, classes=True)
    dropped = dropped_files(store)
    if dropped and not exclude_bad:
        lines = [f"  {drop['file']}: {drop['reason']}" for drop in dropped[:SHOWN_FILES]]
        if len(dropped) > SHOWN_FILES:
            lines.append(f"  … and {len(dropped) - SHOWN_FILES} more (report.json has them all)")
        raise DataError(
            f"{len(dropped)} files cannot be used:\n" + "\n".join(lines) + "\nmend or remove them "
            "(then they are read again), or leave them out with --exclude-bad"
        )
    own = data.folder or data.table
    return store, LabelledCorpus(
        name=escaped(Path(own).stem) if own else data.name.replace("/", "-"),
        ids=store.ids,
        labels=store.labels,
        groups=store.groups,
        class_names=store.class_names,
        folds=store.folds,
        clip_sha256=store.clip_sha256,
        fingerprint=store.fingerprint,
        waveforms=lambda: (
            from_int16(store.read(clip, 0, int(length)))
            for clip, length in enumerate(store.lengths)
        ),
        excluded=dropped,
    )
