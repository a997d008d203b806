"""The 1.4 M parameter wav2vec 2.0 on two hours of real recordings (docs/a_model_that_learnt.md).

Command:  python -m voc2vec_jax.train --config configs/tiny_recordings.py --workdir runs/learnt
              --data.folder DIR
Base:     families.tiny_wav2vec2, and families.on_short_recordings: no dropout, whose random numbers
          cost time on a CPU, small batches of one bucket of 2 s, and 3,000 updates, the first 100
          of them to warm up.
Data:     EmoGator (27 contributors), Donate-a-Cry, HumanVoiceDataset: 3,066 clips, 2.18 h
Hardware: 2 CPU cores
"""

from voc2vec_jax.config import Config, families


def get_config() -> Config:
    return families.on_short_recordings(families.tiny_wav2vec2())
