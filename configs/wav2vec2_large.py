"""wav2vec 2.0 large with fairseq's Libri-Light recipe, on your own recordings.

Command:  python -m voc2vec_jax.train --config configs/wav2vec2_large.py --workdir runs/large \\
              --data.folder DIR [--init-from hf:facebook/wav2vec2-large-lv60]
Hardware: accelerators with 9,600 s of padded audio per update between them, as fairseq's 128 GPUs
          had (three clips of 20 s each); lower data.batch_seconds and optim.learning_rate for
          fewer.
Status:   not run. Compiled ahead, it fits 64 chips of a TPU v4 (9.2 of 30.75 GiB each) with
          --train.precision bf16 --train.remat layers: python -m tools.compile_ahead
          --config configs/wav2vec2_large.py --topology v4:4x4x4 and those flags (docs/scaling.md).

Differs from fairseq as configs/wav2vec2_base.py does: clips are padded to buckets and the padding
is masked, and short clips are kept. Its learning rate is that of fairseq's file, 5e-3; the paper
gives 3e-4 for a large model on LibriSpeech.
"""

from voc2vec_jax.config import (
    Config,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        task="wav2vec2",
        model=ModelConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            conv_bias=True,
            codevector_dim=768,
            proj_codevector_dim=768,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            feat_quantizer_dropout=0.0,
            layerdrop=0.0,
        ),
        data=DataConfig(
            max_seconds=20.0,
            bucket_seconds=(1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 15.0, 20.0),
            batch_seconds=9_600.0,
            batch_multiple=128,
        ),
        objective=ObjectiveConfig(
            feature_grad_mult=1.0,
            feature_penalty_weight=0.0,
            gumbel_temperature_stop=0.1,
        ),
        optim=OptimConfig(learning_rate=5e-3, warmup_steps=32_000),
        train=TrainConfig(num_steps=1_000_000, log_every_steps=100, checkpoint_every_steps=1_000),
    )
