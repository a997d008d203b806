"""A 1.4 M parameter wav2vec 2.0, to try everything out on a laptop.

Command:  python -m voc2vec_jax.train --config configs/tiny.py --workdir runs/tiny
Data:     the corpus that comes with the project; --data.folder DIR takes your own recordings
Hardware: 2 CPU cores
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
        task="wav2vec2",
        model=ModelConfig(
            # Seven convolutions with the base model's strides, so frames mean the same as there.
            conv_dim=(64, 64, 96, 128, 128, 128, 128),
            hidden_size=144,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=576,
            num_conv_pos_embeddings=64,
            num_conv_pos_embedding_groups=8,
            num_codevectors_per_group=16,
            codevector_dim=64,
            proj_codevector_dim=64,
            num_negatives=50,
            hidden_dropout=0.05,
            attention_dropout=0.05,
            activation_dropout=0.0,
            feat_proj_dropout=0.05,
            feat_quantizer_dropout=0.0,
            layerdrop=0.0,
        ),
        data=DataConfig(
            max_seconds=4.0,
            bucket_seconds=(1.0, 2.0, 3.0, 4.0),
            batch_seconds=32.0,
            batch_multiple=8,
        ),
        mask=MaskConfig(prob=0.65, length=10),
        # At this size and number of updates the recipe of the base model (320 entries, a gradient
        # multiplier of 0.1, a penalty of 10) does not leave chance level.
        objective=ObjectiveConfig(
            feature_grad_mult=1.0,
            feature_penalty_weight=1.0,
            gumbel_temperature_decay=0.9995,
        ),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=50),
        train=TrainConfig(num_steps=300, log_every_steps=10, checkpoint_every_steps=50),
    )
