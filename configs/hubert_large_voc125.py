"""HuBERT large on Voc125, with fairseq's Libri-Light recipe.

Command:  python -m tools.prepare_data voc125 --manual-dir DIR
          python -m tools.make_labels --features layer:9 --clusters 500 \\
              --model runs/hubert_ls_voc125/export --data.name voc125 --out labels/layer9-500
          python -m voc2vec_jax.train --config configs/hubert_large_voc125.py \\
              --workdir runs/hubert_large [--init-from hf:facebook/hubert-large-ll60k]
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

from voc2vec_jax.config import (
    Config,
    DataConfig,
    MaskConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        task="hubert",
        model=ModelConfig(
            model_type="hubert",
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            conv_bias=True,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            layerdrop=0.0,
            final_dim=768,
            num_clusters=500,
        ),
        data=DataConfig(
            name="voc125",
            labels="labels/layer9-500",
            # For the durations of the ten datasets; `tests/test_voc125.py -k padding` has shares.
            bucket_seconds=(1.4, 2.3, 3.1, 3.9, 4.8, 5.9, 7.4, 10.2, 15.625),
            batch_seconds=7_200.0,
            batch_multiple=128,
        ),
        mask=MaskConfig(prob=0.8, length=10),
        objective=ObjectiveConfig(feature_grad_mult=1.0, feature_penalty_weight=10.0),
        optim=OptimConfig(learning_rate=1.5e-3, warmup_steps=32_000, clip_norm=1.0),
        train=TrainConfig(num_steps=400_000, log_every_steps=100, checkpoint_every_steps=1_000),
    )
