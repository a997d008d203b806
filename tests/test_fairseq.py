"""fairseq's checkpoints, built here in its layout from small models of transformers."""

import argparse
import enum
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.conftest import ARCHITECTURES, TINY
from tests.reference import hf_config, hf_model
from voc2vec_jax.checkpoints import convert
from voc2vec_jax.checkpoints.formats.fairseq import FairseqCheckpoint, read_fairseq
from voc2vec_jax.checkpoints.hf_config import config_from_hf, config_to_hf
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.errors import CheckpointError
from voc2vec_jax.models import HubertForPreTraining, Wav2Vec2ForPreTraining, Wav2Vec2Model
from voc2vec_jax.models.parameters import describe

State = dict[str, Any]
LAYOUTS = pytest.mark.parametrize("layout", ["base", "large"])
CONV = "[(24, 10, 5)] + [(20, 3, 2)] * 4 + [(20,2,2)] + [(28,2,2)]"

# The other direction, after fairseq's modules rather than after the rules that are tested.
HEADS = {
    "quantizer.codevectors": "quantizer.vars",
    "quantizer.weight_proj": "quantizer.weight_proj",
    "project_q": "project_q",
    "project_hid": "final_proj",
}
MODULES = {
    "masked_spec_embed": "mask_emb",
    "feature_projection.layer_norm": "layer_norm",
    "feature_projection.projection": "post_extract_proj",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original0": "encoder.pos_conv.0.weight_g",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "encoder.pos_conv.0.weight_v",
    "encoder.pos_conv_embed.conv": "encoder.pos_conv.0",
    "encoder.layer_norm": "encoder.layer_norm",
    **HEADS,
}
IN_LAYER = {
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.out_proj": "self_attn.out_proj",
    "layer_norm": "self_attn_layer_norm",
    "feed_forward.intermediate_dense": "fc1",
    "feed_forward.output_dense": "fc2",
    "final_layer_norm": "final_layer_norm",
}


def fairseq_name(name: str, layout: str) -> str:
    name = name.removeprefix("wav2vec2.")
    if name in MODULES:
        return MODULES[name]
    module, _, leaf = name.rpartition(".")
    if module in MODULES:
        return f"{MODULES[module]}.{leaf}"
    stem, number, inner = re.fullmatch(r"(.*?layers)\.(\d+)\.(.+)", module).groups()  # type: ignore[union-attr]
    if stem == "encoder.layers":
        return f"{stem}.{number}.{IN_LAYER[inner]}.{leaf}"
    norm = "2.1" if layout == "large" else "2"
    return f"{stem}.{number}.{ {'conv': '0', 'layer_norm': norm}[inner] }.{leaf}"


def model_fields(layout: str, **changes: Any) -> dict[str, Any]:
    large = layout == "large"
    return {
        "_name": "wav2vec2",
        "extractor_mode": "layer_norm" if large else "default",
        "encoder_layers": 2,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 48,
        "encoder_attention_heads": 4,
        "activation_fn": "gelu",
        "layer_type": "transformer",
        "dropout": 0.0,
        "attention_dropout": 0.05,
        "activation_dropout": 0.25,
        "encoder_layerdrop": 0.125,
        "dropout_input": 0.1,
        "dropout_features": 0.15,
        "final_dim": 10,
        "layer_norm_first": large,
        "conv_feature_layers": CONV,
        "conv_bias": large,
        "logit_temp": 0.2,
        "latent_vars": 8,
        "latent_groups": 2,
        "latent_dim": 12,
        "mask_length": 7,
        "mask_prob": 0.65,
        "mask_channel_length": 64,
        "mask_channel_prob": 0,
        "num_negatives": 7,
        "conv_pos": 16,
        "conv_pos_groups": 4,
        "feature_grad_mult": 0.1,
        **changes,
    }


EXPECTED = {
    "hidden_dropout": 0.0,
    "attention_dropout": 0.05,
    "activation_dropout": 0.25,
    "layerdrop": 0.125,
    "feat_proj_dropout": 0.1,
    "mask_time_prob": 0.65,
    "mask_feature_prob": 0.0,
}
UNSAID = {
    "architectures",
    "apply_spec_augment",
    "classifier_proj_size",
    "mask_feature_length",
    "mask_feature_min_masks",
    "mask_time_length",
    "mask_time_min_masks",
    "use_weighted_layer_sum",
}
"""Fields that a checkpoint of fairseq says nothing of, or that tests change."""
OF_WAV2VEC2 = {"feat_quantizer_dropout": 0.15, "contrastive_logits_temperature": 0.2}


