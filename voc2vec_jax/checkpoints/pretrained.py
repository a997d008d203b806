"""A model together with its weights, ready to be called on signals."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from voc2vec_jax.audio.frame_grid import frames_from_samples
from voc2vec_jax.audio.signal import SAMPLE_RATE, pad_batch
from voc2vec_jax.audio.sounds import Sound, waveforms_of
from voc2vec_jax.checkpoints.convert import Ledger, is_mask_embedding
from voc2vec_jax.config.model import ModelConfig
from voc2vec_jax.errors import FreshHeadError
from voc2vec_jax.models.architectures import ENCODERS, Architecture, Output
from voc2vec_jax.models.parameters import Params, describe, merge, sha256_of
from voc2vec_jax.models.wav2vec2 import Padding

BUCKETS_PER_OCTAVE = 4
"""Under `masked`, signals are padded to lengths at most a quarter apart: few compilations, little
waste."""


@dataclass(frozen=True)
class Preprocessor:
    """How signals are prepared: what `preprocessor_config.json` says."""

    do_normalize: bool = True
    return_attention_mask: bool = False

    @classmethod
    def of_training(cls, normalize: str) -> "Preprocessor":
        """What suits a model that was trained on signals prepared by `data.normalize`."""
        return cls(
            do_normalize=normalize != "none",
            # With it, transformers normalises over a clip's own samples and leaves padding out of
            # the transformer, which is nearest to how the model was trained.
            return_attention_mask=normalize != "padded",
        )

    def to_hf(self) -> dict[str, Any]:
        """The file's content, as `transformers.Wav2Vec2FeatureExtractor` reads it."""
        return {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "padding_side": "right",
            "padding_value": 0.0,
            "sampling_rate": SAMPLE_RATE,
            "do_normalize": self.do_normalize,
            "return_attention_mask": self.return_attention_mask,
        }


