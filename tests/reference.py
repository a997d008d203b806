"""PyTorch models of `transformers`, randomly initialised, and clips of unequal length for both."""

import jax
import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

from voc2vec_jax.checkpoints.convert import Tensors
from voc2vec_jax.checkpoints.hf_config import config_to_hf
from voc2vec_jax.config import ModelConfig, ObjectiveConfig


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


class HubertPretraining(torch.nn.Module):
    """`transformers.HubertModel` with the head and the loss of fairseq's, written out in PyTorch.

    Evaluation mode: no dropout. fairseq's columns are kept: the true label stands in the first one
    and is -inf in its own place.
    """

    def __init__(self, config: ModelConfig, objective: ObjectiveConfig, seed: int = 0):
        super().__init__()
        self.hubert = hf_model("HubertModel", config, seed)
        self.final_proj = torch.nn.Linear(config.hidden_size, config.final_dim)
        labels = torch.rand(config.num_label_classes, config.final_dim)
        self.label_embs_concat = torch.nn.Parameter(labels)
        self.config, self.objective = config, objective
        self.hubert.feature_extractor.register_forward_hook(self._scale_gradient)

    def _scale_gradient(self, module: object, inputs: object, out: torch.Tensor) -> torch.Tensor:
        share = self.objective.feature_grad_mult
        self.features = out * share + out.detach() * (1 - share)  # [B, C, T]
        return self.features

    def cross_entropy(self, frames: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Summed over frames [n, D] with labels [n]."""
        projected = self.final_proj(frames)[:, None]  # [n, 1, P]
        others = self.label_embs_concat[None]  # [1, N, P]
        own = self.label_embs_concat[labels][:, None]
        columns = torch.cat([own, others.expand(len(labels), -1, -1)], dim=1)
        logits = torch.cosine_similarity(projected, columns, dim=-1)
        logits = logits / self.objective.logit_temperature
        hidden = functional.one_hot(labels + 1, logits.shape[1]).bool()
        logits = logits.masked_fill(hidden, -torch.inf)
        zeros = torch.zeros(len(labels), dtype=torch.long)
        return functional.cross_entropy(logits, zeros, reduction="sum")

    def forward(
        self,
        waveform: torch.Tensor,
        attention_mask: torch.Tensor | None,
        span_mask: torch.Tensor,
        targets: torch.Tensor,
    ) -> tuple[torch.Tensor, int]:
        """The loss summed over frames, and how many."""
        hidden = self.hubert(
            waveform, attention_mask=attention_mask, mask_time_indices=span_mask
        ).last_hidden_state
        valid = torch.ones(hidden.shape[:2], dtype=torch.bool)
        if attention_mask is not None:
            valid = self.hubert._get_feature_vector_attention_mask(hidden.shape[1], attention_mask)
            valid = valid.bool()
        loss, frames = torch.zeros(()), 0
        for chosen, weight in (
            (valid & span_mask, self.objective.masked_weight),
            (valid & ~span_mask, self.objective.unmasked_weight),
        ):
            if weight > 0:
                labels = targets[chosen] + self.config.num_special_classes
                loss = loss + weight * self.cross_entropy(hidden[chosen], labels)
                frames += len(labels)
        penalty = self.features.transpose(1, 2)[valid].square().mean()
        return loss + frames * self.objective.feature_penalty_weight * penalty, frames
