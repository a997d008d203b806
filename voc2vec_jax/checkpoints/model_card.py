"""The README.md of an exported checkpoint."""

import dataclasses
from collections.abc import Mapping

from voc2vec_jax.checkpoints.hubert_head import WITH_HEAD
from voc2vec_jax.config import Config, ModelConfig
from voc2vec_jax.models.wav2vec2 import Padding

CARD = """\
---
library_name: transformers
tags:
- audio
- voc2vec
- non-verbal-vocalization
- {model_type}
---

# {architecture} trained with voc2vec_jax

{facts}

## Use

```python
from voc2vec_jax import from_pretrained, load_audio

model = from_pretrained("path/to/this/folder", padding="masked")
waveform, lengths = model.preprocess([load_audio("clip.wav")])
out = model(waveform, lengths)
```

It also loads in PyTorch: `transformers.{auto_class}.from_pretrained("path/to/this/folder")`.
{head}
## Padding

{padding}

## Limits

The model has seen what its training data holds and nothing else. {limits}
"""
ENCODER = """\
It has no classification head:
class scores mean something only after fine-tuning."""
WITH_PRETRAINING_HEAD = """\
`pretraining_head.safetensors` holds the projection and the label embeddings of the pre-training,
from which voc2vec_jax can go on; `transformers` has no class for them and does not read them.
"""

GROUP_NORM = """\
This model was trained with padding excluded everywhere (`padding="masked"` in voc2vec_jax). Its
first convolution is followed by a group norm over time. `transformers` lets that norm see the
padding of a batch, so there the two agree only on clips that are not padded: run clips one by one,
or in batches of equal length."""
LAYER_NORM = """\
This model was trained with padding excluded everywhere. In `transformers`, pass the attention mask
that its feature extractor returns, and padded and unpadded clips give the same frames."""

AS_IN_TRANSFORMERS = """\
This model was trained on clips padded to one length, without an attention mask, as transformers
does by default (`padding="hf"` in voc2vec_jax). Its scores depend on how much padding a clip
gets."""


def render(
    architecture: str,
    config: ModelConfig,
    facts: Mapping[str, str] | None,
    trained_padding: Padding = "masked",
) -> str:
    """The card of a model.

    Args:
        architecture: Class name.
        config: Its configuration.
        facts: What is known of its making, as rows of a table.
        trained_padding: How padding was treated in training.
    """
    if facts:
        rows = [f"| {name} | {value} |" for name, value in facts.items()]
        table = "\n".join(["| | |", "|---|---|", *rows])
    else:
        table = "How these weights were made was not recorded when they were saved."
    classifies = "ForSequenceClassification" in architecture
    return CARD.format(
        auto_class="AutoModelForAudioClassification" if classifies else "AutoModel",
        limits=f"It tells apart: {', '.join(config.labels)}." if classifies else ENCODER,
        model_type=config.model_type,
        architecture=architecture,
        facts=table,
        head=f"\n{WITH_PRETRAINING_HEAD}" if architecture == WITH_HEAD else "",
        padding=_about_padding(config, trained_padding),
    )


def _about_padding(config: ModelConfig, trained: Padding) -> str:
    if trained == "hf":
        return AS_IN_TRANSFORMERS
    return GROUP_NORM if config.feat_extract_norm == "group" else LAYER_NORM


def facts_of_run(config: Config, corpus: str) -> dict[str, str]:
    """Rows for the model card of an export."""
    per_update = (
        f"{config.data.batch_clips} clips"
        if config.data.batch_clips
        else f"{config.data.batch_seconds} s of padded audio at most"
    )
    masking = ", ".join(f"{k} {v}" for k, v in dataclasses.asdict(config.mask).items())
    return {
        "task": config.task,
        **({"clusters": str(config.model.num_clusters)} if config.task == "hubert" else {}),
        "training data": corpus,
        "updates": str(config.train.num_steps),
        "batch": per_update,
        "peak learning rate": str(config.optim.learning_rate),
        **({} if config.task == "classify" else {"masking": masking}),
        "seed": str(config.train.seed),
    }
