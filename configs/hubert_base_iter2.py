"""HuBERT base, second iteration: clusters of the first one's sixth layer, from scratch.

Command:  python -m tools.make_labels --features layer:6 --clusters 500 \\
              --model runs/hubert1/export --data.folder DIR --out labels/layer6-500
          python -m voc2vec_jax.train --config configs/hubert_base_iter2.py \\
              --workdir runs/hubert2 --data.folder DIR
Before:   configs/hubert_base_iter1.py, whose hardware and differences from fairseq are those here
Status:   not run. Compiled ahead, it fits 16 chips of a TPU v5e (5.8 of 15.75 GiB each) with
          --train.precision bf16 --train.remat layers (docs/scaling.md):
          python -m tools.compile_ahead --config configs/hubert_base_iter2.py --topology v5e:4x4
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
            hidden_dropout=0.1,
            attention_dropout=0.1,
            activation_dropout=0.0,
            feat_proj_dropout=0.1,
            layerdrop=0.05,
            final_dim=256,
            num_clusters=500,
        ),
        data=DataConfig(labels="labels/layer6-500", batch_seconds=2_800.0, batch_multiple=32),
        mask=MaskConfig(prob=0.8, length=10),
        objective=ObjectiveConfig(feature_grad_mult=0.1, feature_penalty_weight=10.0),
        optim=OptimConfig(learning_rate=5e-4, warmup_steps=32_000, clip_norm=10.0),
        train=TrainConfig(num_steps=400_000, log_every_steps=100, checkpoint_every_steps=1_000),
    )
