"""Baselines in the folds of both protocols: what they choose, what they cannot know, resuming."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from voc2vec_jax.errors import ConfigError, UnlabelledError
from voc2vec_jax.evaluation.baselines import (
    BASELINES,
    baseline,
    embeddings,
    linear_row,
    majority_row,
    settings_of,
)
from voc2vec_jax.evaluation.clip_vectors import mfcc_statistics
from voc2vec_jax.evaluation.cross_validation import CrossValidation
from voc2vec_jax.evaluation.division import divide
from voc2vec_jax.evaluation.folds import SELECTION_ON_TEST, Fold
from voc2vec_jax.evaluation.labelled_corpus import LabelledCorpus
from voc2vec_jax.evaluation.linear import (
    LINEAR_SVM,
    LOGISTIC_REGRESSION,
    LinearClassifier,
    fit_predict,
    prepared,
)
from voc2vec_jax.evaluation.report import report, summarise
from voc2vec_jax.evaluation.results import FoldResult, fold_path, load_fold
from voc2vec_jax.evaluation.versions import versions
from voc2vec_jax.files import array_sha256

CLASSES = ("cough", "laugh", "sigh")


def make_corpus(clips: int = 90, **changes: object) -> LabelledCorpus:
    """Thirty speakers of three clips, a label each, and tones whose pitch tells the label."""
    labels = np.tile([0, 1, 2], clips // 3)

    def waveforms() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for label in labels:
            time = np.arange(4_800) / 16_000
            tone = np.sin(2 * np.pi * (300 + 500 * label) * time)
            yield (0.3 * tone + rng.normal(0, 0.05, 4_800)).astype(np.float32)

    fields = {
        "name": "tones",
        "ids": [f"{i}.wav" for i in range(clips)],
        "labels": labels,
        "groups": [f"s{i // 3}" for i in range(clips)],
        "class_names": CLASSES,
        "fingerprint": "0123456789abcdef",
        "waveforms": waveforms,
    }
    return LabelledCorpus(**{**fields, **changes})  # type: ignore[arg-type]


def fold_of(corpus: LabelledCorpus, number: int = 0) -> Fold:
    division = divide("grouped", corpus.labels, corpus.groups, corpus.class_names, folds=5)
    return division.folds[number]


def test_the_majority_is_that_of_the_training_part() -> None:
    corpus = make_corpus(labels=np.array([0] * 30 + [1] * 40 + [2] * 20))
    result = majority_row(corpus)(0, fold_of(corpus), 0)
    assert set(result.predictions) == {1}
    assert np.all(result.scores == result.scores[0])
    assert result.scores[0].argmax() == 1


@pytest.mark.parametrize("name", ["mfcc-lr", "mfcc-svm"])
@pytest.mark.parametrize("protocol", ["grouped", "paper"])
def test_tones_are_told_apart(name: str, protocol: str, tmp_path: Path) -> None:
    corpus = make_corpus()
    contender = baseline(name, corpus, tmp_path)
    evaluation = CrossValidation(
        contender.row,
        name,
        corpus,
        protocol,  # type: ignore[arg-type]
        tmp_path / "out",
        folds=5,
        content=contender.content,
        settings=settings_of(name),
    ).run_all()
    vectors = mfcc_statistics(corpus.waveforms())
    assert evaluation.identity["vectors_sha256"] == array_sha256(vectors)
    summary = summarise(evaluation)
    assert summary.pooled.uar > 0.95
    assert evaluation.complete
    facts = evaluation.results[0].facts
    assert ("selection_uar" in facts) == (protocol == "grouped")
    content = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert (content["selection"] == SELECTION_ON_TEST) == (protocol == "paper")
    assert content["scores"]["over_folds"]["std"] == (
        "population" if protocol == "paper" else "sample"
    )


def test_a_test_part_is_scored_once_and_not_chosen_by() -> None:
    """Whatever the labels of the test part are, its predictions stay the same."""
    corpus = make_corpus()
    fold = fold_of(corpus)
    features = np.random.default_rng(1).normal(size=(90, 5)).astype(np.float32)
    honest = linear_row(corpus, features, LOGISTIC_REGRESSION)(0, fold, 0)
    labels = corpus.labels.copy()
    labels[fold.test] = (labels[fold.test] + 1) % 3
    other = linear_row(make_corpus(labels=labels), features, LOGISTIC_REGRESSION)(0, fold, 0)
    np.testing.assert_array_equal(honest.scores, other.scores)


def test_the_strength_is_chosen_on_the_validation_part() -> None:
    """With many features of noise, weak regularisation is worse than strong."""
    rng = np.random.default_rng(2)
    corpus = make_corpus(900)
    signal = np.eye(3)[corpus.labels] + rng.normal(0, 0.5, (900, 3))
    features = np.hstack([signal, rng.normal(size=(900, 500))]).astype(np.float32)
    fold = fold_of(corpus)
    assert fold.validation is not None
    result = linear_row(corpus, features, LOGISTIC_REGRESSION)(0, fold, 0)
    uars = {}
    train, held = prepared(features[fold.train], features[fold.validation])
    for strength in LOGISTIC_REGRESSION.strengths:
        scores = fit_predict(
            LOGISTIC_REGRESSION, train, corpus.labels[fold.train], held, strength, 3
        )
        found = scores.argmax(axis=1)
        uars[strength] = np.mean(
            [np.mean(found[corpus.labels[fold.validation] == label] == label) for label in range(3)]
        )
    assert result.facts["strength"] == max(uars, key=lambda strength: uars[strength])
    assert result.facts["strength"] < 1.0
    assert result.facts["selection_uar"] == pytest.approx(max(uars.values()))


def test_noise_is_at_chance_and_leaking_groups_show_in_the_gap(tmp_path: Path) -> None:
    """Features that only know the speaker, of whom each has one label."""
    rng = np.random.default_rng(3)
    speakers = np.repeat(np.arange(30), 6)
    labels = rng.permutation(np.repeat([0, 1, 2], 10))[speakers]
    corpus = make_corpus(180, labels=labels, groups=[f"s{s}" for s in speakers])
    features = np.eye(30, dtype=np.float32)[speakers]
    row = linear_row(corpus, features, LOGISTIC_REGRESSION)
    pooled = {
        protocol: summarise(
            CrossValidation(
                row, "speaker", corpus, protocol, tmp_path / protocol, content={}, settings={}
            ).run_all()
        ).pooled.uar
        for protocol in ("grouped", "paper")
    }
    assert pooled["paper"] > 0.95
    assert pooled["grouped"] < 0.5  # chance 1/3


@pytest.mark.parametrize("kind", [LOGISTIC_REGRESSION, LINEAR_SVM])
@pytest.mark.parametrize("classes", [[0, 2], [0, 1, 2]])
def test_scores_have_a_column_for_every_class(kind: object, classes: list[int]) -> None:
    rng = np.random.default_rng(4)
    labels = rng.choice(classes, 60)
    train = np.eye(3)[labels] + rng.normal(0, 0.1, (60, 3))
    scores = fit_predict(kind, train, labels, np.eye(3)[classes], 0.1, 4)  # type: ignore[arg-type]
    assert scores.shape == (len(classes), 4)
    assert scores.argmax(axis=1).tolist() == classes
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert np.all(scores[:, [c for c in range(4) if c not in classes]] == 0)


@pytest.mark.parametrize("kind", [LOGISTIC_REGRESSION, LINEAR_SVM])
def test_the_span_of_the_training_clips_is_all_that_counts(kind: LinearClassifier) -> None:
    """Many features give the same scores rotated onto the span of few clips as they are."""
    rng = np.random.default_rng(5)
    labels = np.tile([0, 1, 2], 15)
    train, test = rng.normal(size=(45, 300)), rng.normal(size=(20, 300))
    train[:, 7] = 1.0  # constant in training, not in the test part
    train[:, :3] += 2 * np.eye(3)[labels]
    rotated = prepared(train, test)
    assert [part.shape for part in rotated] == [(45, 45), (20, 45)]
    scale = StandardScaler().fit(train)
    whole = fit_predict(kind, scale.transform(train), labels, scale.transform(test), 0.01, 3)
    found = fit_predict(kind, rotated[0], labels, rotated[1], 0.01, 3)
    np.testing.assert_allclose(found, whole, atol=5e-3)
    assert np.ptp(whole) > 0.3


def test_an_svm_is_solved_where_there_are_fewer_variables() -> None:
    """And gives the same margins there."""
    rng = np.random.default_rng(6)
    square = rng.normal(size=(40, 40))
    labels = np.tile([0, 1], 20)
    assert LINEAR_SVM.make(0.1, np.zeros((41, 40))).dual is False
    dual = LINEAR_SVM.make(0.1, square)
    assert dual.dual is True
    primal = LINEAR_SVM.make(0.1, square).set_params(dual=False, tol=1e-4)
    margins = [model.fit(square, labels).decision_function(square) for model in (dual, primal)]
    np.testing.assert_allclose(*margins, atol=0.02)
    assert np.ptp(margins[0]) > 1


def test_missing_values_are_the_training_means_and_counted() -> None:
    corpus = make_corpus()
    fold = fold_of(corpus)
    features = (np.eye(3)[corpus.labels] + 0.1).astype(np.float32)
    features[fold.test[:2], 1] = np.nan
    features[:, 2] = np.nan  # nothing is known of this one anywhere
    result = linear_row(corpus, features, LOGISTIC_REGRESSION)(0, fold, 0)
    assert result.facts["missing_values"] == 2 + len(fold.test)


def test_a_missing_fold_is_run_alone_and_the_rest_is_kept(tmp_path: Path) -> None:
    corpus, ran = make_corpus(), []
    inner = majority_row(corpus)

    def row(number: int, fold: Fold, seed: int) -> FoldResult:
        ran.append((seed, number))
        if len(ran) == 4:
            raise KeyboardInterrupt
        return inner(number, fold, seed)

    def run() -> None:
        CrossValidation(
            row,
            "m",
            corpus,
            "grouped",
            tmp_path,
            folds=3,
            seeds=(0, 7),
            content={},
            settings={"a": 1},
        ).run_all()

    with pytest.raises(KeyboardInterrupt):
        run()
    content = json.loads((tmp_path / "results.json").read_text())
    assert (content["folds_run"], content["folds_asked"]) == (3, 6)
    run()
    assert ran == [(0, 0), (0, 1), (0, 2), (7, 0), (7, 0), (7, 1), (7, 2)]
    content = json.loads((tmp_path / "results.json").read_text())
    assert (content["folds_run"], content["folds_asked"], content["seeds"]) == (6, 6, [0, 7])
    assert sum(entry["tested"] for entry in content["per_class"]) == 180
    run_sha256 = content["identity"]["run_sha256"]
    assert load_fold(fold_path(tmp_path, 7, 2), run_sha256).seed == 7


def test_other_content_or_settings_need_another_folder(tmp_path: Path) -> None:
    corpus = make_corpus()
    ours, theirs = "0a" * 32, "1b" * 32

    def run(corpus: LabelledCorpus, model: str = "m", sha256: str = ours, **settings: int) -> None:
        CrossValidation(
            majority_row(corpus), model, corpus, "grouped", tmp_path, folds=3,
            content={"model_sha256": sha256}, settings=settings,
        ).run_all()  # fmt: skip

    run(corpus)
    kept = fold_path(tmp_path, 0, 1)
    before = kept.stat().st_mtime_ns
    run(dataclasses.replace(corpus, name="renamed"), model="moved")
    assert kept.stat().st_mtime_ns == before
    content = json.loads((tmp_path / "results.json").read_text())
    assert (content["model"], content["dataset"]) == ("moved", "renamed")
    assert content["identity"]["model_sha256"] == ours
    assert content["identity"]["corpus_fingerprint"] == "0123456789abcdef"
    kept.unlink()  # a fold of the other model must not be put beside those that are there
    with pytest.raises(ConfigError, match="the model's parameters or configuration: 0a0a0a"):
        run(corpus, sha256=theirs)
    assert not kept.exists()
    with pytest.raises(ConfigError, match="the clips of the corpus: '0123456789abcdef' there"):
        run(make_corpus(fingerprint="other"))
    with pytest.raises(ConfigError, match="classes, labels, groups or folds"):
        run(make_corpus(labels=corpus.labels[::-1].copy()))
    with pytest.raises(ConfigError, match="epochs: None there, 3 asked for"):
        run(corpus, epochs=3)
    labels = corpus.labels.copy()
    labels[0] = -1
    with pytest.raises(UnlabelledError, match="1 of 90 clips have no label"):
        run(make_corpus(labels=labels))


def test_folds_of_several_versions_are_said(tmp_path: Path) -> None:
    corpus = make_corpus()

    def run() -> tuple[str, ...]:
        return (
            CrossValidation(
                majority_row(corpus),
                "m",
                corpus,
                "grouped",
                tmp_path,
                folds=3,
                content={},
                settings={},
            )
            .run_all()
            .warnings
        )

    (copies,) = run()
    assert "no sound to compare" in copies
    path = fold_path(tmp_path, 0, 1)
    fold = json.loads(path.read_text())
    path.write_text(json.dumps({**fold, "versions": {**fold["versions"], "jax": "0.1"}}))
    now = versions()["jax"]
    _, warning = run()
    assert warning == f"folds were made by different versions of jax: 2 with {now}, 1 with 0.1"


def test_a_report_says_what_was_left_out_and_what_is_wrong(tmp_path: Path) -> None:
    corpus = make_corpus(
        labels=np.array([2] + [0, 1] * 44 + [0]),
        groups=[""] * 90,
        excluded=({"file": "x.wav", "reason": "empty"},),
    )
    evaluation = CrossValidation(
        majority_row(corpus),
        "majority",
        corpus,
        "grouped",
        tmp_path,
        folds=3,
        content={},
        settings={},
    ).run_all()
    content = report(evaluation)
    assert content["excluded_clips"] == 1
    assert content["excluded"] == [{"file": "x.wav", "reason": "empty"}]
    assert content["warnings"][0].startswith("groups are unknown")
    assert any(
        "class 'sigh' (1 clips) is not in the test part of fold" in w for w in content["warnings"]
    )
    assert [entry["recall"] for entry in content["per_class"]].count(0.0) >= 1
    assert {fold["clips"] for fold in content["per_fold"]} == {30}
    assert content["versions"]["scikit-learn"]
    assert content == json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))


def test_embeddings_from_a_file_are_a_row(tmp_path: Path) -> None:
    corpus = make_corpus()
    path = tmp_path / "vectors.npz"
    vectors = np.eye(3)[corpus.labels][::-1]
    np.savez(path, ids=np.array(corpus.ids[::-1]), embeddings=vectors)
    row = embeddings(corpus, path, LINEAR_SVM)
    evaluation = CrossValidation(
        row.row, "e", corpus, "grouped", tmp_path / "out", content=row.content, settings={}
    ).run_all()
    # In the order of the corpus, whatever that of the file.
    assert evaluation.identity["vectors_sha256"] == array_sha256(vectors[::-1].astype(np.float32))
    assert summarise(evaluation).pooled.uar == 1


def test_an_unknown_baseline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="baseline 'mfcc-knn': choose one of majority, mfcc-lr"):
        baseline("mfcc-knn", make_corpus(), tmp_path)
    assert set(BASELINES) == {
        "majority", "mfcc-lr", "mfcc-svm", "egemaps-lr", "egemaps-svm", "compare-lr", "compare-svm"
    }  # fmt: skip
