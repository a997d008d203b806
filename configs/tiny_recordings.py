"""The 1.4 M parameter wav2vec 2.0 on two hours of real recordings (docs/a_model_that_learnt.md).

Command:  python -m voc2vec_jax.train --config configs/tiny_recordings.py --workdir runs/learnt
              --data.folder DIR
Data:     EmoGator (27 contributors), Donate-a-Cry, HumanVoiceDataset: 3,066 clips, 2.18 h
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
        # The model of tiny.py without dropout, whose random numbers cost time on a CPU.
        model=ModelConfig(
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
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            feat_quantizer_dropout=0.0,
            layerdrop=0.0,
        ),
        # Most clips are 1.9 s long, so that one bucket pads little and compiles once.
        # Batches are small so that 3,000 updates take half an hour.
        data=DataConfig(
            max_seconds=2.0,
            bucket_seconds=(2.0,),
            batch_seconds=8.0,
            batch_multiple=4,
        ),
        mask=MaskConfig(prob=0.65, length=10),
        objective=ObjectiveConfig(
            feature_grad_mult=1.0,
            feature_penalty_weight=1.0,
            gumbel_temperature_decay=0.9995,
        ),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=100),
        train=TrainConfig(num_steps=3_000, log_every_steps=10, checkpoint_every_steps=500),
    )
