"""What a model has to beat, in the same folds: the commonest class, and linear classifiers.

The vectors are MFCC statistics, openSMILE's, or whatever a file holds (`clip_vectors.py`). Under
`grouped` and `given`, the strength of regularisation is chosen on the validation part of each fold,
and the classifier is then fitted on the training and validation parts. Under `paper` it is fixed:
there is nothing to choose on but the fold that is reported.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voc2vec_jax.errors import ConfigError
from voc2vec_jax.evaluation.clip_vectors import EXTRACTORS, Floats, cached, read_embeddings
from voc2vec_jax.evaluation.cross_validation import Row
from voc2vec_jax.evaluation.folds import Fold
from voc2vec_jax.evaluation.labelled_corpus import LabelledCorpus
from voc2vec_jax.evaluation.linear import (
    LINEAR_SVM,
    LOGISTIC_REGRESSION,
    LinearClassifier,
    best_strength,
    fit_predict,
    prepared,
)
from voc2vec_jax.evaluation.results import FoldResult
from voc2vec_jax.files import array_sha256
from voc2vec_jax.scores import Ints, confusion, scores_of

MAJORITY = "majority"
CLASSIFIERS = {"lr": LOGISTIC_REGRESSION, "svm": LINEAR_SVM}
BASELINES = (MAJORITY, *(f"{vectors}-{kind}" for vectors in EXTRACTORS for kind in CLASSIFIERS))
"""Names of all baselines: `mfcc-lr`, `compare-svm`, …"""


@dataclass(frozen=True)
class Contender:
    """A row of the table with what it is made of."""

    row: Row
    content: Mapping[str, str]
    """sha256 of the vectors that it reads, in the order of the corpus; see `CrossValidation`."""


def baseline(name: str, corpus: LabelledCorpus, cache_dir: Path) -> Contender:
    """A baseline by its name; vectors are computed once for a corpus and kept.

    Args:
        name: One of `BASELINES`.
        corpus: What it is evaluated on.
        cache_dir: Gets the vectors.

    Raises:
        ConfigError: No such baseline, or openSMILE is needed and not installed.
        FeaturesError: A file of vectors is damaged.
    """
    if name == MAJORITY:
        return Contender(majority_row(corpus), {})
    vectors, _, kind = name.rpartition("-")
    if vectors not in EXTRACTORS or kind not in CLASSIFIERS:
        raise ConfigError(f"baseline {name!r}: choose one of {', '.join(BASELINES)}")
    features = cached(vectors, corpus.waveforms, corpus.fingerprint, cache_dir)
    return _on_vectors(corpus, features, CLASSIFIERS[kind])


def settings_of(name: str) -> dict[str, Any]:
    """What decides the numbers of a baseline, or of embeddings, besides their vectors."""
    if name == MAJORITY:
        return {"classifier": "commonest class"}
    kind = CLASSIFIERS[name.rpartition("-")[2]]
    return {
        "classifier": kind.name,
        "strengths": list(kind.strengths),
        "paper_strength": kind.default_strength,
    }


def embeddings(corpus: LabelledCorpus, path: Path, kind: LinearClassifier) -> Contender:
    """A linear classifier on vectors that some model wrote; see `clip_vectors.read_embeddings`."""
    return _on_vectors(corpus, read_embeddings(path, corpus.ids), kind)


def _on_vectors(corpus: LabelledCorpus, features: Floats, kind: LinearClassifier) -> Contender:
    return Contender(linear_row(corpus, features, kind), {"vectors_sha256": array_sha256(features)})


def majority_row(corpus: LabelledCorpus) -> Row:
    """Names the commonest class of the training part every time."""

    def run(number: int, fold: Fold, seed: int) -> FoldResult:
        counts = np.bincount(corpus.labels[_known(fold)], minlength=len(corpus.class_names))
        scores = np.tile(counts / counts.sum(), (len(fold.test), 1))
        return _result(corpus, number, fold, seed, scores, {"seconds": 0.0})

    return run


def linear_row(corpus: LabelledCorpus, features: Floats, kind: LinearClassifier) -> Row:
    """A linear classifier on fixed vectors.

    Args:
        corpus: What it is evaluated on.
        features: [clips, width]; NaN where there is no value.
        kind: Of classifier.
    """
    labels, classes = corpus.labels, len(corpus.class_names)

    def uar(true: Ints, predicted: Ints) -> float:
        return scores_of(confusion(true, predicted, classes)).uar

    def run(number: int, fold: Fold, seed: int) -> FoldResult:
        start = time.perf_counter()
        facts: dict[str, Any] = {"strength": kind.default_strength}
        if fold.validation is not None:
            strength, selection = best_strength(
                kind,
                (features[fold.train], labels[fold.train]),
                (features[fold.validation], labels[fold.validation]),
                classes,
                uar,
            )
            facts = {"strength": strength, "selection_uar": selection}
        known = _known(fold)
        train, test = prepared(features[known], features[fold.test])
        scores = fit_predict(kind, train, labels[known], test, facts["strength"], classes)
        facts["missing_values"] = int(np.isnan(features[fold.test]).sum())
        facts["seconds"] = round(time.perf_counter() - start, 3)
        return _result(corpus, number, fold, seed, scores, facts)

    return run


def _known(fold: Fold) -> Ints:
    """All clips but those of the test part."""
    if fold.validation is None:
        return fold.train
    return np.concatenate([fold.train, fold.validation])


def _result(
    corpus: LabelledCorpus,
    number: int,
    fold: Fold,
    seed: int,
    scores: np.ndarray,
    facts: dict[str, Any],
) -> FoldResult:
    return FoldResult(
        fold=number,
        seed=seed,
        classes=tuple(corpus.class_names),
        clip_ids=tuple(corpus.ids[clip] for clip in fold.test),
        groups=tuple(corpus.units.names[clip] for clip in fold.test),
        labels=corpus.labels[fold.test],
        predictions=scores.argmax(axis=1),
        scores=scores,
        train_clips=len(_known(fold)),
        facts=facts,
    )
