"""Tensors and configurations between Hugging Face and here: nothing lost, nothing invented."""

import dataclasses
import functools
import json
import re
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import hf_config, old_spelling
from voc2vec_jax.checkpoints import convert
from voc2vec_jax.checkpoints.convert import Tensors
from voc2vec_jax.checkpoints.hf_config import config_from_hf, config_to_hf
from voc2vec_jax.config import ModelConfig
from voc2vec_jax.errors import ConfigError, ConversionError
from voc2vec_jax.models import (
    HubertForPreTraining,
    HubertForSequenceClassification,
    HubertModel,
    Wav2Vec2ForPreTraining,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
)
from voc2vec_jax.models.architectures import ARCHITECTURES, Architecture
from voc2vec_jax.models.parameters import AbstractParams, describe

EVERY = [
    kind
    for family in ARCHITECTURES.values()
    for kind in family.values()
    if kind is not HubertForPreTraining  # transformers has none: `test_pretraining_head.py`
]
EVERY_CLASS = pytest.mark.parametrize("architecture", EVERY)
NEW_SPELLING = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
SMALL = ModelConfig(
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    conv_dim=(6, 4),
    conv_kernel=(3, 2),
    conv_stride=(2, 1),
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
    num_codevectors_per_group=3,
    codevector_dim=4,
    proj_codevector_dim=5,
)


def theirs(architecture: Architecture, config: ModelConfig) -> transformers.PreTrainedModel:
    model_class = getattr(transformers, architecture.__name__)
    return model_class(hf_config(of_family(architecture, config), architecture.__name__))


def of_family(architecture: Architecture, config: ModelConfig) -> ModelConfig:
    """The same sizes as a configuration of the class's own family."""
    return dataclasses.replace(config, model_type=architecture.model_type)


def random_tensors(architecture: Architecture, config: ModelConfig) -> Tensors:
    """Of every name and shape in transformers' model, under the names it uses today."""
    with torch.device("meta"):
        shapes = theirs(architecture, config).state_dict()
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=tuple(value.shape)).astype(np.float32)
        for name, value in shapes.items()
    }


def expected_params(architecture: Architecture, config: ModelConfig) -> AbstractParams:
    return describe(architecture, of_family(architecture, config))[1]


def assert_identical(actual: Tensors, expected: Tensors) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        assert actual[name].shape == value.shape, name
        assert actual[name].tobytes() == value.tobytes(), name


@EVERY_CLASS
@pytest.mark.parametrize("spelling", ["old", "new"])
def test_round_trip_is_exact(
    architecture: Architecture, spelling: str, tiny_config: ModelConfig
) -> None:
    tensors = random_tensors(architecture, tiny_config)
    expected = {old_spelling(name): value for name, value in tensors.items()}
    assert len(expected) == len(tensors)
    source = tensors if spelling == "new" else expected
    params, ledger = convert.from_hf(source, expected_params(architecture, tiny_config))
    assert set(ledger.kept) == set(params)
    assert (ledger.new, ledger.dropped) == ((), ())
    assert_identical(convert.to_hf(params), expected)


@EVERY_CLASS
def test_initial_weights_round_trip_from_our_side(
    architecture: Architecture, tiny_config: ModelConfig
) -> None:
    rng = np.random.default_rng(1)
    shapes = expected_params(architecture, tiny_config)
    params = {path: rng.normal(size=s.shape).astype(np.float32) for path, s in shapes.items()}
    back, _ = convert.from_hf(convert.to_hf(params), shapes)
    assert_identical(back, params)


