"""All model classes: by family, and by the names that `config.json` gives them."""

from voc2vec_jax.models.classifier import (
    ClassifierOutput,
    HubertForSequenceClassification,
    Wav2Vec2ForSequenceClassification,
)
from voc2vec_jax.models.hubert import HubertModel
from voc2vec_jax.models.wav2vec2 import (
    ModelOutput,
    PretrainingOutput,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
)

Architecture = (
    type[Wav2Vec2Model]
    | type[Wav2Vec2ForPreTraining]
    | type[Wav2Vec2ForSequenceClassification]
    | type[HubertForSequenceClassification]
)
"""A model class; `HubertModel` is a `Wav2Vec2Model` too."""
Output = ModelOutput | PretrainingOutput | ClassifierOutput

ENCODERS = {"wav2vec2": Wav2Vec2Model, "hubert": HubertModel}
CLASSIFIERS: dict[
    str, type[Wav2Vec2ForSequenceClassification] | type[HubertForSequenceClassification]
] = {
    "wav2vec2": Wav2Vec2ForSequenceClassification,
    "hubert": HubertForSequenceClassification,
}
"""Model classes by `model_type`."""
ARCHITECTURES: dict[str, dict[str, Architecture]] = {
    family: {
        kind.__name__: kind
        for kind in (
            ENCODERS[family],
            CLASSIFIERS[family],
            *((Wav2Vec2ForPreTraining,) if family == "wav2vec2" else ()),
        )
    }
    for family in ENCODERS
}
"""All model classes of a family, by the names that `config.json` gives them."""
