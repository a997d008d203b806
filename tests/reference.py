"""PyTorch models of `transformers`, randomly initialised, and clips of unequal length for both."""

import numpy as np
import torch
import transformers
from transformers import Wav2Vec2Config

from voc2vec_jax import convert
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.convert import Tensors


def hf_config(config: ModelConfig, architecture: str) -> Wav2Vec2Config:
    """The transformers configuration of ours."""
    return Wav2Vec2Config(**convert.config_to_hf(config, architecture))


def hf_model(architecture: str, config: ModelConfig, seed: int = 0) -> torch.nn.Module:
    """A model in evaluation mode whose parameters all differ from their usual start.

    Norm scales of 1 and biases of 0 would hide swapped or forgotten tensors.
    """
    torch.manual_seed(seed)
    model = getattr(transformers, architecture)(hf_config(config, architecture))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def tensors_of(model: torch.nn.Module) -> Tensors:
    """A state dict as NumPy arrays."""
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def clips(lengths: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded noise: waveform [B, S] float32 and lengths [B] int32."""
    rng = np.random.default_rng(seed)
    waveform = rng.standard_normal((len(lengths), max(lengths))).astype(np.float32)
    valid = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return waveform * valid, np.array(lengths, np.int32)


def sample_mask(lengths: np.ndarray, samples: int) -> torch.Tensor:
    """The attention mask [B, S] that transformers' feature extractor returns."""
    return torch.tensor((np.arange(samples) < lengths[:, None]).astype(np.int64))
