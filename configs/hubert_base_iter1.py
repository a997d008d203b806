"""HuBERT base, first iteration: clusters of MFCCs, with fairseq's LibriSpeech recipe.

Command:  python -m tools.make_labels --features mfcc --clusters 100 --data.folder DIR \\
              --out labels/mfcc100
          python -m voc2vec_jax.train --config configs/hubert_base_iter1.py \\
              --workdir runs/hubert1 --data.folder DIR
Next:     configs/hubert_base_iter2.py
Base:     families.hubert_base, whose 400,000 updates are those of a second iteration; a first one
          has 250,000. Its module says where it differs from fairseq.
Hardware: accelerators with 2,800 s of padded audio per update between them, as fairseq's 32 GPUs
          had; lower data.batch_seconds and optim.learning_rate for fewer.
Status:   not run. The step of its longest bucket is that of configs/hubert_base_iter2.py, which
          says where it fits, but for 400 clusters less.
"""

from dataclasses import replace

from voc2vec_jax.config import Config, families


def get_config() -> Config:
    base = families.hubert_base(labels="labels/mfcc100", num_clusters=100)
    return replace(base, train=replace(base.train, num_steps=250_000))