def wav2vec2_state(layout: str, architecture: str = "Wav2Vec2ForPreTraining") -> State:
    reference = hf_model(architecture, ModelConfig(**TINY, **ARCHITECTURES[layout]))
    return {fairseq_name(name, layout): value for name, value in reference.state_dict().items()}


def hubert_reference(layout: str) -> transformers.HubertModel:
    fields = hf_config(ModelConfig(**TINY, **ARCHITECTURES[layout]), "").to_dict()
    fields.pop("model_type")
    torch.manual_seed(0)
    reference = transformers.HubertModel(transformers.HubertConfig(**fields))
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return reference


def hubert_state(layout: str) -> State:
    state = {fairseq_name(n, layout): v for n, v in hubert_reference(layout).state_dict().items()}
    return {
        **state,
        "final_proj.weight": torch.randn(10, 32),
        "final_proj.bias": torch.randn(10),
        "label_embs_concat": torch.rand(9, 10),
    }


def checkpoint(state: State, model: dict[str, Any], **task: Any) -> dict[str, Any]:
    return {
        "args": None,
        "cfg": {"model": model, "task": {"_name": "audio_pretraining", **task}, "common": {}},
        "model": state,
        "optimizer_history": [{"num_updates": 4, "best_loss": np.float64(1.5)}],
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.ones(3)}}},
    }


def save_fairseq(path: Path, layout: str) -> torch.nn.Module:
    """A checkpoint of wav2vec 2.0, and the model whose weights it has."""
    torch.save(checkpoint(wav2vec2_state(layout), model_fields(layout), normalize=False), path)
    return hf_model("Wav2Vec2ForPreTraining", ModelConfig(**TINY, **ARCHITECTURES[layout]))


def read(tmp_path: Path, value: object, **options: Any) -> FairseqCheckpoint:
    torch.save(value, tmp_path / "checkpoint.pt", **options)
    return read_fairseq(tmp_path / "checkpoint.pt")


def assert_same_tensors(ours: convert.Tensors, theirs: State) -> None:
    expected = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in theirs.items()
    }
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(ours[name], value.numpy())


def our_config(layout: str, **changes: Any) -> dict[str, Any]:
    config = ModelConfig(**{**TINY, **ARCHITECTURES[layout], **EXPECTED, **changes})
    fields = config_to_hf(config, "")
    return {name: fields[name] for name in fields if name not in UNSAID}


@LAYOUTS
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_wav2vec2_is_read(tmp_path: Path, layout: str, zipped: bool) -> None:
    saved = checkpoint(wav2vec2_state(layout), model_fields(layout), normalize=layout == "large")
    found = read(tmp_path, saved, _use_new_zipfile_serialization=zipped)
    assert found.architecture == "Wav2Vec2ForPreTraining"
    assert found.normalize is (layout == "large")
    assert found.left_behind == ()
    reference = hf_model("Wav2Vec2ForPreTraining", ModelConfig(**TINY, **ARCHITECTURES[layout]))
    assert_same_tensors(found.tensors, reference.state_dict())
    config = config_from_hf(found.config)
    assert config_to_hf(config, "x").items() >= our_config(layout, **OF_WAV2VEC2).items()
    assert found.config["mask_time_length"] == 7
    assert found.config["mask_feature_length"] == 64
    # Complete for our model, and what transformers validates.
    params, _ = convert.from_hf(found.tensors, describe(Wav2Vec2ForPreTraining, config)[1])
    assert len(params) == len(found.tensors)
    transformers.Wav2Vec2Config(**found.config)


