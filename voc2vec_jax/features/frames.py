"""Features of whole clips, frame by frame, in batches: MFCCs, or what a layer of a model gives.

Nothing here keeps the features of a corpus: they go to disk batch by batch (`on_disk`), or are
replaced by labels where they are computed (`stream` with an assignment).
"""

import itertools
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from voc2vec_jax import compiling
from voc2vec_jax.audio import mfcc
from voc2vec_jax.audio.signal import SAMPLE_RATE, normalize, pad_batch
from voc2vec_jax.checkpoints.pretrained import PretrainedModel
from voc2vec_jax.models import ModelOutput
from voc2vec_jax.models.architectures import ENCODERS
from voc2vec_jax.models.parameters import Params, describe, merge

CHUNK_SECONDS = 100.0
"""Longer clips go through a model in pieces, of this length as in fairseq if nothing is said."""
BUCKET_SECONDS = (*(2.0 ** (n // 4) * (1 + n % 4 / 4) for n in range(26)), CHUNK_SECONDS)
"""Padded lengths, four an octave from 1 to 80 s; one compilation each, the price of finer steps."""
BATCH_SECONDS = 50.0
"""Padded audio per batch, if that is more than one clip."""
WORKERS = 2
"""Batches in the making at a time: one is read while another one is computed."""
BLOCK_FRAMES = 8_192

Floats = NDArray[np.float32]
Arrays = tuple[np.ndarray, ...]
Then = Callable[[jax.Array], tuple[jax.Array, ...]]
"""Applied to features [..., D] on the device; gives arrays [..., …] that are fetched instead."""
Lengths = Sequence[int] | NDArray[np.integer]
Read = Callable[[int], Floats]
"""The samples of a clip by its number, float32 [S] with full scale ±1."""


def keep(features: jax.Array) -> tuple[jax.Array, ...]:
    """The features themselves."""
    return (features,)


class Features(Protocol):
    """A kind of features.

    Attributes:
        name: `mfcc`, `layer:6` or `output`.
        width: D.
        window_samples: What a frame sees of the signal; frame i begins at `i * hop_samples`.
        hop_samples: Distance between frames.
    """

    name: str
    width: int
    window_samples: int
    hop_samples: int

    def __call__(self, waveforms: Sequence[Floats], then: Then = keep) -> list[Arrays]:
        """Per clip what `then` makes of its features, [T, …] each.

        Args:
            waveforms: float32 [S] each, at least one window long; of like lengths, as `batches`
                puts them together.
            then: See `Then`.
        """
        ...

    def expect(self, lengths: Lengths, work: Sequence[Sequence[int]], then: Then = keep) -> None:
        """Takes note of batches of clips, of which there are `lengths` samples, that will come."""
        ...


def frame_count(features: Features, samples: int) -> int:
    """Frames of a clip: windows that lie within it."""
    return max((samples - features.window_samples) // features.hop_samples + 1, 0)


class MfccFeatures:
    """39 numbers every 10 ms, see `mfcc`; on the host."""

    name = "mfcc"
    width = mfcc.WIDTH
    window_samples, hop_samples = mfcc.WINDOW_SAMPLES, mfcc.HOP_SAMPLES

    def __call__(self, waveforms: Sequence[Floats], then: Then = keep) -> list[Arrays]:
        """See `Features`."""
        clips = [mfcc.mfcc(waveform) for waveform in waveforms]
        rows = np.concatenate(clips)
        # One shape, so that `then` compiles once.
        rows = np.pad(rows, ((0, -len(rows) % BLOCK_FRAMES), (0, 0)))
        blocks = [then(jnp.asarray(block)) for block in rows.reshape(-1, BLOCK_FRAMES, self.width)]
        whole = [np.concatenate(parts) for parts in zip(*jax.device_get(blocks), strict=True)]
        ends = np.cumsum([len(clip) for clip in clips])
        return [
            tuple(part[end - len(clip) : end] for part in whole)
            for clip, end in zip(clips, ends, strict=True)
        ]

    def expect(self, lengths: Lengths, work: Sequence[Sequence[int]], then: Then = keep) -> None:
        """Nothing to do: there is one shape."""


class LayerFeatures:
    """Hidden states of a model in evaluation mode, unmasked; padding has no effect on them.

    Layers beyond are not computed. A clip longer than 100 s goes through in pieces that overlap by
    as much as no frame is lost at their edges; what a frame is told of its surroundings ends there.

    Args:
        model: An encoder (`architecture=Wav2Vec2Model` or `HubertModel`), `padding="masked"`.
        layer: 0 is the input of the transformer, i the output of its i-th layer
            (`hidden_states[i]`); None is the model's output, after the final norm if it has one.
        piece_seconds: Such a clip goes through in equal pieces that are no longer; None: in pieces
            of 100 s, and what remains, as in fairseq.

    Raises:
        ValueError: Another kind of model, or it has no such layer.
    """

    def __init__(
        self, model: PretrainedModel, layer: int | None, piece_seconds: float | None = None
    ):
        if model.padding != "masked" or model.architecture not in ENCODERS.values():
            raise ValueError(
                f"{model.architecture.__name__} with padding={model.padding!r}: load the model with"
                " architecture=Wav2Vec2Model or HubertModel and padding='masked'"
            )
        if layer is not None and not 0 <= layer <= model.config.num_hidden_layers:
            raise ValueError(f"layer={layer}: the model has 0 to {model.config.num_hidden_layers}")
        self.name = "output" if layer is None else f"layer:{layer}"
        self.width = model.config.hidden_size
        self.window_samples = model.config.receptive_field_samples
        self.hop_samples = int(np.prod(model.config.conv_stride))
        self._model = model
        self._layer = layer
        self._piece_seconds = piece_seconds
        self._programs: dict[Then, Callable[..., tuple[jax.Array, ...]]] = {}
        self._shapes: dict[Then, compiling.Shapes] = defaultdict(compiling.Shapes)
        self._dispatch = threading.Lock()

    def __call__(self, waveforms: Sequence[Floats], then: Then = keep) -> list[Arrays]:
        """See `Features`."""
        if self._model.preprocessor.do_normalize:
            waveforms = [normalize(waveform) for waveform in waveforms]
        if not any(is_long(len(waveform)) for waveform in waveforms):
            return self._batch(waveforms, then)
        parts = (list(self._pieces(waveform, then)) for waveform in waveforms)
        return [tuple(np.concatenate(a) for a in zip(*pieces, strict=True)) for pieces in parts]

    def pieces(self, waveform: Floats) -> Iterator[Floats]:
        """The features of a long clip, piece after piece, [T_i, D] each."""
        prepared = normalize(waveform) if self._model.preprocessor.do_normalize else waveform
        return (frames for (frames,) in self._pieces(prepared, keep))

    def expect(self, lengths: Lengths, work: Sequence[Sequence[int]], then: Then = keep) -> None:
        """See `Features`."""
        for clips in work:
            rows, samples = len(clips), max(int(lengths[clip]) for clip in clips)
            if is_long(samples):
                cuts = self._cuts(samples)[0]
                rows, samples = len(cuts), cuts[0].stop
            self._shapes[then].expect([_shape(rows, samples)])

    def _cuts(self, samples: int) -> list[list[slice]]:
        """The pieces of a clip, which begin where a frame does, batch by batch."""
        hop, overlap = self.hop_samples, self.window_samples - self.hop_samples
        total = frame_count(self, samples)
        most = frame_count(self, round((self._piece_seconds or CHUNK_SECONDS) * SAMPLE_RATE))
        if not is_long(samples):
            cuts = [slice(0, samples)]
        elif self._piece_seconds is None:
            starts = range(0, total, most)
            cuts = [slice(a * hop, min((a + most) * hop + overlap, samples)) for a in starts]
        else:
            pieces = -(-total // most)
            edges = [piece * total // pieces for piece in range(pieces + 1)]
            cuts = [slice(a * hop, b * hop + overlap) for a, b in itertools.pairwise(edges)]
        rows = _rows(_bucket_samples(cuts[0].stop))
        return [cuts[first : first + rows] for first in range(0, len(cuts), rows)]

    def _pieces(self, waveform: Floats, then: Then) -> Iterator[Arrays]:
        for cuts in self._cuts(len(waveform)):
            yield from self._batch([waveform[cut] for cut in cuts], then)

    def _batch(self, waveforms: Sequence[Floats], then: Then) -> list[Arrays]:
        rows, bucket = _shape(len(waveforms), max(map(len, waveforms)))
        fill = [waveforms[0]] * (rows - len(waveforms))
        batch, lengths = pad_batch([*waveforms, *fill], normalize="none", pad_to=bucket)
        # Threads that come together would compile the same program.
        with self._dispatch, self._shapes[then].first_of((rows, bucket)):
            on_device = self._program(then)(self._model.params, batch, lengths)
        arrays = jax.device_get(on_device)
        counts = enumerate(frame_count(self, len(waveform)) for waveform in waveforms)
        return [tuple(array[row, :count] for array in arrays) for row, count in counts]

    def _program(self, then: Then) -> Callable[..., tuple[jax.Array, ...]]:
        if then not in self._programs:
            graphdef, _ = describe(self._model.architecture, self._model.config)

            def run(
                params: Params, waveform: jax.Array, lengths: jax.Array
            ) -> tuple[jax.Array, ...]:
                model = merge(graphdef, params)
                out = model(waveform, lengths, padding="masked", output_hidden_states=True)
                assert isinstance(out, ModelOutput)
                if self._layer is None:
                    return then(out.last_hidden_state)
                assert out.hidden_states is not None
                # The compiler leaves out what nothing depends on: the layers above.
                return then(out.hidden_states[self._layer])

            self._programs[then] = jax.jit(run)
        return self._programs[then]


def is_long(samples: int) -> bool:
    """Whether a clip goes through a model in pieces."""
    return samples > round(CHUNK_SECONDS * SAMPLE_RATE)


def _bucket_samples(samples: int) -> int:
    """Padded length of a clip of at most `CHUNK_SECONDS`."""
    buckets = (round(seconds * SAMPLE_RATE) for seconds in BUCKET_SECONDS)
    return next(bucket for bucket in buckets if bucket >= samples)


def _shape(clips: int, samples: int) -> tuple[int, int]:
    """Rows and padded samples of a batch, by its clips and the longest of them."""
    bucket = _bucket_samples(samples)
    # A batch that is not full, such as the last one, repeats a clip: few shapes to compile.
    return min(_rows(bucket), 2 ** (clips - 1).bit_length()), bucket


def _rows(bucket_samples: int) -> int:
    return max(int(BATCH_SECONDS * SAMPLE_RATE) // bucket_samples, 1)


def batches(lengths: Lengths) -> list[list[int]]:
    """Clips of like lengths together, longest first; clips longer than `CHUNK_SECONDS` alone.

    The longest clip of a batch decides how long its rows are, and so how many there are. Depends on
    the lengths only, so that work that was interrupted comes to the same batches again.

    Args:
        lengths: Samples of each clip.

    Returns:
        Indices into `lengths`, each in one batch.
    """
    found: list[list[int]] = []
    room = 0
    for clip in np.argsort(-np.asarray(lengths), kind="stable"):
        if room == 0:
            samples = int(lengths[clip])
            room = 1 if is_long(samples) else _rows(_bucket_samples(samples))
            found.append([])
        found[-1].append(int(clip))
        room -= 1
    return found


def stream(
    features: Callable[[Sequence[Floats], Then], list[Arrays]],
    read: Read,
    work: Sequence[Sequence[int]],
    then: Then = keep,
) -> Iterator[list[Arrays]]:
    """What `features` gives for each batch of clips, in order; a few are in the making at a time.

    Args:
        features: What is computed, such as `Features`.
        read: Gives the samples of a clip; called from several threads.
        work: Clips of each batch, as from `batches`.
        then: See `Then`.
    """

    def compute(clips: Sequence[int]) -> list[Arrays]:
        return features([read(clip) for clip in clips], then)

    with ThreadPoolExecutor(WORKERS) as pool:
        left = iter(work)
        pending = deque(pool.submit(compute, clips) for clips in itertools.islice(left, WORKERS))
        try:
            while pending:
                done = pending.popleft().result()
                if (clips := next(left, None)) is not None:
                    pending.append(pool.submit(compute, clips))
                yield done
        finally:
            for future in pending:
                future.cancel()
