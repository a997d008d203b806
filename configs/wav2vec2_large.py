"""wav2vec 2.0 large with fairseq's Libri-Light recipe, on your own recordings.

Command:  python -m voc2vec_jax.train --config configs/wav2vec2_large.py --workdir runs/large \\
              --data.folder DIR [--init-from hf:facebook/wav2vec2-large-lv60]
Base:     families.wav2vec2_large as it is; its module says where it differs from fairseq.
Hardware: accelerators with 9,600 s of padded audio per update between them, as fairseq's 128 GPUs
          had (three clips of 20 s each); lower data.batch_seconds and optim.learning_rate for
          fewer.
Status:   not run. Compiled ahead, it fits 64 chips of a TPU v4 (9.2 of 30.75 GiB each) with
          --train.precision bf16 --train.remat layers: python -m tools.compile_ahead
          --config configs/wav2vec2_large.py --topology v4:4x4x4 and those flags (docs/scaling.md).
"""

from voc2vec_jax.config import Config, families


def get_config() -> Config:
    return families.wav2vec2_large()
