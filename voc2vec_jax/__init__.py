"""voc2vec in JAX: foundation models of non-verbal vocalisation, trained, converted and used.

from voc2vec_jax import from_pretrained, load_audio

model = from_pretrained("path/or/hub-id", padding="masked")
waveform, lengths = model.preprocess([load_audio("laugh.wav")])
frames = model(waveform, lengths).last_hidden_state  # [1, T, D], 50 frames a second
"""

from voc2vec_jax.audio import AudioError, load_audio, normalize, pad_batch
from voc2vec_jax.config import Config, ConfigError, ModelConfig
from voc2vec_jax.hub import from_pretrained, save_pretrained
from voc2vec_jax.models import Wav2Vec2ForPreTraining, Wav2Vec2Model
from voc2vec_jax.pretrained import PretrainedModel

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "Config",
    "ConfigError",
    "ModelConfig",
    "PretrainedModel",
    "Wav2Vec2ForPreTraining",
    "Wav2Vec2Model",
    "from_pretrained",
    "load_audio",
    "normalize",
    "pad_batch",
    "save_pretrained",
]
