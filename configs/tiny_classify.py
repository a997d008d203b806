"""A classifier on the tiny wav2vec 2.0, to try fine-tuning out on a laptop.

Command:  python -m voc2vec_jax.train --config configs/tiny_classify.py --workdir runs/classes \\
              --init-from runs/tiny
          (any wav2vec 2.0 or HuBERT; the architecture is then that of the weights)
Base:     families.tiny_wav2vec2 for the model, the windows and the length of the run; objective,
          batches and optimiser are those of fine-tuning.
Data:     the ten classes of the corpus that comes with the project, a quarter of its speakers held
          out; --data.table clips.csv takes your own (columns path, label, group), --data.folder DIR
          recordings in one folder for each class
Hardware: 2 CPU cores
"""

from dataclasses import replace

from voc2vec_jax.config import ClassifyConfig, Config, DataConfig, OptimConfig, families


def get_config() -> Config:
    base = families.tiny_wav2vec2()
    return Config(
        task="classify",
        model=base.model,
        data=DataConfig(
            max_seconds=base.data.max_seconds,
            bucket_seconds=base.data.bucket_seconds,
            batch_clips=16,
            eval_share=0.25,
        ),
        classify=ClassifyConfig(class_weights="balanced"),
        # AdamW as PyTorch has it; a pre-trained encoder forgets at the rates of pre-training.
        optim=OptimConfig(
            learning_rate=3e-4,
            warmup_share=0.1,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8,
            epsilon_placement="torch",
            weight_decay=0.0,
            clip_norm=1.0,
        ),
        train=replace(
            base.train, eval_every_steps=25, export_checkpoint="best", best_by="uar", patience=5
        ),
    )
