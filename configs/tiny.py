"""A 1.4 M parameter wav2vec 2.0, to try everything out on a laptop.

Command:  python -m voc2vec_jax.train --config configs/tiny.py --workdir runs/tiny
Base:     families.tiny_wav2vec2 as it is.
Data:     the corpus that comes with the project; --data.folder DIR takes your own recordings
Hardware: 2 CPU cores
"""

from voc2vec_jax.config import Config, families


def get_config() -> Config:
    return families.tiny_wav2vec2()
