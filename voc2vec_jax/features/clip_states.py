"""Vectors of clips: hidden states of a frozen encoder, or other frames, averaged over time."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from voc2vec_jax import compiling
from voc2vec_jax.audio.frame_grid import frames_from_samples
from voc2vec_jax.checkpoints.pretrained import PretrainedModel
from voc2vec_jax.models.parameters import Params, describe, merge
from voc2vec_jax.models.pooling import mean_over_frames
from voc2vec_jax.models.wav2vec2 import Padding


def mean_and_std(frames: np.ndarray) -> NDArray[np.float32]:  # [T, D] -> [2 · D]
    """Mean and standard deviation over time."""
    return np.concatenate([mean_over_frames(frames), frames.std(axis=0)])


def pooled_states(
    encoder: PretrainedModel,
    batches: Iterable[Mapping[str, np.ndarray]],
    clips: int,
    *,
    padding: Padding,
    all_layers: bool,
) -> NDArray[np.float32]:
    """The mean hidden states of clips, those of a long clip's windows weighed by their frames.

    Args:
        encoder: `Wav2Vec2Model` or `HubertModel`.
        batches: Each clip once, whole or in windows: `waveform`, `lengths`, `clips` and `weight`,
            which is 0 for rows that count nothing.
        clips: In the corpus.
        padding: As in training; under `hf` the mean is over padded frames too.
        all_layers: All hidden states instead of the last one.

    Returns:
        [clips, K, D], K = layers + 1 or 1; zeros for clips that are in no batch.
    """
    config = encoder.config
    graphdef, _ = describe(encoder.architecture, config)

    @jax.jit
    def pool(params: Params, waveform: jax.Array, lengths: jax.Array) -> jax.Array:
        model = merge(graphdef, params)
        out = model(waveform, lengths, padding=padding, output_hidden_states=all_layers)
        states = out.hidden_states if all_layers else (out.last_hidden_state,)
        stacked = jnp.stack(states, axis=1)  # [B, K, T, D]
        return mean_over_frames(stacked, out.frame_mask[:, None] if padding == "masked" else None)

    layers = config.num_hidden_layers + 1 if all_layers else 1
    sums = np.zeros((clips, layers, config.hidden_size), np.float32)
    counts = np.zeros(clips, np.int64)
    for batch in compiling.Shapes().each(batches):
        real = batch["weight"] > 0
        pooled = np.asarray(pool(encoder.params, batch["waveform"], batch["lengths"]))[real]
        lengths = batch["lengths"][real]
        frames = frames_from_samples(lengths, config.conv_kernel, config.conv_stride)
        np.add.at(sums, batch["clips"][real], frames[:, None, None] * pooled)
        np.add.at(counts, batch["clips"][real], frames)
    means = sums / np.maximum(counts, 1)[:, None, None]
    return np.asarray(means, np.float32)
