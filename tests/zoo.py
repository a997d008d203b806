"""Checkpoints that people publish: their layout, with shrunk widths and drawn weights.

What decides whether and as what they load is as far as we know as published. None of them
was downloaded.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

Tensors = dict[str, np.ndarray]
Fields = dict[str, Any]

WIDTHS: Fields = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "vocab_size": 12,
    "codevector_dim": 16,
    "proj_codevector_dim": 16,
    "num_codevectors_per_group": 8,
}
LARGE: Fields = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
"""Of the large models since LV-60; base models and the first large one have the defaults."""


def make(
    folder: Path,
    kind: str,
    tensors: Callable[[Tensors], Tensors] = lambda held: held,
    config: Callable[[Fields], Fields] = lambda fields: fields,
    **values: Any,
) -> Path:
    """A folder that transformers wrote, with what some publisher did to it."""
    torch.manual_seed(0)
    of_hubert = kind.startswith("Hubert")
    described = transformers.HubertConfig if of_hubert else transformers.Wav2Vec2Config
    model = getattr(transformers, kind)(described(**WIDTHS | values))
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        do_normalize=True, return_attention_mask=values.get("feat_extract_norm") == "layer"
    ).save_pretrained(folder)
    path = folder / "model.safetensors"
    save_file(tensors(load_file(path)), path, metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(config(json.loads(path.read_text()))))
    return folder


def without_mask_embedding(held: Tensors) -> Tensors:
    return {name: value for name, value in held.items() if "masked_spec_embed" not in name}


def having(**fields: Any) -> Callable[[Fields], Fields]:
    return lambda held: {**held, **fields}


def with_final_projection(held: Tensors) -> Tensors:
    projection = np.zeros((256, 32), np.float32)
    return {**held, "final_proj.weight": projection, "final_proj.bias": projection[:, 0]}


def _with_head(*layers: str) -> Callable[[Tensors], Tensors]:
    """The head of a class of the publisher's own instead of the one of transformers."""

    def replaced(held: Tensors) -> Tensors:
        kept = {n: v for n, v in held.items() if not n.startswith(("classifier", "projector"))}
        head = {f"{layer}.weight": np.zeros((32, 32), np.float32) for layer in layers}
        return kept | head

    return replaced


@dataclasses.dataclass(frozen=True)
class Layout:
    """One checkpoint, or several of the same layout."""

    hub: str
    what: str
    """What is peculiar about it."""
    kind: str = "Wav2Vec2Model"
    values: Fields = dataclasses.field(default_factory=dict)
    tensors: Callable[[Tensors], Tensors] = lambda held: held
    config: Callable[[Fields], Fields] = lambda fields: fields
    as_bin: bool = False
    loads: str = "encoder"
    """The class that `from_pretrained` gives; "encoder" where it wants to be asked for that."""
    refused: str = ""
    """What is said where nothing can be had."""

    def make(self, folder: Path) -> Path:
        """The folder."""
        make(folder, self.kind, self.tensors, self.config, **self.values)
        if self.as_bin:
            path = folder / "model.safetensors"
            state = {name: torch.from_numpy(value) for name, value in load_file(path).items()}
            torch.save(state, folder / "pytorch_model.bin")
            path.unlink()
        return folder

    def row(self) -> str:
        """Of the table in `docs/checkpoints.md`."""
        if self.refused:
            return f"| `{self.hub}` | {self.what} | refused: “{self.refused}” |"
        got = f"`{self.loads}`" if self.loads != "encoder" else "its encoder"
        return f"| `{self.hub}` | {self.what} | {got} |"


