"""A 1.4 M parameter HuBERT on two hours of real recordings, both iterations (docs/hubert.md).

Command:  python -m tools.make_labels --features mfcc --clusters 100 --data.folder DIR \\
              --out labels/mfcc100
          python -m voc2vec_jax.train --config configs/tiny_hubert.py --workdir runs/iteration1 \\
              --data.folder DIR
          python -m tools.make_labels --features layer:2 --clusters 100 \\
              --model runs/iteration1/export --data.folder DIR --out labels/layer2-100
          python -m voc2vec_jax.train --config configs/tiny_hubert.py --workdir runs/iteration2 \\
              --data.folder DIR --data.labels labels/layer2-100
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
        task="hubert",
        # The encoder, batches and optimiser of tiny_recordings.py, to compare the two objectives.
        model=ModelConfig(
            model_type="hubert",
            conv_dim=(64, 64, 96, 128, 128, 128, 128),
            hidden_size=144,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=576,
            num_conv_pos_embeddings=64,
            num_conv_pos_embedding_groups=8,
            final_dim=64,
            num_clusters=100,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            layerdrop=0.0,
        ),
        data=DataConfig(
            labels="labels/mfcc100",
            max_seconds=2.0,
            bucket_seconds=(2.0,),
            batch_seconds=8.0,
            batch_multiple=4,
        ),
        mask=MaskConfig(prob=0.8, length=10),
        objective=ObjectiveConfig(feature_grad_mult=1.0, feature_penalty_weight=1.0),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=100),
        train=TrainConfig(num_steps=3_000, log_every_steps=10, checkpoint_every_steps=500),
    )
