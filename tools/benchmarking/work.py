"""What both sides compute, as numbers; imports no framework."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

SAMPLE_RATE = 16_000
Side = Literal["jax", "torch"]
SIDES: tuple[Side, Side] = ("jax", "torch")
FOREIGN = {
    "jax": ("torch", "transformers"),
    "torch": ("jax", "jaxlib", "flax", "voc2vec_jax"),
}
"""Packages that a worker of a side must not have loaded, which its memory would show."""
CLASSES = 5
LEARNING_RATE = 1e-5
WEIGHT_DECAY = 0.01
MASK_PROB, MASK_LENGTH = 0.65, 10
FEATURE_PENALTY_WEIGHT, FEATURE_GRAD_MULT = 10.0, 0.1
GUMBEL_TEMPERATURE = 2.0
CLUSTERS = 500


def centroids(width: int) -> np.ndarray:
    """What frames are assigned to, [CLUSTERS, D] float32."""
    return np.random.default_rng(1).standard_normal((CLUSTERS, width)).astype(np.float32)


@dataclass(frozen=True)
class Work:
    """One thing that is timed."""

    architecture: str
    """Name of the class on both sides."""
    clips: int
    seconds: float
    dropout: bool = False
    """Whether dropouts are those of a fresh configuration, or 0. Layer drop is 0 in any case: it
    would make every step another amount of work."""
    trains: bool = True

    def waveform(self) -> np.ndarray:
        """Noise [B, S] float32."""
        shape = (self.clips, int(self.seconds * SAMPLE_RATE))
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32)

    def waveforms(self) -> list[np.ndarray]:
        """Noise [S] float32 of different lengths, `seconds` on average."""
        random = np.random.default_rng(0)
        # Evenly spread, so that no seed makes a longer corpus.
        lengths = np.linspace(0.1, 2 * self.seconds - 0.1, self.clips) * SAMPLE_RATE
        lengths = random.permutation(lengths.astype(int))
        return [random.standard_normal(n).astype(np.float32) for n in lengths]

    def labels(self) -> np.ndarray:
        """A class per clip, [B] int32."""
        return (np.arange(self.clips) % CLASSES).astype(np.int32)

    def checkpoint_fields(self, size: str) -> dict[str, Any]:
        """`config.json` of the model, but for its `model_type`."""
        none = dict.fromkeys(DROPOUTS, 0.0)
        return {
            **SIZES[size],
            **({} if self.dropout else none),
            "layerdrop": 0.0,
            "apply_spec_augment": False,
            "num_labels": CLASSES,
        }


DROPOUTS = (
    "hidden_dropout",
    "activation_dropout",
    "attention_dropout",
    "feat_proj_dropout",
    "feat_quantizer_dropout",
    "final_dropout",
)
WORKS = {
    "inference": Work("Wav2Vec2Model", 8, 5.0, trains=False),
    "finetune": Work("Wav2Vec2ForSequenceClassification", 4, 5.0),
    "finetune-dropout": Work("Wav2Vec2ForSequenceClassification", 4, 5.0, dropout=True),
    "pretrain": Work("Wav2Vec2ForPreTraining", 2, 10.0, dropout=True),
    "labels": Work("HubertModel", 128, 3.0, trains=False),
    "load": Work("Wav2Vec2Model", 0, 0.0, trains=False),
}
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "conv_dim": [24, 20, 20, 20, 20, 20, 28],
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "num_codevectors_per_group": 8,
        "codevector_dim": 12,
        "proj_codevector_dim": 10,
        "num_negatives": 7,
    },
    "base": {},
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
    },
}


@dataclass(frozen=True)
class Request:
    """What a worker is asked for."""

    side: Side
    work: str
    folder: str
    """The checkpoint: both sides start from the same weights."""
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