class PretrainedModel:
    """Weights with the model that reads them; calling it runs compiled.

    Attributes:
        architecture: The model class.
        config: The architecture's numbers.
        params: Parameters by dotted path.
        preprocessor: How this checkpoint wants its signals.
        padding: `hf` or `masked`, see `Wav2Vec2Model`.
        attention_mask: Under `hf`, whether lengths mask the attention.
        ledger: What became of every tensor of the source, if there was one.
    """

    def __init__(
        self,
        architecture: Architecture,
        config: ModelConfig,
        params: Params,
        *,
        preprocessor: Preprocessor,
        padding: Padding = "hf",
        attention_mask: bool = False,
        ledger: Ledger | None = None,
    ):
        if padding not in ("hf", "masked"):
            raise ValueError(f"padding={padding!r}: must be 'hf' or 'masked'")
        self.architecture, self.config, self.params = architecture, config, params
        self.preprocessor, self.ledger = preprocessor, ledger
        self.padding: Padding = padding
        self.attention_mask = attention_mask
        graphdef, _ = describe(architecture, config)

        def forward(
            params: Params, waveform: jax.Array, lengths: jax.Array, output_hidden_states: bool
        ) -> Output:
            model = merge(graphdef, params)
            return model(
                waveform,
                lengths,
                padding=padding,
                attention_mask=attention_mask,
                output_hidden_states=output_hidden_states,
            )

        self._forward = jax.jit(forward, static_argnums=3)

    def preprocess(
        self,
        sounds: Sound | Sequence[Sound],
        *,
        sampling_rate: int | None = None,
        resample: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Clips as one padded batch, normalised as the checkpoint says.

        Args:
            sounds: An array [S] of floats or integers, a list of numbers, a tensor of PyTorch or
                the path of a file; or a list of such, of any lengths from 400 samples.
            sampling_rate: Of the arrays, Hz; None means 16 kHz. Files are resampled as they are
                read.
            resample: Resample arrays of another rate, instead of refusing them.

        Returns:
            waveform [B, S] float32 and lengths [B] int32, for calling the model.

        Raises:
            ValueError: Several channels, another rate, or what is no sound.
            AudioError: A file cannot be used.
        """
        waveforms = waveforms_of(sounds, sampling_rate, resampled=resample)
        if not self.preprocessor.do_normalize:
            return pad_batch(waveforms, normalize="none")
        over_padding = self.padding == "hf" and not self.preprocessor.return_attention_mask
        return pad_batch(waveforms, normalize="padded" if over_padding else "clip")

    @property
    def known_params(self) -> Params:
        """The parameters that somebody has trained: all but a mask embedding the source lacked."""
        fresh = self.ledger.new if self.ledger else ()
        return {path: value for path, value in self.params.items() if path not in fresh}

    @functools.cached_property
    def sha256(self) -> str:
        """Equal if, and only if, architecture, parameters and the way of hearing are."""
        facts = {
            "architecture": self.architecture.__name__,
            "config": dataclasses.asdict(self.config),
            "preprocessor": dataclasses.asdict(self.preprocessor),
            "padding": [self.padding, self.attention_mask],
            "params": sha256_of(self.params),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def refuse_fresh_head(self, consequence: str) -> None:
        """Raises FreshHeadError if the source had no weights for a part of this model."""
        held = self.ledger.new if self.ledger else ()
        new = [path for path in held if not is_mask_embedding(path)]  # no score depends on that
        if new:
            raise FreshHeadError(
                f"{', '.join(new)}: fresh, not trained, so {consequence}; fine-tune the model "
                "first, or load the encoder alone with architecture="
                f"{ENCODERS[self.config.model_type].__name__}"
            )

    def __call__(
        self,
        waveform: np.ndarray | jax.Array,
        lengths: np.ndarray | Sequence[int] | None = None,
        *,
        output_hidden_states: bool = False,
    ) -> Output:
        """Runs the model in evaluation mode on signals taken as given.

        Under `padding="masked"` the batch is padded to the next of a few lengths, and the result
        trimmed, so that clips of many lengths compile a handful of times.

        Args:
            waveform: [B, S] float32, 16 kHz.
            lengths: [B] true samples; None means that nothing is padding.
            output_hidden_states: Also return the layers + 1 hidden states.

        Raises:
            ValueError: A wrong shape or type, or a length below the receptive field or beyond S.
            FreshHeadError: A classifier whose head no checkpoint has filled.
        """
        self.refuse_fresh_head("its scores would be random")
        if waveform.ndim != 2:
            raise ValueError(f"waveform has shape {waveform.shape}; give [B, S]")
        if not jnp.issubdtype(waveform.dtype, jnp.floating):
            raise ValueError(f"waveform is {waveform.dtype}; give float32 with full scale at ±1")
        batch, samples = waveform.shape
        sizes = np.full(batch, samples) if lengths is None else np.asarray(lengths)
        shortest = self.config.receptive_field_samples
        if sizes.shape != (batch,):
            raise ValueError(f"lengths has shape {sizes.shape}; give one per clip, ({batch},)")
        if sizes.dtype.kind not in "iu":
            raise ValueError(f"lengths are {sizes.dtype}; give whole numbers of samples")
        if batch == 0 or sizes.min() < shortest or sizes.max() > samples:
            raise ValueError(
                f"lengths={sizes.tolist()}: each must lie between {shortest} samples, the receptive"
                f" field, and the padded length {samples}"
            )
        if self.padding == "masked":
            waveform = np.pad(waveform, ((0, 0), (0, bucket_samples(samples) - samples)))
        out = self._forward(self.params, waveform, sizes.astype(np.int32), output_hidden_states)
        if self.padding == "masked":
            frames = frames_from_samples(samples, self.config.conv_kernel, self.config.conv_stride)
            out = out.first_frames(frames)
        return out


def bucket_samples(samples: int) -> int:
    """What a model pads signals of so many samples to, under `masked`."""
    octave = 2 ** (max(samples, 1) - 1).bit_length()  # the power of two at or above
    step = max(octave // (2 * BUCKETS_PER_OCTAVE), 1)
    return -(-samples // step) * step
