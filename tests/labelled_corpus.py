"""A small labelled corpus of tones, and the smallest model that can be fine-tuned on it."""

from pathlib import Path

import numpy as np

from data_pipelines.stores.building import build_store
from data_pipelines.stores.flat_store import Clip, FlatStore
from data_pipelines.stores.sound import to_int16
from voc2vec_jax.config import ModelConfig

CLASSES = ("cry", "laugh", "moan")
MODEL = ModelConfig(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    conv_dim=(8, 8, 8),  # few, for they take the longest to compile
    conv_kernel=(10, 8, 8),
    conv_stride=(5, 8, 8),
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
    mask_time_length=2,
)


def waveforms(count: int = 30, seed: int = 0) -> list[tuple[str, str, np.ndarray]]:
    """(label, speaker, float32 [S]) of clips of 0.1 to 0.6 s; the pitch says the class."""
    rng = np.random.default_rng(seed)
    clips = []
    for index in range(count):
        label = index % len(CLASSES)
        samples = int(rng.integers(1_600, 9_600))
        tone = np.sin(2 * np.pi * 400 * (label + 1) * np.arange(samples) / 16_000)
        noise = 0.1 * rng.standard_normal(samples)
        clips.append((CLASSES[label], f"speaker{index // 3}", (0.3 * tone + noise) * 0.5))
    return [(label, group, wave.astype(np.float32)) for label, group, wave in clips]


def corpus(folder: Path, count: int = 30) -> FlatStore:
    """A store of them."""
    decoded = [
        (
            Clip(f"{index:03d}", f"{index:03d}.wav", CLASSES.index(label), group),
            to_int16(wave),
        )
        for index, (label, group, wave) in enumerate(waveforms(count))
    ]
    return build_store(folder / "tones", decoded, dataset="tones", class_names=CLASSES)
