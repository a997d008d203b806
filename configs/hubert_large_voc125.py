"""HuBERT large on Voc125, with fairseq's Libri-Light recipe.

Command:  python -m tools.prepare_data voc125 --manual-dir DIR
          python -m tools.make_labels --features layer:9 --clusters 500 \\
              --model runs/hubert_ls_voc125/export --data.name voc125 --out labels/layer9-500
          python -m voc2vec_jax.train --config configs/hubert_large_voc125.py \\
              --workdir runs/hubert_large [--init-from hf:facebook/hubert-large-ll60k]
Base:     families.hubert_large, and families.on_voc125 for the data: Voc125, in buckets for the
          durations of its ten datasets.
Data:     125.19 h by the paper's table; its labels come from a base model of a second iteration.
Hardware: accelerators with 7,200 s of padded audio per update between them, as fairseq's 128 GPUs
          had; lower data.batch_seconds and optim.learning_rate for fewer. --train.precision bf16,
          and --mesh.fsdp where parameters and moments (3.8 GB in float32) do not fit one device.
Status:   not run. Compiled ahead, it fits 64 chips of a TPU v4 (8.1 of 30.75 GiB each, mesh.fsdp
          1) with --train.precision bf16 --train.remat layers (docs/scaling.md):
          python -m tools.compile_ahead --config configs/hubert_large_voc125.py --topology v4:4x4x4

The convolutions have a bias, as Hugging Face's derivatives of the published model say; fairseq's
recipe from scratch leaves it out (--no-model.conv-bias). A checkpoint that is gone on with decides.
"""

from voc2vec_jax.config import Config, families


def get_config() -> Config:
    return families.on_voc125(families.hubert_large(labels="labels/layer9-500", num_clusters=500))
