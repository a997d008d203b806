"""HuBERT base of LibriSpeech, gone on with on Voc125: what voc2vec-hubert-ls-pt is by its name.

Command:  python -m tools.prepare_data voc125 --manual-dir DIR
          python -m tools.make_labels --features layer:9 --clusters 500 \\
              --model hf:facebook/hubert-base-ls960 --data.name voc125 --out labels/ls960-layer9-500
          python -m voc2vec_jax.train --config configs/hubert_base_ls_voc125.py \\
              --workdir runs/hubert_ls_voc125 --init-from hf:facebook/hubert-base-ls960
Data:     125.19 h by the paper's table. Datasets that are not prepared are named at the start.
Hardware: as configs/hubert_base_iter1.py.
Status:   not run. How voc2vec-hubert-ls-pt was trained is not published (which labels, how many
          updates): this is fairseq's recipe of a second iteration, with clusters of the
          ninth layer of the very model that is gone on with. The step of its longest bucket is the
          one that configs/hubert_base_iter2.py says to fit 16 chips of a TPU v5e.

The checkpoint holds the encoder only. What is kept and what is new is printed at the start: new are
final_proj.kernel, final_proj.bias and label_embs_concat, drawn as for a model from scratch.
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
        data=DataConfig(
            name="voc125",
            labels="labels/ls960-layer9-500",
            # For the durations of the ten datasets; `tests/test_voc125.py -k padding` has shares.
            bucket_seconds=(1.4, 2.3, 3.1, 3.9, 4.8, 5.9, 7.4, 10.2, 15.625),
            batch_seconds=2_800.0,
            batch_multiple=32,
        ),
        mask=MaskConfig(prob=0.8, length=10),
        objective=ObjectiveConfig(feature_grad_mult=0.1, feature_penalty_weight=10.0),
        optim=OptimConfig(learning_rate=5e-4, warmup_steps=32_000, clip_norm=10.0),
        train=TrainConfig(num_steps=400_000, log_every_steps=100, checkpoint_every_steps=1_000),
    )
