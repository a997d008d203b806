"""Labelled corpora by name or table."""

from dataclasses import replace
from pathlib import Path

from voc2vec_jax.cli.evaluate import open_corpus
from voc2vec_jax.config import DataConfig
from voc2vec_jax.evaluation.cross_validation import LabelledCorpus


def is_table(dataset: str) -> bool:
    """Whether a dataset is given as a CSV, and not by its name."""
    return dataset.endswith(".csv")


def open_labelled(dataset: str, data_dir: Path, *, exclude_bad: bool) -> LabelledCorpus:
    """A corpus by its name or table; see `evaluate.open_corpus`."""
    data = DataConfig(data_dir=str(data_dir))
    data = replace(data, table=dataset) if is_table(dataset) else replace(data, name=dataset)
    return open_corpus(data, exclude_bad=exclude_bad)[1]
