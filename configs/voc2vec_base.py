"""wav2vec 2.0 base on Voc125, the ten datasets of the voc2vec paper, or what you have of them.

Command:  python -m tools.prepare_data voc125 --manual-dir DIR
          python -m voc2vec_jax.train --config configs/voc2vec_base.py --workdir runs/voc2vec \\
              [--init-from hf:facebook/wav2vec2-base] [--data.mixture-temperature 2]
Data:     125.19 h by the paper's table. Datasets that are not prepared are named at the start.
Hardware: as configs/wav2vec2_base.py.
Status:   not run. The recipe is that of configs/wav2vec2_base.py: the paper says that it follows
          the set-up of wav2vec 2.0; numbers of its own were not found. The step of its longest
          bucket is the one that configs/wav2vec2_base.py says to fit 16 chips of a TPU v5e.
"""

from voc2vec_jax.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    return Config(
        task="wav2vec2",
        model=ModelConfig(
            hidden_dropout=0.1,
            attention_dropout=0.1,
            activation_dropout=0.0,
            feat_proj_dropout=0.1,
            feat_quantizer_dropout=0.1,
            layerdrop=0.05,
        ),
        data=DataConfig(
            name="voc125",
            # For the durations of the ten datasets; `tests/test_voc125.py -k padding` has shares.
            bucket_seconds=(1.4, 2.3, 3.1, 3.9, 4.8, 5.9, 7.4, 10.2, 15.625),
            batch_seconds=5_600.0,
            batch_multiple=64,
        ),
        optim=OptimConfig(learning_rate=5e-4, warmup_steps=32_000),
        train=TrainConfig(num_steps=400_000, log_every_steps=100, checkpoint_every_steps=1_000),
    )
