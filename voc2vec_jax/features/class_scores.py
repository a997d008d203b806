"""Class scores of recordings, by a fine-tuned model; long ones are heard in windows."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from voc2vec_jax import compiling
from voc2vec_jax.audio.input_files import Input
from voc2vec_jax.audio.reading_ahead import decode_ahead, in_groups
from voc2vec_jax.audio.signal import SAMPLE_RATE, normalize, pad_batch
from voc2vec_jax.checkpoints.loading import from_pretrained
from voc2vec_jax.checkpoints.pretrained import PretrainedModel, bucket_samples
from voc2vec_jax.errors import AudioError, ConfigError, ConversionError
from voc2vec_jax.features.frames import batches
from voc2vec_jax.models import ClassifierOutput
from voc2vec_jax.models.architectures import CLASSIFIERS
from voc2vec_jax.models.wav2vec2 import Padding

GROUP_FILES = 64
"""Files whose windows are sorted by length together and put into batches."""
GROUP_SECONDS = 1_200.0
"""Sound at which such a group ends, too, so that memory depends on no number of files."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of a recording."""

    item: Input
    seconds: float
    windows: int
    scores: dict[str, float]
    """Probabilities by class, the likeliest first."""


def load_classifier(source: str, padding: Padding) -> PretrainedModel:
    """A model with a trained classifier.

    Raises:
        ConfigError: It has none.
        CheckpointError: See `from_pretrained`.
    """
    advice = (
        "its scores would be random. Fine-tune it first (python -m voc2vec_jax.evaluate --model "
        f"{source} --folder RECORDINGS --export best --out DIR) and give DIR/export"
    )
    try:
        model = from_pretrained(source, padding=padding)
    except ConversionError as error:
        if "missing     classifier.weight" not in str(error):
            raise
        raise ConfigError(f"{source}: names a classifier but holds none; {advice}") from None
    if model.architecture not in CLASSIFIERS.values():
        raise ConfigError(
            f"{source}: is a {model.architecture.__name__} without a trained classifier; {advice}"
        )
    return model


def windows_of(samples: int, window: int, hop: int | None) -> list[slice]:
    """Parts that cover a recording, each at most `window` long, and at least half as long."""
    if samples <= window:
        return [slice(0, samples)]
    if hop is None:
        pieces = -(-samples // window)
        cuts = [piece * samples // pieces for piece in range(pieces + 1)]
        return [slice(start, stop) for start, stop in itertools.pairwise(cuts)]
    starts = [*range(0, samples - window, hop), samples - window]
    return [slice(start, start + window) for start in starts]


def predict(
    model: PretrainedModel,
    files: Sequence[Input],
    *,
    window_seconds: float = 10.0,
    hop_seconds: float | None = None,
    bad: list[AudioError] | None = None,
) -> Iterator[Prediction]:
    """Scores of recordings, in their order.

    Args:
        model: A trained classifier.
        files: Recordings, or segments of them.
        window_seconds: Longest part that is heard at once.
        hop_seconds: Distance of windows; None: as few of equal length as cover all.
        bad: Gets the errors of files that cannot be read; None: the first one is raised.

    Raises:
        AudioError: A file cannot be read.
    """
    window = round(window_seconds * SAMPLE_RATE)
    hop = None if hop_seconds is None else max(round(hop_seconds * SAMPLE_RATE), 1)
    shapes = compiling.Shapes()
    for group in in_groups(decode_ahead(files), GROUP_FILES, GROUP_SECONDS):
        waveforms: dict[Input, NDArray[np.float32]] = {}
        while group:
            item, waveform = group.pop(0)
            if not isinstance(waveform, AudioError):
                # Over the whole recording, as in training.
                do_normalize = model.preprocessor.do_normalize
                waveforms[item] = normalize(waveform) if do_normalize else waveform
            elif bad is None:
                raise waveform
            else:
                bad.append(waveform)
        yield from _scores(model, waveforms, window, hop, shapes)
        del waveforms, waveform


def _scores(
    model: PretrainedModel,
    waveforms: dict[Input, NDArray[np.float32]],
    window: int,
    hop: int | None,
    shapes: compiling.Shapes,
) -> Iterator[Prediction]:
    parts = [
        (file, part)
        for file, waveform in waveforms.items()
        for part in windows_of(len(waveform), window, hop)
    ]
    sums = {file: np.zeros(len(model.config.labels)) for file in waveforms}
    frames: dict[Input, list[int]] = {file: [] for file in waveforms}
    # Under `hf` a score depends on the padding, so that nothing is padded.
    masked = model.padding == "masked"
    sizes = [part.stop - part.start for _, part in parts]
    work = batches(sizes) if masked else [[number] for number in range(len(parts))]
    longest = [max(sizes[number] for number in numbers) for numbers in work]
    padded = [bucket_samples(samples) if masked else samples for samples in longest]
    coming = [(len(numbers), samples) for numbers, samples in zip(work, padded, strict=True)]
    shapes.expect(coming)
    for numbers, shape in zip(work, coming, strict=True):
        rows = [parts[number] for number in numbers]
        cut = [waveforms[file][part] for file, part in rows]
        with shapes.first_of(shape):
            out = model(*pad_batch(cut, normalize="none"))
        assert isinstance(out, ClassifierOutput)
        for (file, _), logits, mask in zip(
            rows, np.asarray(out.logits, np.float64), np.asarray(out.frame_mask), strict=True
        ):
            frames[file].append(int(mask.sum()))
            sums[file] += frames[file][-1] * logits
    for file, waveform in waveforms.items():
        scores = softmax(sums[file] / sum(frames[file]))
        order = np.argsort(-scores, kind="stable")
        yield Prediction(
            item=file,
            seconds=round(len(waveform) / SAMPLE_RATE, 3),
            windows=len(frames[file]),
            scores={model.config.labels[label]: float(scores[label]) for label in order},
        )