def test_kernels_are_reversed_and_norms_are_not(tiny_config: ModelConfig) -> None:
    """Against the layouts themselves, which a wrong but invertible rule would survive."""
    tensors = random_tensors(Wav2Vec2Model, tiny_config)
    params, _ = convert.from_hf(tensors, expected_params(Wav2Vec2Model, tiny_config))
    conv = tensors["feature_extractor.conv_layers.1.conv.weight"]  # [out, in, taps]
    ours = params["feature_extractor.conv_layers.1.conv.kernel"]  # [taps, in, out]
    assert ours[2, 3, 5] == conv[5, 3, 2]
    linear = tensors["encoder.layers.0.feed_forward.output_dense.weight"]  # [out, in]
    assert params["encoder.layers.0.feed_forward.output_dense.kernel"][7, 4] == linear[4, 7]
    norm = tensors["encoder.layer_norm.weight"]
    np.testing.assert_array_equal(params["encoder.layer_norm.scale"], norm)


def test_what_is_written_is_float32_and_contiguous() -> None:
    half = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    written = convert.to_hf({"a.kernel": half, "a.bias": np.arange(8.0)[::2]})
    assert {name: value.dtype.name for name, value in written.items()} == {
        "a.weight": "float32",
        "a.bias": "float32",
    }
    assert all(value.flags.c_contiguous for value in written.values())


LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
    "codevector_dim": 768,
    "proj_codevector_dim": 768,
}


SIX = {"labels": ("a", "b", "c", "d", "e", "f")}


@pytest.mark.parametrize(
    ("architecture", "sizes", "tensors", "parameters"),
    [
        # Counts: sum(p.numel() for p in transformers.Wav2Vec2Model(config).parameters())
        pytest.param(Wav2Vec2Model, {}, 211, 94_371_712, marks=pytest.mark.thorough),
        (Wav2Vec2ForPreTraining, {}, 218, 95_044_608),
        (Wav2Vec2Model, LARGE, 422, 315_438_720),
        pytest.param(Wav2Vec2ForPreTraining, LARGE, 429, 317_390_592, marks=pytest.mark.thorough),
        (Wav2Vec2Model, {"mask_time_prob": 0.0}, 210, 94_370_944),
        pytest.param(HubertModel, {}, 211, 94_371_712, marks=pytest.mark.thorough),
        pytest.param(HubertModel, LARGE, 422, 315_438_720, marks=pytest.mark.thorough),
        (Wav2Vec2ForSequenceClassification, SIX, 215, 94_570_118),
        pytest.param(
            HubertForSequenceClassification,
            {**SIX, "use_weighted_layer_sum": True},
            216,
            94_570_131,
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            HubertForSequenceClassification,
            {**LARGE, **SIX},
            426,
            315_702_662,
            marks=pytest.mark.thorough,
        ),
        (HubertModel, {"feat_proj_layer_norm": False}, 209, 94_370_688),
    ],
)
def test_full_size_names_and_shapes_are_those_of_transformers(
    architecture: Architecture, sizes: dict[str, Any], tensors: int, parameters: int
) -> None:
    config = ModelConfig(model_type=architecture.model_type, **sizes)
    with torch.device("meta"):
        reference = theirs(architecture, config).state_dict()
    shapes = {old_spelling(name): list(value.shape) for name, value in reference.items()}
    ours = {
        convert.hf_name(path): convert._hf_shape(path, shape.shape)
        for path, shape in expected_params(architecture, config).items()
    }
    assert ours == shapes
    assert len(ours) == tensors
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64], ids=str)
def test_other_float_types_load_as_float32(dtype: Any) -> None:
    tensors = {k: v.astype(dtype) for k, v in random_tensors(Wav2Vec2Model, SMALL).items()}
    params, _ = convert.from_hf(tensors, expected_params(Wav2Vec2Model, SMALL))
    expected = {old_spelling(k): v.astype(np.float32) for k, v in tensors.items()}
    assert_identical(convert.to_hf(params), expected)


def test_a_value_that_float32_cannot_hold_is_an_offender() -> None:
    tensors = random_tensors(Wav2Vec2Model, SMALL)
    name = "encoder.layer_norm.bias"
    tensors[name] = tensors[name].astype(np.float64)
    tensors[name][2] = 1e300
    with pytest.raises(ConversionError, match=rf"^1 tensors .*\n  not finite  {name}  "):
        convert.from_hf(tensors, expected_params(Wav2Vec2Model, SMALL))


