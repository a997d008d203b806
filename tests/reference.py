"""PyTorch models of `transformers`, randomly initialised, and clips of unequal length for both."""

import jax
import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

from voc2vec_jax.config import ModelConfig
from voc2vec_jax.convert import Tensors
from voc2vec_jax.hf_config import config_to_hf


def hf_config(config: ModelConfig, architecture: str) -> transformers.PreTrainedConfig:
    """The transformers configuration of ours."""
    fields = config_to_hf(config, architecture)
    return transformers.AutoConfig.for_model(**fields)


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


def old_spelling(name: str) -> str:
    """A tensor's name as of the checkpoints of 2021 to 2023, which we write."""
    name = name.replace("parametrizations.weight.original0", "weight_g")
    return name.replace("parametrizations.weight.original1", "weight_v")


def inject_gumbel(monkeypatch: pytest.MonkeyPatch, noise: jax.Array) -> None:
    """Makes PyTorch's Gumbel softmax use this noise [B, T, G, V]."""

    def gumbel_softmax(logits: torch.Tensor, tau: float, hard: bool) -> torch.Tensor:
        drawn = torch.tensor(np.asarray(noise)).reshape(logits.shape)
        soft = torch.softmax((logits + drawn) / tau, dim=-1)
        chosen = functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
        return chosen - soft.detach() + soft

    monkeypatch.setattr(functional, "gumbel_softmax", gumbel_softmax)


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