@LAYOUTS
def test_hubert_is_read_with_the_objects_around_it(
    tmp_path: Path, layout: str, fairseq_classes: types.SimpleNamespace
) -> None:
    fields = model_fields(
        layout, _name="hubert", extractor_mode=fairseq_classes.Mode(layout), label_rate=50
    )
    saved = checkpoint(hubert_state(layout), fields, normalize=True)
    saved["task_state"] = {"dictionaries": [fairseq_classes.Dictionary(["a", "b"])]}
    saved["extra_state"] = {"metrics": fairseq_classes.Meter(), "where": Path("x")}
    found = read(tmp_path, saved)
    assert found.architecture == "HubertForPreTraining"
    assert (found.normalize, found.left_behind) == (True, ())
    state = {f"hubert.{n}": v for n, v in hubert_reference(layout).state_dict().items()}
    state |= {n: saved["model"][n] for n in ("final_proj.weight", "final_proj.bias")}
    state["label_embs_concat"] = saved["model"]["label_embs_concat"]
    assert_same_tensors(found.tensors, state)
    theirs = our_config(layout, model_type="wav2vec2")
    quantizer = ("codevector", "negatives", "contrastive", "diversity", "feat_quantizer")
    expected = {k: v for k, v in theirs.items() if not any(word in k for word in quantizer)}
    assert (found.config["final_dim"], found.config["num_clusters"]) == (10, 5)
    assert found.config["num_special_classes"] == 4
    ours = config_from_hf(found.config)
    params, _ = convert.from_hf(found.tensors, describe(HubertForPreTraining, ours)[1])
    assert len(params) == len(found.tensors)
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in found.config.items()}
    assert plain.items() >= {**expected, "model_type": "hubert"}.items()
    core = {n.removeprefix("hubert."): v for n, v in found.tensors.items() if "hubert." in n}
    config = transformers.HubertConfig(**found.config)
    transformers.HubertModel(config).load_state_dict(
        {name: torch.tensor(value) for name, value in core.items()}, strict=True
    )


@pytest.mark.parametrize("lost", ["final_proj.weight", "label_embs_concat"])
def test_a_hubert_without_half_of_its_head_is_an_encoder(tmp_path: Path, lost: str) -> None:
    saved = checkpoint(hubert_state("base"), model_fields("base", _name="hubert"), normalize=False)
    del saved["model"][lost]
    found = read(tmp_path, saved)
    assert found.architecture == "HubertModel"
    head = {"final_proj.weight", "final_proj.bias", "label_embs_concat"}
    assert set(found.left_behind) == head - {lost}


def test_a_hubert_of_several_label_sets_is_an_encoder(tmp_path: Path) -> None:
    """A projection per set, one below the other, which no model here has."""
    saved = checkpoint(hubert_state("base"), model_fields("base", _name="hubert"), normalize=False)
    saved["model"] |= {"final_proj.weight": torch.randn(20, 32), "final_proj.bias": torch.randn(20)}
    found = read(tmp_path, saved)
    assert found.architecture == "HubertModel"
    assert len(found.left_behind) == 3


def test_label_embeddings_of_special_symbols_alone_are_refused(tmp_path: Path) -> None:
    saved = checkpoint(hubert_state("base"), model_fields("base", _name="hubert"), normalize=False)
    saved["model"]["label_embs_concat"] = torch.rand(4, 10)
    with pytest.raises(CheckpointError, match=r"has 4 rows, but the first 4 are those of <s>"):
        read(tmp_path, saved)


