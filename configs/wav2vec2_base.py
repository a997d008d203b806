"""wav2vec 2.0 base with fairseq's LibriSpeech recipe, on your own recordings.

Command:  python -m voc2vec_jax.train --config configs/wav2vec2_base.py --workdir runs/base \\
              --data.folder DIR [--init-from hf:facebook/wav2vec2-base]
Base:     families.wav2vec2_base as it is; its module says where it differs from fairseq.
Hardware: accelerators with 5,600 s of padded audio per update between them, as fairseq's 64 GPUs
          had; lower data.batch_seconds and optim.learning_rate for fewer.
Status:   one update of 8 clips of 4 s was run on two CPU cores (--dry-run --data.max-seconds 4
          --data.bucket-seconds 4 --data.batch-seconds 32 --data.batch-multiple 8): 95,044,608
          parameters, 7.1 GiB. The whole recipe was not run.
          Compiled ahead, it fits 16 chips of a TPU v5e (9.6 of 15.75 GiB each) with
          --train.precision bf16 --train.remat layers, and 64 of a v4 (15.8 of 30.75 GiB) with bf16
          alone: python -m tools.compile_ahead --config configs/wav2vec2_base.py --topology v5e:4x4
          (or v4:4x4x4) and those flags (docs/scaling.md).
"""

from voc2vec_jax.config import Config, families


def get_config() -> Config:
    return families.wav2vec2_base()