HEAD_TENSORS = {
    "quantizer.codevectors",
    "quantizer.weight_proj.weight",
    "quantizer.weight_proj.bias",
    "project_hid.weight",
    "project_hid.bias",
    "project_q.weight",
    "project_q.bias",
}


def test_an_encoder_fills_a_model_with_new_heads(tiny_config: ModelConfig) -> None:
    encoder = random_tensors(Wav2Vec2Model, tiny_config)
    shapes = expected_params(Wav2Vec2ForPreTraining, tiny_config)
    params, ledger = convert.from_hf(encoder, shapes, new_heads=True)
    assert {convert.hf_name(path) for path in ledger.new} == HEAD_TENSORS
    assert set(params) == set(shapes) - set(ledger.new) == set(ledger.kept)
    assert_identical(
        convert.to_hf(params), {f"wav2vec2.{old_spelling(k)}": v for k, v in encoder.items()}
    )
    with pytest.raises(ConversionError, match=r"^7 tensors") as caught:
        convert.from_hf(encoder, shapes)
    assert all(f"missing     {name}  " in str(caught.value) for name in HEAD_TENSORS)


def test_an_encoder_takes_its_part_of_a_model_with_heads(tiny_config: ModelConfig) -> None:
    whole = random_tensors(Wav2Vec2ForPreTraining, tiny_config)
    shapes = expected_params(Wav2Vec2Model, tiny_config)
    params, ledger = convert.from_hf(whole, shapes)
    assert set(ledger.dropped) == HEAD_TENSORS
    assert_identical(
        convert.to_hf(params),
        {
            old_spelling(name.removeprefix("wav2vec2.")): value
            for name, value in whole.items()
            if name not in HEAD_TENSORS
        },
    )


def test_another_head_is_replaced_when_asked() -> None:
    """A classifier's checkpoint starts a pre-training run: its head goes, ours is new."""
    tensors = {f"wav2vec2.{k}": v for k, v in random_tensors(Wav2Vec2Model, SMALL).items()}
    tensors["classifier.weight"] = np.ones((6, 256), np.float32)
    shapes = expected_params(Wav2Vec2ForPreTraining, SMALL)
    _, ledger = convert.from_hf(tensors, shapes, new_heads=True)
    assert ledger.dropped == ("classifier.weight",)
    assert {convert.hf_name(path) for path in ledger.new} == HEAD_TENSORS


@pytest.mark.parametrize("name", ["encoder.layer_norm.bias", "feature_projection.extra.weight"])
def test_the_encoder_must_match_whatever_is_allowed_of_heads(name: str) -> None:
    tensors = random_tensors(Wav2Vec2Model, SMALL)
    kind = "missing     " if tensors.pop(name, None) is not None else "unexpected  "
    if kind == "unexpected  ":
        tensors[name] = np.ones(2, np.float32)
    for architecture in (Wav2Vec2Model, Wav2Vec2ForPreTraining):
        with pytest.raises(ConversionError) as caught:
            convert.from_hf(tensors, expected_params(architecture, SMALL), new_heads=True)
        lines = str(caught.value).split("\n")
        assert lines[0] == "1 tensors do not fit the model:"
        assert lines[1].startswith(f"  {kind}")
        assert name in lines[1]


def test_the_ledger_prints_counts_and_names() -> None:
    ledger = convert.Ledger(kept=("a", "b"), new=("c",), dropped=("d", "e"))
    assert str(ledger).split("\n") == [
        "weights: 2 kept, 1 new, 2 dropped",
        "  new      c",
        "  dropped  d",
        "  dropped  e",
    ]


@functools.cache
def whole(architecture: Architecture) -> tuple[Tensors, AbstractParams]:
    """Tensors that fit; made when a test wants them, since it takes transformers' models."""
    tensors = {old_spelling(k): v for k, v in random_tensors(architecture, SMALL).items()}
    return tensors, expected_params(architecture, SMALL)


