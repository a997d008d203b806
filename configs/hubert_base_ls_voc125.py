"""HuBERT base of LibriSpeech, gone on with on Voc125: what voc2vec-hubert-ls-pt is by its name.

Command:  python -m tools.prepare_data voc125 --manual-dir DIR
          python -m tools.make_labels --features layer:9 --clusters 500 \\
              --model hf:facebook/hubert-base-ls960 --data.name voc125 --out labels/ls960-layer9-500
          python -m voc2vec_jax.train --config configs/hubert_base_ls_voc125.py \\
              --workdir runs/hubert_ls_voc125 --init-from hf:facebook/hubert-base-ls960
Base:     families.hubert_base, and families.on_voc125 for the data: Voc125, in buckets for the
          durations of its ten datasets.
Data:     125.19 h by the paper's table. Datasets that are not prepared are named at the start.
Hardware: as configs/hubert_base_iter1.py.
Status:   not run. How voc2vec-hubert-ls-pt was trained is not published (which labels, how many
          updates): this is fairseq's recipe of a second iteration, with clusters of the
          ninth layer of the very model that is gone on with. The step of its longest bucket is the
          one that configs/hubert_base_iter2.py says to fit 16 chips of a TPU v5e.

The checkpoint holds the encoder only. What is kept and what is new is printed at the start: new are
final_proj.kernel, final_proj.bias and label_embs_concat, drawn as for a model from scratch.
"""

from voc2vec_jax.config import Config, families


def get_config() -> Config:
    return families.on_voc125(
        families.hubert_base(labels="labels/ls960-layer9-500", num_clusters=500)
    )
