"""All model classes: by family, and by the names that `config.json` gives them."""

from voc2vec_jax.models.classifier import (
    ClassifierOutput,
    HubertForSequenceClassification,
    Wav2Vec2ForSequenceClassification,
)
from voc2vec_jax.models.hubert import (
    HubertForPreTraining,
    HubertModel,
    HubertPretrainingOutput,
)
from voc2vec_jax.models.wav2vec2 import (
    ModelOutput,
    PretrainingOutput,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
)

Architecture = (
    type[Wav2Vec2Model]
    | type[Wav2Vec2ForPreTraining]
    | type[HubertForPreTraining]
    | type[Wav2Vec2ForSequenceClassification]
    | type[HubertForSequenceClassification]
)
"""A model class; `HubertModel` is a `Wav2Vec2Model` too."""
Output = ModelOutput | PretrainingOutput | HubertPretrainingOutput | ClassifierOutput

ENCODERS = {"wav2vec2": Wav2Vec2Model, "hubert": HubertModel}
CLASSIFIERS: dict[
    str, type[Wav2Vec2ForSequenceClassification] | type[HubertForSequenceClassification]
] = {
    "wav2vec2": Wav2Vec2ForSequenceClassification,
    "hubert": HubertForSequenceClassification,
}
PRETRAINERS: dict[str, type[Wav2Vec2ForPreTraining] | type[HubertForPreTraining]] = {
    "wav2vec2": Wav2Vec2ForPreTraining,
    "hubert": HubertForPreTraining,
}
"""Model classes by `model_type`."""
ARCHITECTURES: dict[str, dict[str, Architecture]] = {
    family: {
        kind.__name__: kind for kind in (ENCODERS[family], CLASSIFIERS[family], PRETRAINERS[family])
    }
    for family in ENCODERS
}
"""All model classes of a family, by the names that `config.json` gives them."""