OFFENCES = ("missing", "mis-shaped", "not float", "not finite", "twice")


def commit(offence: str, name: str, tensors: Tensors) -> str:
    """Spoils one tensor; returns the names that the error must give."""
    value = tensors[name]
    if offence == "twice":
        module, _, leaf = name.rpartition(".")
        other = f"{module}.{NEW_SPELLING[leaf]}"
        tensors[other] = value
        return f"{name} and {other}"
    if offence == "missing":
        del tensors[name]
    elif offence == "mis-shaped":
        tensors[name] = value[None]
    elif offence == "not float":
        tensors[name] = value.astype(np.int64)
    else:
        tensors[name] = value.copy()
        tensors[name].flat[-1] = np.nan if value.size % 2 else -np.inf
    return name


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_one_error_lists_exactly_the_offenders(data: st.DataObject) -> None:
    given_tensors, shapes = whole(data.draw(st.sampled_from(EVERY), "architecture"))
    tensors = dict(given_tensors)
    spoilt = data.draw(
        st.dictionaries(st.sampled_from(sorted(tensors)), st.sampled_from(OFFENCES), max_size=8),
        "spoilt",
    )
    expected = set()
    for name, offence in spoilt.items():
        if offence == "twice" and name.rpartition(".")[2] not in NEW_SPELLING:
            offence = "missing"
        names = commit(offence, name, tensors)
        if not (offence == "missing" and convert.is_mask_embedding(name)):  # which is optional
            expected.add((offence, names))
    # What begins so is the encoder's, and no head that may stay behind.
    prefix = f"{convert.encoder_prefix(tensors)}encoder."
    extra = data.draw(
        st.sets(
            st.from_regex(rf"{re.escape(prefix)}extra\.[a-z]{{1,5}}", fullmatch=True), max_size=3
        ),
        "extra",
    )
    for name in extra:
        tensors[name] = np.zeros(1, np.float32)
        expected.add(("unexpected", name))
    shuffled = dict(data.draw(st.permutations(list(tensors.items())), "order"))

    if not expected:
        params, ledger = convert.from_hf(shuffled, shapes)
        assert_identical(convert.to_hf(params), {name: given_tensors[name] for name in shuffled})
        assert len(ledger.new) == len(given_tensors) - len(shuffled)
        return
    with pytest.raises(ConversionError) as caught:
        convert.from_hf(shuffled, shapes)
    header, *lines = str(caught.value).split("\n")
    assert header == f"{len(expected)} tensors do not fit the model:"
    assert len(lines) == len(expected)
    listed = set()
    for line in lines:
        offence, name = line[2:14].strip(), line[14:].split("  ")[0]
        listed.add((offence, name.removesuffix(" hold the same parameter")))
    assert listed == expected


def test_a_mis_shaped_tensor_is_reported_in_its_own_layout() -> None:
    tensors = random_tensors(Wav2Vec2Model, SMALL)
    name = "encoder.layers.1.feed_forward.output_dense.weight"
    tensors[name] = tensors[name].T
    with pytest.raises(ConversionError, match=r"output_dense\.weight  \[12, 8\], expected \[8, 12"):
        convert.from_hf(tensors, expected_params(Wav2Vec2Model, SMALL))


@settings(max_examples=40, deadline=None, derandomize=True)
@pytest.mark.parametrize("leaf", convert.TABLE)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple))
def test_every_row_of_the_table_inverts_itself(leaf: str, shape: tuple[int, ...]) -> None:
    value = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = {f"module.{leaf}": jax.ShapeDtypeStruct(shape, np.float32)}
    written = convert.to_hf({f"module.{leaf}": value})
    back, _ = convert.from_hf(written, expected)
    assert_identical(back, {f"module.{leaf}": value})
    if other := convert.hf_name(f"module.{leaf}", also_read=True):
        back, _ = convert.from_hf({other: next(iter(written.values()))}, expected)
        assert_identical(back, {f"module.{leaf}": value})


