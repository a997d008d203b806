"""wav2vec 2.0 base on Voc125, the ten datasets of the voc2vec paper, or what you have of them.

Command:  python -m tools.prepare_data voc125 --manual-dir DIR
          python -m voc2vec_jax.train --config configs/voc2vec_base.py --workdir runs/voc2vec \\
              [--init-from hf:facebook/wav2vec2-base] [--data.mixture-temperature 2]
Base:     families.wav2vec2_base, and families.on_voc125 for the data: Voc125, in buckets for the
          durations of its ten datasets.
Data:     125.19 h by the paper's table. Datasets that are not prepared are named at the start.
Hardware: as configs/wav2vec2_base.py.
Status:   not run. The recipe is that of configs/wav2vec2_base.py: the paper says that it follows
          the set-up of wav2vec 2.0; numbers of its own were not found. The step of its longest
          bucket is the one that configs/wav2vec2_base.py says to fit 16 chips of a TPU v5e.
"""

from voc2vec_jax.config import Config, families


def get_config() -> Config:
    return families.on_voc125(families.wav2vec2_base())
