"""voc2vec in JAX: foundation models of non-verbal vocalisation, trained, converted and used.

from voc2vec_jax import from_pretrained, load_audio

model = from_pretrained("path/or/hub-id", padding="masked")
waveform, lengths = model.preprocess([load_audio("laugh.wav")])
frames = model(waveform, lengths).last_hidden_state  # [1, T, D], 50 frames a second
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voc2vec_jax.audio.signal import load_audio, normalize, pad_batch
    from voc2vec_jax.checkpoints.loading import from_pretrained
    from voc2vec_jax.checkpoints.pretrained import PretrainedModel
    from voc2vec_jax.checkpoints.saving import save_pretrained
    from voc2vec_jax.config import Config, ModelConfig
    from voc2vec_jax.errors import AudioError, ConfigError, FreshHeadError
    from voc2vec_jax.models import (
        HubertForPreTraining,
        HubertForSequenceClassification,
        HubertModel,
        Wav2Vec2ForPreTraining,
        Wav2Vec2ForSequenceClassification,
        Wav2Vec2Model,
    )

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "Config",
    "ConfigError",
    "FreshHeadError",
    "HubertForPreTraining",
    "HubertForSequenceClassification",
    "HubertModel",
    "ModelConfig",
    "PretrainedModel",
    "Wav2Vec2ForPreTraining",
    "Wav2Vec2ForSequenceClassification",
    "Wav2Vec2Model",
    "from_pretrained",
    "load_audio",
    "normalize",
    "pad_batch",
    "save_pretrained",
]

_MODULES = {
    "audio.signal": ("load_audio", "normalize", "pad_batch"),
    "config": ("Config", "ModelConfig"),
    "checkpoints.loading": ("from_pretrained",),
    "checkpoints.saving": ("save_pretrained",),
    "models": (
        "HubertForPreTraining",
        "HubertForSequenceClassification",
        "HubertModel",
        "Wav2Vec2ForPreTraining",
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Model",
    ),
    "checkpoints.pretrained": ("PretrainedModel",),
    "errors": ("AudioError", "ConfigError", "FreshHeadError"),
}


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `--help` and the data pipeline need not wait for JAX.
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