def through_json(fields: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(fields))
    return plain


def test_configurations_round_trip(tiny_config: ModelConfig) -> None:
    fields = through_json(config_to_hf(tiny_config, "Wav2Vec2Model"))
    assert fields["architectures"] == ["Wav2Vec2Model"]
    assert config_from_hf(fields) == tiny_config


def test_every_key_of_transformers_is_handed_on(tiny_config: ModelConfig) -> None:
    theirs = transformers.Wav2Vec2Config(
        **{**config_to_hf(tiny_config, "Wav2Vec2Model"), "apply_spec_augment": False},
        vocab_size=77,
        initializer_range=0.5,
        id2label={0: "laugh", 1: "cry", 2: "sigh"},
        label2id={"laugh": 0, "cry": 1, "sigh": 2},
    ).to_dict()
    theirs = through_json(theirs)
    ours = through_json(config_to_hf(config_from_hf(theirs), "Wav2Vec2Model"))
    kept = {k: v for k, v in theirs.items() if k not in ("dtype", "transformers_version")}
    assert ours == {**kept, "architectures": ["Wav2Vec2Model"]}


def test_transformers_reads_our_configuration(tiny_config: ModelConfig) -> None:
    fields = through_json(config_to_hf(tiny_config, "Wav2Vec2Model"))
    theirs = transformers.Wav2Vec2Config(**fields)
    for name in fields:
        value = getattr(theirs, name)
        assert (list(value) if isinstance(value, tuple) else value) == fields[name], name


@pytest.mark.parametrize("fields", [{"add_adapter": True}, {"adapter_attn_dim": 16}])
def test_adapters_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="adapters are not supported"):
        config_from_hf(fields)


def test_the_defaults_of_adapters_are_not_adapters() -> None:
    fields = {"add_adapter": False, "adapter_attn_dim": None}
    assert json.loads(config_from_hf(fields).other_fields) == fields


DEAD_KEYS = {
    "feat_extract_dropout": 0.0,
    "freeze_feat_extract_train": True,
    "gradient_checkpointing": True,
    "hidden_dropout_prob": 0.1,
    "mask_channel_length": 10,
    "mask_channel_min_space": 1,
    "mask_channel_other": 0.0,
    "mask_channel_prob": 0.0,
    "mask_channel_selection": "static",
    "mask_time_min_space": 1,
    "mask_time_other": 0.0,
    "mask_time_selection": "static",
    "no_mask_channel_overlap": False,
    "no_mask_time_overlap": False,
    "num_feat_extract_layers": 7,
}
OF_2021 = {
    **DEAD_KEYS,
    "activation_dropout": 0.0,
    "apply_spec_augment": True,
    "architectures": ["Wav2Vec2ForPreTraining"],
    "attention_dropout": 0.1,
    "bos_token_id": 1,
    "conv_bias": False,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "do_stable_layer_norm": False,
    "feat_extract_norm": "group",
    "feat_proj_dropout": 0.1,
    "final_dropout": 0.0,
    "hidden_act": "gelu",
    "layerdrop": 0.0,
    "layer_norm_eps": 1e-05,
    "mask_time_prob": 0.05,
    "model_type": "wav2vec2",
    "torch_dtype": "float32",
    "transformers_version": "4.7.0.dev0",
    "vocab_size": 32,
}


def test_a_configuration_of_2021_loads_and_keeps_its_dead_keys() -> None:
    config = config_from_hf(OF_2021)
    assert config == ModelConfig(
        activation_dropout=0.0,
        feat_proj_dropout=0.1,
        layerdrop=0.0,
        other_fields=config.other_fields,
    )
    written = config_to_hf(config, "Wav2Vec2ForPreTraining")
    assert {name: written[name] for name in DEAD_KEYS} == DEAD_KEYS
    assert "torch_dtype" not in written
    assert "transformers_version" not in written
    transformers.Wav2Vec2Config(**written)