@pytest.fixture
def fairseq_classes(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Classes under the names that real checkpoints use, gone before the file is read."""

    class Dictionary:
        def __init__(self, symbols: list[str]):
            self.symbols, self.indices = symbols, {s: i for i, s in enumerate(symbols)}

    class Meter:
        def __setstate__(self, state: object) -> None:
            raise AssertionError("must not run")

        def __getstate__(self) -> dict[str, float]:
            return {"sum": 1.0}

    class Mode(enum.Enum):
        default, layer_norm = "default", "layer_norm"

        @classmethod
        def _missing_(cls, value: object) -> "Mode":
            return cls.layer_norm if value == "large" else cls.default

    class DictConfig:
        def __init__(self, content: dict[str, Any]):
            self._metadata, self._parent = {"ref_type": Any, "object_type": dict}, None
            self._content = content

    class AnyNode:
        def __init__(self, value: object):
            self._metadata, self._val = {"ref_type": Any}, value

    for module, kind in {
        "fairseq.data.dictionary": Dictionary,
        "fairseq.logging.meters": Meter,
        "fairseq.dataclass.constants": Mode,
        "omegaconf.dictconfig": DictConfig,
        "omegaconf.nodes": AnyNode,
    }.items():
        kind.__module__, kind.__qualname__ = module, kind.__name__
        for name in (module.split(".")[0], module.rpartition(".")[0], module):
            monkeypatch.setitem(sys.modules, name, sys.modules.get(name, types.ModuleType(name)))
        setattr(sys.modules[module], kind.__name__, kind)
    return types.SimpleNamespace(
        Dictionary=Dictionary, Meter=Meter, Mode=Mode, DictConfig=DictConfig, AnyNode=AnyNode
    )


def test_all_forms_of_configuration_say_the_same(
    tmp_path: Path, fairseq_classes: types.SimpleNamespace
) -> None:
    state, fields = wav2vec2_state("large"), model_fields("large")
    nested = read(tmp_path, checkpoint(state, fields, normalize=True))

    def node(value: dict[str, Any]) -> Any:
        return fairseq_classes.DictConfig(
            {
                name: node(inner) if isinstance(inner, dict) else fairseq_classes.AnyNode(inner)
                for name, inner in value.items()
            }
        )

    task = {"_name": "audio_pretraining", "normalize": True}
    flat = argparse.Namespace(**{**fields, "_name": None}, arch="wav2vec2", normalize=True)
    forms: dict[str, dict[str, Any]] = {
        "omegaconf": {"cfg": node({"model": fields, "task": task}), "model": state},
        "namespace": {"args": flat, "model": state},
        "nested namespaces": {
            "cfg": argparse.Namespace(
                model=argparse.Namespace(**fields), task=argparse.Namespace(**task)
            ),
            "model": state,
        },
        "s3prl": {"model_cfg": fields, "task_cfg": task, "model_weight": state},
    }
    for form, saved in forms.items():
        found = read(tmp_path, saved)
        assert (found.config, found.normalize) == (nested.config, nested.normalize), form
        assert found.tensors.keys() == nested.tensors.keys()


@pytest.mark.parametrize("form", ["args", "cfg"])
@pytest.mark.parametrize("family", ["wav2vec2", "hubert"])
def test_a_fine_tuned_model_gives_its_encoder(tmp_path: Path, form: str, family: str) -> None:
    bare = wav2vec2_state("base", "Wav2Vec2Model")
    if family == "hubert":
        bare["label_embs_concat"] = torch.rand(9, 10)
    state = {f"w2v_encoder.w2v_model.{name}": value for name, value in bare.items()}
    state |= {"w2v_encoder.proj.weight": torch.ones(5, 32), "w2v_encoder.proj.bias": torch.ones(5)}
    inner = model_fields("base", _name=family)
    outer = {"layerdrop": 0.5, "mask_prob": 0.25, "dropout": 0.0625, "final_dropout": 0.3}
    if form == "args":
        inner_args = argparse.Namespace(**inner, arch=family, normalize=False)
        saved: dict[str, Any] = {
            "args": argparse.Namespace(**outer, w2v_args=inner_args, arch="wav2vec_ctc")
        }
    else:
        nested = {"model": inner, "task": {"normalize": False}}
        model = {**outer, "_name": "wav2vec_ctc", "w2v_args": nested}
        saved = {"cfg": {"model": model, "task": {"_name": "audio_finetuning", "normalize": False}}}
    found = read(tmp_path, {**saved, "model": state})
    assert found.architecture == {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel"}[family]
    assert set(found.left_behind) == {
        "w2v_encoder.proj.weight",
        "w2v_encoder.proj.bias",
        *(["w2v_encoder.w2v_model.label_embs_concat"] if family == "hubert" else []),
    }
    assert len(found.tensors) + len(found.left_behind) == len(state)
    assert found.normalize is False
    changed = {"hidden_dropout": 0.0625, "mask_time_prob": 0.25, "layerdrop": 0.5}
    assert found.config.items() >= {**EXPECTED, **changed}.items()
    reference = hf_model("Wav2Vec2Model", ModelConfig(**TINY, **ARCHITECTURES["base"]))
    assert_same_tensors(found.tensors, reference.state_dict())


def test_odd_tensors_are_named(tmp_path: Path) -> None:
    odd = {
        "encoder.version": torch.tensor([3.0]),
        "_ema": {"encoder.layer_norm.weight": torch.ones(32)},
        "ema.encoder.layer_norm.weight": torch.ones(32),
        "criterion.weight": torch.ones(2),
    }
    found = read(
        tmp_path,
        checkpoint({**wav2vec2_state("base"), **odd}, model_fields("base"), normalize=False),
    )
    assert found.left_behind == tuple(odd)


def test_without_masks_the_mask_embedding_stays_behind(tmp_path: Path) -> None:
    """As transformers has none then, so that the rest can be loaded."""
    fields = model_fields("base", mask_prob=0.0)
    found = read(tmp_path, checkpoint(wav2vec2_state("base"), fields, normalize=False))
    assert found.left_behind == ("mask_emb",)
    config = config_from_hf(found.config)
    convert.from_hf(found.tensors, describe(Wav2Vec2ForPreTraining, config)[1])


def test_half_precision_stays(tmp_path: Path) -> None:
    """fairseq keeps the weights of --fp16 so."""
    state = {name: value.half() for name, value in wav2vec2_state("base").items()}
    found = read(tmp_path, checkpoint(state, model_fields("base"), normalize=False))
    assert {value.dtype for value in found.tensors.values()} == {np.dtype(np.float16)}


CONTRADICTIONS: dict[str, tuple[object, str]] = {
    "encoder_layers": (3, "encoder_layers is 3, but the tensors have 2"),
    "encoder_embed_dim": (64, "is 64, but the tensors have 32"),
    "encoder_ffn_embed_dim": (47, "is 47, but the tensors have 48"),
    "conv_bias": (True, "is True, but the tensors have False"),
    "extractor_mode": ("layer_norm", "is 'layer_norm', but the tensors have 'default'"),
    "conv_pos": (128, "is 128, but the tensors have 16"),
    "conv_pos_groups": (16, "is 16, but the tensors have 4"),
    "latent_vars": (320, "is 320, but the tensors have 8"),
    "latent_groups": (3, "latent_groups is 3, which does not divide 16 codebook"),
    "latent_dim": (256, "is 256, but the tensors have 12"),
    "final_dim": (256, "is 256, but the tensors have 10"),
    "conv_feature_layers": ("[(24, 10, 5)] + [(20, 3, 2)] * 6", "but the tensors have"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_configuration_that_contradicts_its_tensors_is_refused(tmp_path: Path, name: str) -> None:
    value, message = CONTRADICTIONS[name]
    fields = model_fields("base", **{name: value})
    with pytest.raises(CheckpointError, match=rf"checkpoint\.pt: [^$]*{re.escape(message)}"):
        read(tmp_path, checkpoint(wav2vec2_state("base"), fields, normalize=False))


def test_sizes_that_fairseq_derives_are_no_contradiction(tmp_path: Path) -> None:
    fields = model_fields("base", latent_dim=0, final_dim=0)
    found = read(tmp_path, checkpoint(wav2vec2_state("base"), fields, normalize=False))
    assert (found.config["codevector_dim"], found.config["proj_codevector_dim"]) == (12, 10)


UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "no heads": ({"encoder_attention_heads": None}, "encoder_attention_heads is None"),
    "text for a switch": ({"layer_norm_first": "yes"}, "layer_norm_first is 'yes'"),
    "conformer": ({"layer_type": "conformer"}, "layer_type is 'conformer'"),
    "code for layers": ({"conv_feature_layers": "__import__('os')"}, "must be a list of"),
    "endless layers": ({"conv_feature_layers": "[(1,1,1)] * 9**9"}, "must be a list of"),
    "many layers": ({"conv_feature_layers": "[(1,1,1)] * 999999999"}, "must be a list of"),
    "deep layers": ({"conv_feature_layers": "(" * 1000}, "must be a list of"),
    "no layers": ({"conv_feature_layers": "[]"}, "must be a list of"),
    "zero stride": ({"conv_feature_layers": "[(24, 10, 0)]"}, "must be a list of"),
    "text for a number": ({"dropout": "0.1"}, "dropout is '0.1'; must be a number"),
    "no number": ({"dropout": float("nan")}, "dropout is nan"),
    "switch for a number": ({"mask_length": True}, "mask_length is True; must be a whole"),
    "huge number": ({"mask_length": 10**5000}, "mask_length is a int"),
    "two families": ({"_name": "hubert"}, "is of hubert and of wav2vec2"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_configuration_is_refused(tmp_path: Path, kind: str) -> None:
    changes, message = UNUSABLE[kind]
    saved = checkpoint(wav2vec2_state("base"), model_fields("base", **changes), normalize=False)
    with pytest.raises(CheckpointError, match=rf"checkpoint\.pt: .*{re.escape(message)}"):
        read(tmp_path, saved)


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda saved: saved["model"].pop(name)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no model": (lambda s: s.pop("model"), "holds no tensors under 'model'"),
    "no configuration": (lambda s: s.pop("cfg"), "encoder_attention_heads is missing"),
    "no task": (lambda s: s["cfg"].pop("task"), "normalize of the task is None"),
    "no stride": (lambda s: s["cfg"]["model"].pop("conv_feature_layers"), "is missing"),
    "no projection": (without("post_extract_proj.weight"), "feature_projection.projection.weight"),
    "no convolution": (without("feature_extractor.conv_layers.3.0.weight"), "tensors are lost"),
    "no codebook": (without("quantizer.vars"), "quantizer.codevectors"),
    "list for a tensor": (
        lambda s: s["model"].update({"mask_emb": [1.0]}),
        "mask_emb is a list, not a tensor",
    ),
    "both spellings": (
        lambda s: s["model"].update({"feature_extractor.conv_layers.0.2.1.weight": torch.ones(24)}),
        "another tensor",
    ),
    "other architecture": (
        lambda s: s["model"].update({"encoder.layers.0.conv_module.weight": torch.ones(1)}),
        "1 tensors are of no wav2vec2 that transformers has (encoder.layers.0.conv_module.weight)",
    ),
    "other head": (
        lambda s: s["model"].update({"target_glu.0.weight": torch.ones(1)}),
        "(target_glu.0.weight)",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_checkpoint_that_does_not_hang_together_is_refused(tmp_path: Path, kind: str) -> None:
    saved = checkpoint(wav2vec2_state("base"), model_fields("base"), normalize=False)
    change, message = BROKEN[kind]
    change(saved)
    with pytest.raises(CheckpointError, match=rf"checkpoint\.pt: .*{re.escape(message)}"):
        read(tmp_path, saved)


def test_nothing_tells_the_family(tmp_path: Path) -> None:
    state = wav2vec2_state("base", "Wav2Vec2Model")
    saved = checkpoint(state, model_fields("base", _name="data2vec_audio"), normalize=False)
    saved["cfg"]["task"]["_name"] = "audio_finetuning"
    with pytest.raises(CheckpointError, match="is of unknown architecture"):
        read(tmp_path, saved)
    saved["cfg"]["model"]["_name"] = "wav2vec2"
    found = read(tmp_path, saved)
    config = config_from_hf(found.config)
    params, _ = convert.from_hf(found.tensors, describe(Wav2Vec2Model, config)[1])
    assert len(params) == len(state)


@pytest.mark.parametrize("kind", ["list", "ndarray"])
def test_fields_that_hold_anything_else_are_refused(tmp_path: Path, kind: str) -> None:
    """Lists of the same list twice have 2^100 items for whoever walks or prints them."""
    value: Any = []
    for _ in range(100):
        value = [value, value]
    if kind == "ndarray":
        value = torch.ones(2)
    state = wav2vec2_state("base")
    saved = checkpoint(state, model_fields("base", _name=value), normalize=False)
    assert read(tmp_path, saved).architecture == "Wav2Vec2ForPreTraining"
    names = [name for name in model_fields("base") if name not in ("_name", "feature_grad_mult")]
    for name in names:
        saved = checkpoint(state, model_fields("base", **{name: value}), normalize=False)
        with pytest.raises(CheckpointError, match=f"{name} is a {kind}"):
            read(tmp_path, saved)
    saved = checkpoint(state, model_fields("base"), normalize=value)
    with pytest.raises(CheckpointError, match=f"normalize of the task is a {kind}"):
        read(tmp_path, saved)
