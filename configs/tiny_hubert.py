"""A 1.4 M parameter HuBERT on two hours of real recordings, both iterations (docs/hubert.md).

Command:  python -m tools.make_labels --features mfcc --clusters 100 --data.folder DIR \\
              --out labels/mfcc100
          python -m voc2vec_jax.train --config configs/tiny_hubert.py --workdir runs/iteration1 \\
              --data.folder DIR
          python -m tools.make_labels --features layer:2 --clusters 100 \\
              --model runs/iteration1/export --data.folder DIR --out labels/layer2-100
          python -m voc2vec_jax.train --config configs/tiny_hubert.py --workdir runs/iteration2 \\
              --data.folder DIR --data.labels labels/layer2-100
Base:     families.tiny_hubert, and families.on_short_recordings as in tiny_recordings.py: the same
          encoder, batches and optimiser, to compare the two objectives.
Data:     EmoGator (27 contributors), Donate-a-Cry, HumanVoiceDataset: 3,066 clips, 2.18 h
Hardware: 2 CPU cores
"""

from voc2vec_jax.config import Config, families


def get_config() -> Config:
    return families.on_short_recordings(
        families.tiny_hubert(labels="labels/mfcc100", num_clusters=100)
    )
