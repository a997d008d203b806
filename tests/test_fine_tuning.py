"""Fine-tuning of folds: what is shared, what is selected, and scores that are the export's."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import softmax

from data_pipelines.batches.fine_tuning import CorpusClips
from data_pipelines.stores.flat_store import FlatStore
from data_pipelines.stores.sound import from_int16
from tests.conftest import NO_DROPOUT
from tests.labelled_corpus import CLASSES, MODEL, corpus
from tests.reference import clips as noise
from voc2vec_jax.checkpoints.loading import from_pretrained
from voc2vec_jax.checkpoints.pretrained import Preprocessor, PretrainedModel
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.evaluation.cross_validation import CrossValidation
from voc2vec_jax.evaluation.exporting import Exporting
from voc2vec_jax.evaluation.fine_tuning import FineTuning
from voc2vec_jax.evaluation.folds import Fold
from voc2vec_jax.evaluation.labelled_corpus import LabelledCorpus
from voc2vec_jax.evaluation.recipe import RECIPES, Recipe, fold_config
from voc2vec_jax.evaluation.results import FoldResult, save_fold
from voc2vec_jax.features.clip_states import pooled_states
from voc2vec_jax.models import HubertModel, Wav2Vec2ForSequenceClassification, Wav2Vec2Model
from voc2vec_jax.models.architectures import CLASSIFIERS
from voc2vec_jax.models.classifier import PooledClassifier
from voc2vec_jax.models.parameters import describe, merge, split
from voc2vec_jax.objectives.classify import clip_scores
from voc2vec_jax.training.log.metrics_file import read_metrics
from voc2vec_jax.training.optimizer import layer_wise_rates, values_by_path

pytestmark = pytest.mark.unoptimised

RECIPE = Recipe(epochs=3, batch=4, learning_rate=3e-3, max_seconds=0.4)


def encoder_of(model=MODEL) -> PretrainedModel:  # type: ignore[no-untyped-def]
    kind = {"wav2vec2": Wav2Vec2Model, "hubert": HubertModel}[model.model_type]
    _, params = split(kind(model, rngs=nnx.Rngs(0)))
    return PretrainedModel(kind, model, params, preprocessor=Preprocessor())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FlatStore:
    return corpus(tmp_path_factory.mktemp("corpus"))


def labelled(store: FlatStore) -> LabelledCorpus:
    return LabelledCorpus(
        name="tones",
        ids=store.ids,
        labels=store.labels,
        groups=store.groups,
        class_names=store.class_names,
        fingerprint=store.fingerprint,
        waveforms=lambda: iter(()),
    )


def row(store: FlatStore, out: Path, **fields: object) -> FineTuning:
    protocol = fields.pop("protocol", "grouped")
    export = fields.pop("export", None)
    recipe = dataclasses.replace(RECIPE, **fields)  # type: ignore[arg-type]
    return FineTuning(
        encoder_of(), labelled(store), CorpusClips(store), protocol, recipe, out, export  # type: ignore[arg-type]
    )  # fmt: skip


FOLD = Fold(np.arange(12), np.arange(12, 18), np.array([20, 18, 29, 25]))


def test_folds_share_programs_and_the_export_gives_their_scores(
    store: FlatStore, tmp_path: Path
) -> None:
    """Also for clips in several windows: scores are those of the exported model, clip by clip."""
    made = row(store, tmp_path, export="best")
    programs = []
    evaluation = CrossValidation(
        made, "m", labelled(store), "grouped", tmp_path, folds=3, content={}, settings={},
        finished=lambda result: programs.append(result.facts["compiled_programs"]),
    ).run_all()  # fmt: skip
    assert evaluation.complete
    # One to train and one to predict, for the one length that there is.
    assert programs == [2, 2, 2]
    best = json.loads((tmp_path / "export.json").read_text())
    chosen = evaluation.results[best["fold"]]
    assert best["selection_score"] == max(
        result.facts["selection_score"] for result in evaluation.results
    )
    model = from_pretrained(tmp_path / "export", padding="masked")
    assert model.config.labels == CLASSES
    several = 0
    for clip_id, scores in zip(chosen.clip_ids, chosen.scores, strict=True):
        clip = store.ids.index(clip_id)
        wave = from_int16(store.read(clip, 0, int(store.lengths[clip])))
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
        pieces = -(-len(wave) // 6_400)
        several += pieces > 1
        parts = [
            wave[i * len(wave) // pieces : (i + 1) * len(wave) // pieces] for i in range(pieces)
        ]
        logits = [np.asarray(model(part[None]).logits[0], np.float64) for part in parts]
        frames = [model(part[None]).frame_mask.sum() for part in parts]
        expected = softmax(np.average(logits, axis=0, weights=np.array(frames, float)))
        np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert several, "some clip has to be longer than a window"


def test_the_best_epoch_is_kept_though_training_goes_on(store: FlatStore, tmp_path: Path) -> None:
    """The first of those with the highest figure; later updates do not touch its parameters."""
    made = row(store, tmp_path, epochs=4, patience=None, learning_rate=0.05, warmup_share=0.0)
    result = made(0, FOLD, 0)
    lines = read_metrics(tmp_path / "runs" / "seed0-fold00" / "metrics.jsonl")
    uars = [line["eval_uar"] for line in lines]
    assert len(uars) == 4
    assert result.facts["best_epoch"] == 1 + int(np.argmax(uars))
    assert result.facts["selection_score"] == max(uars)
    assert not (tmp_path / "runs" / "seed0-fold00" / "checkpoints").exists()


def test_patience_ends_a_fold_early(store: FlatStore, tmp_path: Path) -> None:
    """With a rate that changes nothing, the first epoch stays the best."""
    result = row(store, tmp_path, epochs=9, patience=2, learning_rate=1e-12)(0, FOLD, 0)
    assert (result.facts["best_epoch"], result.facts["epochs"]) == (1, 3)


def test_the_paper_protocol_names_classes_as_they_appear(store: FlatStore, tmp_path: Path) -> None:
    """A class that only the test part has: no crash, no score for it, its clips count as wrong."""
    made = row(store, tmp_path, protocol="paper", epochs=1)
    order = [clip for clip in (20, 2, 0, 3, 5, 6, 8) if store.labels[clip] != 1]
    fold = Fold(np.array(order), None, np.flatnonzero(store.labels == 1)[:4])
    assert made._class_order(fold).tolist() == [2, 0, 1]
    result = made(0, fold, 0)
    assert result.labels.tolist() == [1] * 4
    assert not result.scores[:, 1].any()
    assert 1 not in result.predictions
    config = json.loads((tmp_path / "runs" / "seed0-fold00" / "config.json").read_text())
    assert config["classify"]["padding"] == "hf"
    assert config["data"]["bucket_seconds"] == [0.4]
    assert result.facts["selected_by"] == "uar"


POOLED = {("masked", "wav2vec2", False), ("hf", "hubert", True)}
"""Quick to test; all others are thorough."""


def test_recipes_of_the_protocols() -> None:
    paper = fold_config(RECIPES["paper"], "paper", encoder_of(), CLASSES, 1, 0.1)
    assert (paper.optim.learning_rate, paper.optim.warmup_steps) == (1e-4, 500)
    assert paper.optim.warmup_share is None
    assert (paper.data.normalize, paper.data.max_seconds) == ("padded", 7.0)
    assert (paper.data.batch_clips, paper.train.patience, paper.train.best_by) == (
        16,
        5,
        "macro_f1",
    )
    ours = fold_config(RECIPES["grouped"], "grouped", encoder_of(), CLASSES, 1, 0.1)
    assert (ours.data.normalize, ours.classify.padding) == ("clip", "masked")
    assert ours.optim.warmup_share == 0.1
    with pytest.raises(ConfigError, match="--freeze-encoder"):
        Recipe(freeze_encoder=True, layer_decay=0.5)


@pytest.mark.parametrize(
    ("padding", "family", "weighted"),
    [
        pytest.param(*case, marks=[pytest.mark.thorough] * (case not in POOLED))
        for case in itertools.product(("masked", "hf"), CLASSIFIERS, (False, True))
    ],
)
def test_a_head_on_pooled_states_says_what_the_whole_classifier_says(
    family: str, weighted: bool, padding: str
) -> None:
    model = dataclasses.replace(
        MODEL, **NO_DROPOUT, model_type=family, labels=CLASSES, use_weighted_layer_sum=weighted
    )
    graphdef, params = split(CLASSIFIERS[family](model, rngs=nnx.Rngs(3)))
    params = {
        path: value + 0.1 * jax.random.normal(jax.random.key(i), value.shape)
        for i, (path, value) in enumerate(params.items())
    }
    encoder = encoder_of(model)
    encoder.params = {
        path.removeprefix(f"{family}."): value
        for path, value in params.items()
        if path.startswith(family)
    }
    waveform, lengths = noise([5_000, 3_000])
    batch = {
        "waveform": waveform,
        "lengths": lengths,
        "clips": np.array([1, 0]),
        "weight": np.array([1.0, 2.0]),
    }
    pooled = pooled_states(encoder, [batch], 2, padding=padding, all_layers=weighted)  # type: ignore[arg-type]
    head, _ = describe(PooledClassifier, model)
    own = {path: value for path, value in params.items() if not path.startswith(family)}
    found = merge(head, own)(jnp.asarray(pooled))
    expected = merge(graphdef, params)(waveform, lengths, padding=padding).logits
    np.testing.assert_allclose(np.asarray(found)[[1, 0]], expected, atol=1e-5)


def test_a_frozen_encoder_is_heard_once_and_stays(
    store: FlatStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = row(store, tmp_path, freeze_encoder=True, epochs=20, export="best")
    result = made(0, FOLD, 0)
    monkeypatch.setattr("voc2vec_jax.evaluation.fine_tuning.pooled_states", None)
    made(1, FOLD, 0)
    other = row(store, tmp_path, freeze_encoder=True)  # as another process would
    np.testing.assert_array_equal(other._features(), made._features())
    exported = from_pretrained(tmp_path / "export", architecture=Wav2Vec2Model)
    for path, value in made.encoder.params.items():
        np.testing.assert_array_equal(exported.params[path], value)
    whole = from_pretrained(tmp_path / "export", padding="masked")
    short = [i for i, clip in enumerate(FOLD.test) if store.lengths[clip] <= 6_400]
    assert short
    best = json.loads((tmp_path / "export.json").read_text())
    result = result if best["fold"] == 0 else made(1, FOLD, 0)
    for place in short:
        clip = FOLD.test[place]
        wave = from_int16(store.read(clip, 0, int(store.lengths[clip])))
        scores = softmax(np.asarray(whole(*whole.preprocess([wave])).logits[0], np.float64))
        np.testing.assert_allclose(result.scores[place], scores, atol=1e-4)


def test_a_head_that_transformers_lacks_is_not_exported(store: FlatStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--head mlp: transformers has no such head"):
        row(store, tmp_path, head="mlp", export="best")
    result = row(store, tmp_path, head="mlp", freeze_encoder=True, epochs=1)(0, FOLD, 0)
    assert len(result.clip_ids) == 4


def test_what_was_not_kept_cannot_be_exported(store: FlatStore, tmp_path: Path) -> None:
    save_fold(tmp_path, row(store, tmp_path, freeze_encoder=True, epochs=1)(0, FOLD, 0), "")
    with pytest.raises(ConfigError, match="folds that were finished without it"):
        row(store, tmp_path, export="best")


def classifier_of(seed: int) -> PretrainedModel:
    model, kind = dataclasses.replace(MODEL, labels=CLASSES), Wav2Vec2ForSequenceClassification
    _, params = split(kind(model, rngs=nnx.Rngs(seed)))
    return PretrainedModel(kind, model, params, preprocessor=Preprocessor())


RUN = "5a" * 32


def answer(number: int, score: float) -> FoldResult:
    """Of fold `number`, which was selected by `score`: two clips right, one wrong."""
    labels, classes = np.array([0, 1, 2]), np.eye(3)
    return FoldResult(
        number, 0, CLASSES, ("a", "b", "c"), ("", "", ""), labels, np.array([0, 1, 1]),
        classes[[0, 1, 1]], 6, {"selection_score": score},
    )  # fmt: skip


def test_every_fold_keeps_its_model_and_its_own_scores(tmp_path: Path) -> None:
    kept = Exporting("all", tmp_path, "grouped", RECIPE, "tones, 30 clips")
    results = [answer(0, 0.25), answer(1, 0.5)]
    for result in results:
        model = classifier_of(result.fold)
        kept.save(model, result)
        found = from_pretrained(tmp_path / "export" / f"seed0-fold0{result.fold}")
        for path, value in model.params.items():
            np.testing.assert_array_equal(found.params[path], value)
        save_fold(tmp_path, result, RUN)
    kept.finish_cards(results, "uar 0.667 ± 0.000", RUN)
    card = (tmp_path / "export" / "seed0-fold01" / "README.md").read_text()
    assert "| this model | fold 1 of seed 0, uar 0.500 on the clips that selected" in card
    assert "| test scores of its fold | uar 0.667, macro_f1 0.556, accuracy 0.667 on 3" in card
    assert "| test scores over folds | uar 0.667 ± 0.000 |" in card

    Exporting("all", tmp_path, "grouped", RECIPE, "")  # goes on
    save_fold(tmp_path, answer(2, 0.5), RUN)  # by a process that was started without it
    with pytest.raises(ConfigError, match=r"finished without it \(seed0-fold02\), whose models"):
        Exporting("all", tmp_path, "grouped", RECIPE, "")
    with pytest.raises(ConfigError, match="seed0-fold02"):
        kept.finish_cards([*results, answer(2, 0.5)], "", RUN)
    with pytest.raises(ConfigError, match=r"--export best: .* finished without it"):
        Exporting("best", tmp_path, "grouped", RECIPE, "")


@pytest.mark.parametrize(("select_by", "best"), [("uar", 2), ("loss", 0)])
def test_the_best_fold_is_that_of_the_lowest_loss_or_the_highest_score(
    tmp_path: Path, select_by: Literal["uar", "loss"], best: int
) -> None:
    """Of equal ones the last, in whichever order they finish."""
    recipe = dataclasses.replace(RECIPE, select_by=select_by)
    kept = Exporting("best", tmp_path, "grouped", recipe, "tones, 30 clips")
    for number, score in ((2, 0.5), (1, 0.5), (0, 0.25)):
        kept.save(classifier_of(number), answer(number, score))
    assert json.loads((tmp_path / "export.json").read_text())["fold"] == best
    assert f"fold {best} of seed 0" in (tmp_path / "export" / "README.md").read_text()
    better = answer(3, 0.1 if select_by == "loss" else 0.9)  # of a start without --export
    with pytest.raises(ConfigError, match=r"finished without it \(seed0-fold03\)"):
        kept.finish_cards([answer(best, 0.5), better], "", RUN)
    with pytest.raises(ConfigError, match="holds the one model of --export best"):
        Exporting("all", tmp_path, "grouped", recipe, "")


def test_what_is_frozen_stays_and_the_rest_learns(store: FlatStore, tmp_path: Path) -> None:
    frozen = r"wav2vec2\.feature_extractor\..*"
    made = row(store, tmp_path, freeze=(frozen,), epochs=2, patience=None, export="best")
    made(0, FOLD, 0)
    exported = from_pretrained(tmp_path / "export", architecture=Wav2Vec2Model)
    for path, value in made.encoder.params.items():
        same = np.array_equal(exported.params[path], value)
        if path.startswith("feature_extractor."):
            assert same, path
        elif path.endswith("q_proj.kernel"):
            assert not same, path


@pytest.mark.parametrize("family", CLASSIFIERS)
@pytest.mark.parametrize("stable", [False, True])
def test_deeper_layers_learn_more_slowly(family: str, stable: bool) -> None:
    model = dataclasses.replace(
        MODEL, model_type=family, num_hidden_layers=3, do_stable_layer_norm=stable
    )
    _, abstract = describe(CLASSIFIERS[family], model)
    rates = values_by_path(layer_wise_rates(model, 0.5), abstract, "rates")
    assert rates["classifier.kernel"] == rates["projector.bias"] == 1
    for layer, rate in enumerate((0.125, 0.25, 0.5)):
        assert rates[f"{family}.encoder.layers.{layer}.attention.q_proj.kernel"] == rate
    assert rates[f"{family}.feature_projection.projection.kernel"] == 0.0625
    assert rates[f"{family}.encoder.layer_norm.scale"] == (0.5 if stable else 0.0625)


def test_windows_count_by_their_frames_and_filling_rows_not_at_all() -> None:
    config = fold_config(RECIPE, "grouped", encoder_of(), CLASSES, 0, 0.1)
    logits = np.array([[1, 0, 0], [0, 4, 0], [9, 9, 9], [0, 0, 2]], np.float32)
    batch = {
        "clips": np.array([7, 7, 7, 2]),
        "labels": np.array([1, 1, 1, 2]),
        "weight": np.array([0.5, 0.5, 0.0, 3.0], np.float32),
        "lengths": np.array([645, 1_605, 645, 645]),  # 2, 5, 2 and 2 frames
    }
    scores = clip_scores([(batch, logits)], config)
    assert scores.clips.tolist() == [2, 7]
    assert scores.labels.tolist() == [2, 1]
    np.testing.assert_allclose(scores.logits, [[0, 0, 2], [2 / 7, 20 / 7, 0]], rtol=1e-6)
