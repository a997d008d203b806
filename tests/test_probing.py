"""Linear probes: folds that do not leak, scores that are chance where nothing can be known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.synthetic.corpus import SyntheticClip, synthetic_corpus
from tests.conftest import ARCHITECTURES, FEW, TINY
from voc2vec_jax.checkpoints.pretrained import Preprocessor, PretrainedModel
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.evaluation import probing
from voc2vec_jax.evaluation.clip_vectors import mfcc_statistics
from voc2vec_jax.models import ModelOutput, Wav2Vec2Model
from voc2vec_jax.models.parameters import describe

pytestmark = pytest.mark.unoptimised

CLASSES = 5
FOLDS = 3


@pytest.fixture(scope="module")
def corpus() -> list[SyntheticClip]:
    clips = synthetic_corpus(speakers=6, takes=2)
    return [clip for clip in clips if clip.label < CLASSES]


@pytest.fixture(scope="module")
def labels(corpus: list[SyntheticClip]) -> np.ndarray:
    return np.array([clip.label for clip in corpus])


@pytest.fixture(scope="module")
def speakers(corpus: list[SyntheticClip]) -> list[str]:
    return [clip.group for clip in corpus]


@pytest.fixture(scope="module")
def mfcc(corpus: list[SyntheticClip]) -> probing.Features:
    return {"MFCC": mfcc_statistics([clip.waveform for clip in corpus])}


def make_model(padding: str = "masked", architecture: str = "base") -> PretrainedModel:
    config = ModelConfig(**{**TINY, **FEW, **ARCHITECTURES[architecture]})
    model = PretrainedModel(
        Wav2Vec2Model,
        config,
        {},
        preprocessor=Preprocessor(),
        padding=padding,  # type: ignore[arg-type]
    )
    return probing.randomly_initialised(model, seed=0)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=6, max_size=15),
    folds=st.integers(2, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_folds_test_every_clip_once_and_split_no_group(
    sizes: list[int], folds: int, seed: int
) -> None:
    groups = [f"g{group}" for group, size in enumerate(sizes) for _ in range(2 * size)]
    labels = np.tile([0, 1], sum(sizes))  # every group has both classes
    splits = probing.group_folds(labels, groups, folds, seed)
    assert sorted(np.concatenate([test for _, test in splits])) == list(range(len(labels)))
    for train, test in splits:
        assert len(train) + len(test) == len(labels)
        assert not {groups[clip] for clip in train} & {groups[clip] for clip in test}
        assert set(labels[train]) == set(labels[test]) == {0, 1}


def test_the_seed_decides_the_folds(labels: np.ndarray, speakers: list[str]) -> None:
    def tested(seed: int) -> list[list[int]]:
        return [t.tolist() for _, t in probing.group_folds(labels, speakers, FOLDS, seed)]

    assert tested(0) == tested(0)
    assert tested(0) != tested(1)


def test_clips_without_label_or_group_are_refused() -> None:
    groups = ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="1 of 4 clips have no label or no group"):
        probing.group_folds(np.array([0, 0, 1, -1]), groups, 2, 0)
    with pytest.raises(ValueError, match="2 of 4 clips have no label or no group"):
        probing.group_folds(np.array([0, 0, 1, 1]), ["a", "", "", "d"], 2, 0)


def test_a_class_of_too_few_groups_is_refused() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="class 1 has clips of 2 groups, fewer than the 3 folds"):
        probing.group_folds(labels, ["a", "b", "c", "a", "b", "b"], 3, 0)


def test_mfccs_tell_synthetic_sounds_apart_and_repeatably(
    mfcc: probing.Features, labels: np.ndarray, speakers: list[str]
) -> None:
    scores = probing.probe(mfcc, labels, speakers, folds=FOLDS, seed=0)
    assert scores.keys() == {"MFCC"}
    assert scores["MFCC"].uar > 0.5  # chance 0.2
    assert scores == probing.probe(mfcc, labels, speakers, folds=FOLDS, seed=0)


@pytest.mark.thorough
def test_shuffled_labels_score_chance(
    mfcc: probing.Features, labels: np.ndarray, speakers: list[str]
) -> None:
    """Shuffled within each speaker, so that folds stay as balanced as they were."""
    uars = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        shuffled = labels.copy()
        for speaker in set(speakers):
            rows = np.flatnonzero(np.array(speakers) == speaker)
            shuffled[rows] = rng.permutation(labels[rows])
        uars.append(probing.probe(mfcc, shuffled, speakers, folds=FOLDS, seed=seed)["MFCC"].uar)
    assert 0.1 < np.mean(uars) < 0.3  # chance 0.2; standard error of the mean about 0.023


def test_knowing_the_speaker_does_not_help() -> None:
    """A label that only the speaker decides is lost as soon as no speaker is on both sides."""
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(16), 10)
    labels = rng.permutation(np.repeat([0, 1], 8))[speakers]
    features = np.eye(16, dtype=np.float32)[speakers]
    groups = [f"s{speaker}" for speaker in speakers]
    grouped = probing.probe({"speaker": features}, labels, groups, folds=4, seed=0)
    own = [f"c{clip}" for clip in range(len(labels))]
    leaking = probing.probe({"speaker": features}, labels, own, folds=4, seed=0)
    assert leaking["speaker"].uar > 0.95
    assert grouped["speaker"].uar < 0.65


@pytest.mark.thorough
def test_each_fold_chooses_the_layer_without_its_test_clips() -> None:
    """Among layers of noise, the best by its test score looks better than the chosen one is."""
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 40)
    groups = [f"g{clip // 4}" for clip in range(80)]
    noise = {f"layer {i}": rng.normal(size=(80, 3)).astype(np.float32) for i in range(12)}
    scores = probing.probe(noise, labels, groups, folds=4, seed=0)
    best = max(scores[name].uar for name in noise)
    assert best > 0.6
    assert scores[probing.CHOSEN].uar < best - 0.05
    signal = (labels[:, None] + rng.normal(0, 0.3, (80, 3))).astype(np.float32)
    scores = probing.probe({**noise, "signal": signal}, labels, groups, folds=4, seed=0)
    assert scores[probing.CHOSEN] == scores["signal"]


def test_scores_of_known_predictions() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    score = probing.score(labels, np.array([0, 0, 0, 1, 1, 1, 0, 2]))
    assert score.uar == pytest.approx((3 / 4 + 1 + 1 / 2) / 3)
    assert score.macro_f1 == pytest.approx((3 / 4 + 4 / 5 + 2 / 3) / 3)
    assert probing.majority(labels).uar == pytest.approx(1 / 3)
    assert probing.majority(labels).macro_f1 == pytest.approx(2 / 3 / 3)


@pytest.mark.parametrize(
    "architecture", ["base", pytest.param("large", marks=pytest.mark.thorough)]
)
def test_statistics_of_a_clip_are_those_of_its_frames_alone(
    corpus: list[SyntheticClip], architecture: str
) -> None:
    model = make_model(architecture=architecture)
    lengths = (6_500, 12_500, 6_400, 7_000, 12_300, 14_000)  # the model rounds them to two
    waveforms = [clip.waveform[:n] for clip, n in zip(corpus, lengths, strict=False)]
    pooled = probing.hidden_statistics(model, waveforms)
    assert list(pooled) == ["layer 0", "layer 1", "layer 2"]
    for row, waveform in enumerate(waveforms):
        out = model(*model.preprocess([waveform]), output_hidden_states=True)
        assert isinstance(out, ModelOutput)
        assert out.hidden_states is not None
        for values, hidden in zip(pooled.values(), out.hidden_states, strict=True):
            frames = np.asarray(hidden)[0]
            expected = np.concatenate([frames.mean(axis=0), frames.std(axis=0)])
            np.testing.assert_allclose(values[row], expected, atol=1e-5)


def test_batches_hold_every_clip_once_within_their_length() -> None:
    samples = [16_000, 48_000, 400, 1_600_000, 32_000, 16_000]
    batches = probing._batches(samples, batch_seconds=4.0)
    assert sorted(row for batch in batches for row in batch) == list(range(6))
    for batch in batches:
        padded = len(batch) * max(samples[row] for row in batch)
        assert padded <= 4 * 16_000 or len(batch) == 1


def test_a_model_that_sees_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="padding='hf': load the model with padding='masked'"):
        probing.hidden_statistics(make_model("hf"), [np.ones(16_000, np.float32)])


def test_random_initialisation_keeps_everything_but_the_weights() -> None:
    model = make_model()
    first, again, other = (probing.randomly_initialised(model, seed) for seed in (1, 1, 2))
    _, shapes = describe(Wav2Vec2Model, model.config)
    assert {path: value.shape for path, value in first.params.items()} == {
        path: value.shape for path, value in shapes.items()
    }
    assert (first.config, first.padding) == (model.config, model.padding)
    kernel = "encoder.layers.0.attention.q_proj.kernel"
    np.testing.assert_array_equal(first.params[kernel], again.params[kernel])
    assert np.abs(first.params[kernel] - other.params[kernel]).max() > 0.01