ZOO = (
    Layout(
        "alkiskoudounas/voc2vec",
        "base, pre-training heads, `pytorch_model.bin`",
        "Wav2Vec2ForPreTraining",
        as_bin=True,
        loads="Wav2Vec2ForPreTraining",
    ),
    Layout(
        "alkiskoudounas/voc2vec-hubert-ls-pt",
        "base, `pytorch_model.bin`",
        "HubertModel",
        as_bin=True,
        loads="HubertModel",
    ),
    Layout(
        "facebook/wav2vec2-base",
        "base, pre-training heads",
        "Wav2Vec2ForPreTraining",
        loads="Wav2Vec2ForPreTraining",
    ),
    Layout(
        "facebook/wav2vec2-base-960h",
        "CTC; masks, and has no mask embedding",
        "Wav2Vec2ForCTC",
        tensors=without_mask_embedding,
    ),
    Layout(
        "facebook/wav2vec2-large",
        "large widths, a base model's norms",
        "Wav2Vec2ForPreTraining",
        loads="Wav2Vec2ForPreTraining",
    ),
    Layout(
        "facebook/wav2vec2-large-lv60",
        "large, pre-training heads",
        "Wav2Vec2ForPreTraining",
        LARGE,
        loads="Wav2Vec2ForPreTraining",
    ),
    Layout(
        "facebook/wav2vec2-large-960h-lv60-self",
        "large, CTC",
        "Wav2Vec2ForCTC",
        LARGE,
    ),
    Layout(
        "facebook/wav2vec2-large-robust",
        "large, pre-training heads",
        "Wav2Vec2ForPreTraining",
        LARGE,
        loads="Wav2Vec2ForPreTraining",
    ),
    Layout(
        "facebook/wav2vec2-large-xlsr-53",
        "large, wider codebook",
        "Wav2Vec2ForPreTraining",
        LARGE | {"codevector_dim": 24, "proj_codevector_dim": 24},
        loads="Wav2Vec2ForPreTraining",
    ),
    Layout(
        "facebook/wav2vec2-xls-r-300m, facebook/mms-300m",
        "large, wider codebook, no dropout of layers",
        "Wav2Vec2ForPreTraining",
        LARGE | {"codevector_dim": 24, "proj_codevector_dim": 24, "layerdrop": 0.0},
        loads="Wav2Vec2ForPreTraining",
    ),
    Layout(
        "jonatasgrosman/wav2vec2-large-xlsr-53-english",
        "large, CTC, a vocabulary of its own",
        "Wav2Vec2ForCTC",
        LARGE | {"vocab_size": 33},
    ),
    Layout(
        "superb/wav2vec2-base-superb-er",
        "classifier on a weighted sum of layers",
        "Wav2Vec2ForSequenceClassification",
        {"use_weighted_layer_sum": True, "num_labels": 4},
        loads="Wav2Vec2ForSequenceClassification",
    ),
    Layout(
        "superb/wav2vec2-base-superb-sv",
        "x-vectors",
        "Wav2Vec2ForXVector",
        {"tdnn_dim": [8] * 5, "xvector_output_dim": 8},
    ),
    Layout(
        "anton-l/wav2vec2-base-superb-sd",
        "a class per frame",
        "Wav2Vec2ForAudioFrameClassification",
    ),
    Layout(
        "superb/hubert-large-superb-er",
        "large classifier on a weighted sum of layers",
        "HubertForSequenceClassification",
        LARGE | {"use_weighted_layer_sum": True, "num_labels": 4},
        loads="HubertForSequenceClassification",
    ),
    Layout("facebook/hubert-base-ls960", "base", "HubertModel", loads="HubertModel"),
    Layout("facebook/hubert-large-ll60k", "large", "HubertModel", LARGE, loads="HubertModel"),
    Layout("facebook/hubert-large-ls960-ft", "large, CTC", "HubertForCTC", LARGE),
    Layout(
        "ntu-spml/distilhubert",
        "no norm before the projection",
        "HubertModel",
        {"feat_proj_layer_norm": False},
        loads="HubertModel",
    ),
    Layout(
        "lengyue233/content-vec-best",
        "a projection of a class of its own",
        "HubertModel",
        tensors=with_final_projection,
        config=having(architectures=["HubertModelWithFinalProj"]),
    ),
    Layout(
        "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
        "a regression head of a class of its own",
        "Wav2Vec2ForSequenceClassification",
        LARGE,
        _with_head("classifier.dense", "classifier.out_proj"),
        having(architectures=["Wav2Vec2ForSpeechClassification"]),
    ),
    Layout(
        "ehcalabres/wav2vec2-lg-xlsr-en-speech-emotion-recognition",
        "a head of its own under the name of the one of transformers",
        "Wav2Vec2ForSequenceClassification",
        LARGE,
        _with_head("classifier.dense", "classifier.output"),
    ),
    Layout(
        "facebook/mms-1b-all",
        "an adapter per language in each block",
        "Wav2Vec2ForCTC",
        LARGE,
        config=having(adapter_attn_dim=16),
        refused="adapter_attn_dim=16: adapters are not supported",
    ),
    Layout(
        "microsoft/wavlm-base-plus",
        "another family",
        config=having(model_type="wavlm"),
        refused="model_type='wavlm'",
    ),
    Layout(
        "facebook/data2vec-audio-base",
        "another family",
        config=having(model_type="data2vec-audio"),
        refused="model_type='data2vec-audio'",
    ),
    Layout(
        "m-a-p/MERT-v1-95M",
        "another family, at 24 kHz",
        config=having(model_type="mert_model"),
        refused="model_type='mert_model'",
    ),
    Layout(
        "facebook/wav2vec2-xls-r-300m-en-to-15",
        "an encoder and a decoder",
        config=having(model_type="speech-encoder-decoder"),
        refused="model_type='speech-encoder-decoder'",
    ),
)
