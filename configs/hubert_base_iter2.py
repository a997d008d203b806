"""HuBERT base, second iteration: clusters of the first one's sixth layer, from scratch.

Command:  python -m tools.make_labels --features layer:6 --clusters 500 \\
              --model runs/hubert1/export --data.folder DIR --out labels/layer6-500
          python -m voc2vec_jax.train --config configs/hubert_base_iter2.py \\
              --workdir runs/hubert2 --data.folder DIR
Before:   configs/hubert_base_iter1.py, whose hardware is that needed here.
Base:     families.hubert_base as it is.
Status:   not run. Compiled ahead, it fits 16 chips of a TPU v5e (5.8 of 15.75 GiB each) with
          --train.precision bf16 --train.remat layers (docs/scaling.md):
          python -m tools.compile_ahead --config configs/hubert_base_iter2.py --topology v5e:4x4
"""

from voc2vec_jax.config import Config, families


def get_config() -> Config:
    return families.hubert_base(labels="labels/layer6-500", num_clusters=500)
