"""How much a frozen model says of labels: linear probes, with the baselines that it has to beat.

Each clip becomes one vector, the mean and the standard deviation of a hidden state over the clip's
frames; a multinomial logistic regression on the vectors is tested on groups (speakers, uploaders)
that it never saw. Everything that is chosen, namely the strength of regularisation and the hidden
layer, is chosen inside the training groups of a fold, again by groups: a test fold is scored once.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from voc2vec_jax.audio.frame_grid import frames_from_samples
from voc2vec_jax.audio.signal import SAMPLE_RATE
from voc2vec_jax.checkpoints.pretrained import PretrainedModel
from voc2vec_jax.errors import ConfigError, UnlabelledError
from voc2vec_jax.evaluation.linear import LOGISTIC_REGRESSION, fit_predict, prepared
from voc2vec_jax.evaluation.stratified import stratified_splits
from voc2vec_jax.features.clip_states import mean_and_std
from voc2vec_jax.models import ModelOutput
from voc2vec_jax.models.architectures import ENCODERS
from voc2vec_jax.models.parameters import split
from voc2vec_jax.scores import Scores, confusion, scores_of

INNER_FOLDS = 3
CHOSEN = "chosen"
"""Name of the score of whichever layer each fold chose inside its training groups."""

Floats = NDArray[np.float32]
Ints = NDArray[np.integer]
Features = dict[str, Floats]
"""[clips, width] by layer."""


def randomly_initialised(model: PretrainedModel, seed: int) -> PretrainedModel:
    """The encoder of `model` with fresh weights: same architecture, signals and padding."""
    encoder = ENCODERS[model.config.model_type]
    _, params = split(encoder(model.config, rngs=nnx.Rngs(jax.random.key(seed))))
    return PretrainedModel(
        encoder,
        model.config,
        params,
        preprocessor=model.preprocessor,
        padding=model.padding,
        attention_mask=model.attention_mask,
    )


def hidden_statistics(
    model: PretrainedModel, waveforms: Sequence[Floats], *, batch_seconds: float = 32.0
) -> Features:
    """Mean and standard deviation over a clip's frames of every hidden state.

    Args:
        model: An encoder (`Wav2Vec2Model`, `HubertModel`) with `padding="masked"`, so that a
            clip's vector does not depend on its batch.
        waveforms: float32 [S] each, 16 kHz.
        batch_seconds: Padded audio per batch.

    Returns:
        [clips, 2 · D] by layer: "layer 0" is the input of the transformer, "layer i" the output of
        its i-th layer.

    Raises:
        ValueError: The model does not mask padding.
    """
    if model.padding != "masked":
        raise ValueError(f"padding={model.padding!r}: load the model with padding='masked'")
    layers = model.config.num_hidden_layers + 1
    pooled = np.zeros((layers, len(waveforms), 2 * model.config.hidden_size), np.float32)
    for rows in _batches([len(waveform) for waveform in waveforms], batch_seconds):
        waveform, lengths = model.preprocess([waveforms[row] for row in rows])
        out = model(waveform, lengths, output_hidden_states=True)
        assert isinstance(out, ModelOutput)
        assert out.hidden_states is not None
        frames = frames_from_samples(lengths, model.config.conv_kernel, model.config.conv_stride)
        for layer, hidden in enumerate(out.hidden_states):
            for row, states, count in zip(rows, np.asarray(hidden), frames, strict=True):
                pooled[layer, row] = mean_and_std(states[:count])
    return {f"layer {layer}": pooled[layer] for layer in range(layers)}


def _batches(samples: Sequence[int], batch_seconds: float) -> list[list[int]]:
    """Clips of like lengths together; a batch is at most `batch_seconds` long, or one clip."""
    batches: list[list[int]] = [[]]
    for row in sorted(range(len(samples)), key=lambda row: samples[row]):
        if (len(batches[-1]) + 1) * samples[row] > batch_seconds * SAMPLE_RATE and batches[-1]:
            batches.append([])
        batches[-1].append(row)
    return batches


def group_folds(
    labels: Ints, groups: Sequence[str], folds: int, seed: int
) -> list[tuple[Ints, Ints]]:
    """Training and test clips of each fold; no group is on both sides.

    Folds are stratified as far as groups allow.

    Args:
        labels: [clips] class of each clip.
        groups: Speaker, session or upload of each clip.
        folds: How many; each clip is tested in one of them.
        seed: Decides which groups go together.

    Raises:
        UnlabelledError: A clip has no label or no group.
        ConfigError: A class has clips of fewer groups than there are folds, so that some fold could
            not learn or test it.
    """
    _require_groups(labels, groups, folds)
    return stratified_splits(labels, np.array(groups), folds, seed)


def _require_groups(labels: Ints, groups: Sequence[str], folds: int) -> None:
    unknown = int(np.sum(labels < 0)) or sum(group == "" for group in groups)
    if unknown or len(groups) != len(labels):
        raise UnlabelledError(
            f"{unknown} of {len(labels)} clips have no label or no group; a probe needs both"
        )
    for label in np.unique(labels):
        found = {group for group, other in zip(groups, labels, strict=True) if other == label}
        if len(found) < folds:
            raise ConfigError(
                f"class {label} has clips of {len(found)} groups, fewer than the {folds} folds;"
                " use fewer folds"
            )


def probe(
    features: Mapping[str, Floats], labels: Ints, groups: Sequence[str], *, folds: int, seed: int
) -> dict[str, Scores]:
    """Cross-validated scores of a linear probe on every layer, and on the layer that folds choose.

    Args:
        features: [clips, width] by layer.
        labels: [clips] class of each clip.
        groups: Speaker, session or upload of each clip.
        folds: Outer folds.
        seed: Decides the folds, outer and inner.

    Returns:
        Scores by layer. Where there are several layers, `CHOSEN` is the score of the procedure
        that chooses the layer too; the best of the others was chosen by looking at test folds.

    Raises:
        ValueError: As `group_folds`.
    """
    predicted = {name: np.full(len(labels), -1) for name in (*features, CHOSEN)}
    for train, test in group_folds(labels, groups, folds, seed):
        train_groups = [groups[clip] for clip in train]
        inner = group_folds(labels[train], train_groups, INNER_FOLDS, seed)
        found: dict[str, float] = {}
        for name, values in features.items():
            found[name], strength = _choose_strength(values[train], labels[train], inner)
            predicted[name][test] = _fit_predict(
                values[train], labels[train], values[test], strength
            )
        best = max(found, key=lambda name: found[name])
        predicted[CHOSEN][test] = predicted[best][test]
    if len(features) == 1:
        del predicted[CHOSEN]
    return {name: score(labels, values) for name, values in predicted.items()}


def _choose_strength(
    features: Floats, labels: Ints, folds: Sequence[tuple[Ints, Ints]]
) -> tuple[float, float]:
    """Best UAR over the inner folds, and the C that reached it."""
    uars = []
    for strength in LOGISTIC_REGRESSION.strengths:
        predicted = np.full(len(labels), -1)
        for train, test in folds:
            predicted[test] = _fit_predict(features[train], labels[train], features[test], strength)
        uars.append(score(labels, predicted).uar)
    best = int(np.argmax(uars))
    return uars[best], LOGISTIC_REGRESSION.strengths[best]


def _fit_predict(train: Floats, labels: Ints, test: Floats, strength: float) -> Ints:
    classes = int(labels.max()) + 1
    known, unknown = prepared(train, test)
    scores = fit_predict(LOGISTIC_REGRESSION, known, labels, unknown, strength, classes)
    return scores.argmax(axis=1)


def score(labels: Ints, predicted: Ints) -> Scores:
    """Scores over the classes that occur in `labels`, each clip predicted once."""
    classes = int(max(labels.max(), predicted.max())) + 1
    return scores_of(confusion(labels, predicted, classes))


def majority(labels: Ints) -> Scores:
    """Scores of naming the commonest class every time; its UAR is one over the classes."""
    values, counts = np.unique(labels, return_counts=True)
    return score(labels, np.full(len(labels), values[np.argmax(counts)]))
