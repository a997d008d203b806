"""HuBERT base, first iteration: clusters of MFCCs, with fairseq's LibriSpeech recipe.

Command:  python -m tools.make_labels --features mfcc --clusters 100 --data.folder DIR \\
              --out labels/mfcc100
          python -m voc2vec_jax.train --config configs/hubert_base_iter1.py \\
              --workdir runs/hubert1 --data.folder DIR
Next:     configs/hubert_base_iter2.py
Hardware: accelerators with 2,800 s of padded audio per update between them, as fairseq's 32 GPUs
          had; lower data.batch_seconds and optim.learning_rate for fewer.
Status:   not run. The step of its longest bucket is that of configs/hubert_base_iter2.py, which
          says where it fits, but for 400 clusters less.

Differs from fairseq as configs/wav2vec2_base.py does: clips are padded to buckets and the padding
is masked, short clips are kept, and signals are normalised.
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
            num_clusters=100,
        ),
        data=DataConfig(labels="labels/mfcc100", batch_seconds=2_800.0, batch_multiple=32),
        mask=MaskConfig(prob=0.8, length=10),
        objective=ObjectiveConfig(feature_grad_mult=0.1, feature_penalty_weight=10.0),
        optim=OptimConfig(learning_rate=5e-4, warmup_steps=32_000, clip_norm=10.0),
        train=TrainConfig(num_steps=250_000, log_every_steps=100, checkpoint_every_steps=1_000),
    )
