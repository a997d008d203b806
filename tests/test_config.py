"""Schema and validation of configurations."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from voc2vec_jax.audio.frame_grid import frames_from_samples
from voc2vec_jax.checkpoints.hf_config import ONE_FAMILY, config_from_hf
from voc2vec_jax.cli.config_files import load_config
from voc2vec_jax.cli.train import parse
from voc2vec_jax.config import (
    ClassifyConfig,
    Config,
    DataConfig,
    MaskConfig,
    MeshConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)
from voc2vec_jax.errors import ConfigError

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))
NOT_THEIRS = {
    *("other_fields", "labels", "final_norm_in_hidden_states", "classifier_activation"),
    *("final_dim", "num_clusters", "num_special_classes"),
}
"""Fields of `ModelConfig` that transformers does not have, or not by that name."""


def names(config_class: type, *types: str) -> list[str]:
    """Fields whose annotation reads like one of `types`."""
    return [
        field.name
        for field in dataclasses.fields(config_class)
        if getattr(field.type, "__name__", str(field.type)) in types
    ]


def test_defaults_are_those_of_transformers() -> None:
    ours = {field.name for field in dataclasses.fields(ModelConfig)} - NOT_THEIRS
    for family, theirs in (
        ("wav2vec2", transformers.Wav2Vec2Config()),
        ("hubert", transformers.HubertConfig()),
    ):
        others = {name for kind, names in ONE_FAMILY.items() if kind != family for name in names}
        for name in ours - others:
            expected = family if name == "model_type" else getattr(theirs, name)
            assert getattr(ModelConfig(model_type=family), name) == expected, name  # type: ignore[arg-type]
        assert list(theirs.id2label.values()) == list(ModelConfig().labels)


def test_an_empty_config_json_means_the_defaults() -> None:
    assert config_from_hf({}) == ModelConfig()


REFUSED: list[tuple[Callable[..., object], dict[str, Any], str, str]] = [
    # constructor, values, what the message starts with, what it says of the fix
    (ModelConfig, {"num_hidden_layers": 10**9}, "model.num_hidden_layers=1000000000", "1 to 1024"),
    (ModelConfig, {"hidden_size": 2**40}, "model.hidden_size=1099511627776", "1 to 16384"),
    (ModelConfig, {"num_hidden_layers": 0}, "model.num_hidden_layers=0", "from 1"),
    (ModelConfig, {"intermediate_size": -1}, "model.intermediate_size=-1", "from 1"),
    (ModelConfig, {"num_negatives": 0}, "model.num_negatives=0", "from 1"),
    (ModelConfig, {"num_attention_heads": 7}, "model.hidden_size=768", "num_attention_heads=7"),
    (
        ModelConfig,
        {"num_conv_pos_embedding_groups": 7},
        "model.hidden_size=768",
        "model.num_conv_pos_embedding_groups=7",
    ),
    (ModelConfig, {"num_codevector_groups": 3}, "model.codevector_dim=256", "vector_groups=3"),
    (ModelConfig, {"conv_dim": (512,) * 6}, "model.conv_dim=(512, ", "same length"),
    (ModelConfig, {"conv_kernel": (2,) * 8}, "model.conv_dim=(512, ", "same length"),
    (ModelConfig, {"conv_stride": ()}, "model.conv_dim=(512, ", "same length"),
    (
        ModelConfig,
        {"conv_dim": (1,) * 999, "conv_kernel": (1,) * 999, "conv_stride": (1,) * 999},
        "model.conv_dim=(1, ",
        "from 1 to 64",
    ),
    (ModelConfig, {"conv_dim": (512,) * 6 + (0,)}, "model.conv_dim=(512, ", "1 to 16384"),
    (ModelConfig, {"conv_stride": (5, 2, 2, 2, 2, 2, -2)}, "model.conv_stride=(5, ", "from 1"),
    (ModelConfig, {"conv_kernel": (10**9,) + (2,) * 6}, "model.conv_kernel=(10000", "16384"),
    (ModelConfig, {"conv_kernel": None}, "model.conv_kernel=None", "tuple"),
    (ModelConfig, {"hidden_act": "relu"}, "model.hidden_act='relu'", "gelu"),
    (ModelConfig, {"feat_extract_activation": "relu"}, "model.feat_extract_activation='", "gelu"),
    (ModelConfig, {"feat_extract_norm": "batch"}, "model.feat_extract_norm='b", "group, layer"),
    (ModelConfig, {"model_type": "wavlm"}, "model.model_type='wavlm'", "wav2vec2, hubert"),
    (ModelConfig, {"feat_proj_layer_norm": False}, "model.feat_proj_layer_norm=False", "HuBERT"),
    (ModelConfig, {"num_clusters": 0}, "model.num_clusters=0", "from 1"),
    (ModelConfig, {"final_dim": 0}, "model.final_dim=0", "from 1"),
    (ModelConfig, {"num_special_classes": -1}, "model.num_special_classes=-1", "from 0 to 64"),
    (ModelConfig, {"labels": ()}, "model.labels=()", "different names"),
    (ModelConfig, {"labels": ("cry", "cry")}, "model.labels=('cry', 'cry')", "different names"),
    (ModelConfig, {"mask_time_min_masks": -1}, "model.mask_time_min_masks=-1", "negative"),
    (ModelConfig, {"conv_bias": "no"}, "model.conv_bias='no'", "True or False"),
    (ModelConfig, {"hidden_dropout": 1.0}, "model.hidden_dropout=1.0", "[0, 1)"),
    (ModelConfig, {"layerdrop": -0.1}, "model.layerdrop=-0.1", "[0, 1)"),
    (ModelConfig, {"layer_norm_eps": 0.0}, "model.layer_norm_eps=0.0", "positive"),
    (ModelConfig, {"diversity_loss_weight": -0.1}, "model.diversity_loss_weight=-0.1", "negative"),
    (
        ModelConfig,
        {"contrastive_logits_temperature": 0.0},
        "model.contrastive_logits_temperature=0.0",
        "positive",
    ),
    (DataConfig, {"normalize": "batch"}, "data.normalize='batch'", "none, clip, padded"),
    (DataConfig, {"min_seconds": 0.02}, "data.min_seconds=0.02", "at least 0.025"),
    (DataConfig, {"max_seconds": 0.02}, "data.max_seconds=0.02", "data.min_seconds=0.025"),
    (DataConfig, {"max_seconds": 16.0}, "data.bucket_seconds=(1.0, ", "data.max_seconds=16.0"),
    (DataConfig, {"bucket_seconds": ()}, "data.bucket_seconds=()", "increasing"),
    (DataConfig, {"bucket_seconds": (0.01, 20.0)}, "data.bucket_seconds=(0.01, ", "0.025"),
    (DataConfig, {"bucket_seconds": (20.0, 20.0)}, "data.bucket_seconds=(20.0, ", "increasing"),
    (DataConfig, {"bucket_seconds": ("1", "20")}, "data.bucket_seconds=('1', ", "number"),
    (DataConfig, {"batch_multiple": 0}, "data.batch_multiple=0", "at least 1"),
    (DataConfig, {"batch_seconds": 124.0}, "data.batch_seconds=124.0", "8 × 15.625 s"),
    (DataConfig, {"folder": "a", "table": "b"}, "data.folder='a'", "data.table='b'"),
    (MaskConfig, {"prob": 0.0}, "mask.prob=0.0", "(0, 1]"),
    (MaskConfig, {"prob": 1.1}, "mask.prob=1.1", "(0, 1]"),
    (MaskConfig, {"length": 0}, "mask.length=0", "at least 1"),
    (MaskConfig, {"min_spans": -1}, "mask.min_spans=-1", "negative"),
    (MaskConfig, {"sampler": "torch"}, "mask.sampler='torch'", "fairseq, hf"),
    (MaskConfig, {"equalize": 1}, "mask.equalize=1", "True or False"),
    (ObjectiveConfig, {"codebook": "new"}, "objective.codebook='new'", "keep, reset"),
    (ObjectiveConfig, {"feature_grad_mult": -1.0}, "objective.feature_grad_mult=-1.0", "0 freezes"),
    (
        ObjectiveConfig,
        {"feature_penalty_weight": -1.0},
        "objective.feature_penalty_weight=-1.0",
        "negative",
    ),
    (
        ObjectiveConfig,
        {"gumbel_temperature_stop": 3.0},
        "objective.gumbel_temperature_stop=3.0",
        "at most gumbel_temperature_start",
    ),
    (
        ObjectiveConfig,
        {"gumbel_temperature_decay": 1.5},
        "objective.gumbel_temperature_decay=1.5",
        "(0, 1]",
    ),
    (OptimConfig, {"learning_rate": 0.0}, "optim.learning_rate=0.0", "positive"),
    (OptimConfig, {"warmup_steps": -1}, "optim.warmup_steps=-1", "negative"),
    (OptimConfig, {"beta1": 1.0}, "optim.beta1=1.0", "[0, 1)"),
    (OptimConfig, {"beta2": -0.5}, "optim.beta2=-0.5", "[0, 1)"),
    (OptimConfig, {"epsilon": 0.0}, "optim.epsilon=0.0", "positive"),
    (OptimConfig, {"weight_decay": -0.1}, "optim.weight_decay=-0.1", "negative"),
    (OptimConfig, {"clip_norm": 0.0}, "optim.clip_norm=0.0", "None for no clipping"),
    (OptimConfig, {"epsilon_placement": "adam"}, "optim.epsilon_placement='a", "fairseq, torch"),
    (OptimConfig, {"frozen": ("a(",)}, "optim.frozen=('a(',)", "'a(' is not a regular expression"),
    (OptimConfig, {"frozen": "head"}, "optim.frozen='head'", "a tuple, each item text"),
    (
        OptimConfig,
        {"weight_decay_by_path": (("a",),)},
        "optim.weight_decay_by_path=",
        "text, a fin",
    ),
    (OptimConfig, {"weight_decay_by_path": ("ab",)}, "optim.weight_decay_by_pa", "text, a fin"),
    (
        OptimConfig,
        {"weight_decay_by_path": (("a", math.nan),)},
        "optim.weight_dec",
        "finite number",
    ),
    (
        OptimConfig,
        {"weight_decay_by_path": (("a", -1.0),)},
        "optim.weight_decay_by",
        "not be negat",
    ),
    (OptimConfig, {"learning_rate_by_path": (("*", 1.0),)}, "optim.learning_rate_by", "'*' is not"),
    (OptimConfig, {"learning_rate_by_path": (("a", 0.0),)}, "optim.learning_rate", "optim.frozen"),
    (MeshConfig, {"data": 0}, "mesh='(data=0, fsdp=1, tensor=1)'", "positive numbers"),
    (MeshConfig, {"data": -1, "fsdp": -1}, "mesh='(data=-1, fsdp=-1, tensor=1)'", "at most one"),
    (MeshConfig, {"fsdp": -2}, "mesh='(data=-1, fsdp=-2, tensor=1)'", "positive numbers"),
    (MeshConfig, {"tensor": -1}, "mesh='(data=-1, fsdp=1, tensor=-1)'", "at most one"),
    (DataConfig, {"eval_share": 1.0}, "data.eval_share=1.0", "[0, 1)"),
    (DataConfig, {"batch_clips": 0}, "data.batch_clips=0", "at least 1"),
    (ClassifyConfig, {"label_smoothing": 1.0}, "classify.label_smoothing=1.0", "[0, 1)"),
    (ClassifyConfig, {"padding": "none"}, "classify.padding='none'", "masked, hf"),
    (TrainConfig, {"patience": 0}, "train.patience=0", "at least 1"),
    (ModelConfig, {"classifier_activation": "relu"}, "model.classifier_activation", "none, gelu"),
    (TrainConfig, {"accumulate_steps": 0}, "train.accumulate_steps=0", "at least 1"),
    (TrainConfig, {"eval_every_steps": 0}, "train.eval_every_steps=0", "at least 1"),
    (TrainConfig, {"precision": "fp16"}, "train.precision='fp16'", "fp32, bf16"),
    (TrainConfig, {"num_steps": 0}, "train.num_steps=0", "at least 1"),
    (TrainConfig, {"num_steps": 1e5}, "train.num_steps=100000.0", "whole number"),
    (TrainConfig, {"log_every_steps": 0}, "train.log_every_steps=0", "at least 1"),
    (TrainConfig, {"checkpoint_every_steps": -5}, "train.checkpoint_every_steps=-5", "at least 1"),
    (TrainConfig, {"keep_checkpoints": 0}, "train.keep_checkpoints=0", "at least 1"),
    (TrainConfig, {"seed": -1}, "train.seed=-1", "[0, 2**32)"),
    (TrainConfig, {"seed": 2**32}, "train.seed=4294967296", "[0, 2**32)"),
    (Config, {"task": "sing"}, "config.task='sing'", "wav2vec2"),
    (Config, {"model": {"hidden_size": 32}}, "config.model={", "ModelConfig"),
    (
        Config,
        {"train": TrainConfig(num_steps=32_000)},
        "optim.warmup_steps=32000",
        "train.num_steps=32000",
    ),
    (
        Config,
        {"model": ModelConfig(mask_time_prob=0.0)},
        "model.mask_time_prob=0.0",
        "model.mask_feature_prob",
    ),
    (DataConfig, {"folder": "gs://bucket/clips"}, "data.folder='gs://bucket/clips'", "mount"),
    (DataConfig, {"data_dir": "s3://bucket"}, "data.data_dir='s3://bucket'", "mount"),
    (DataConfig, {"gain_db": -1.0}, "data.gain_db=-1.0", "[0, 60)"),
    (DataConfig, {"noise_snr_db": (20.0, 10.0)}, "data.noise_snr_db=(20.0, 10.0)", "lower"),
]


@pytest.mark.parametrize(
    ("make", "values", "start", "fix"),
    REFUSED,
    ids=[f"{start.split('=')[0]}-{number}" for number, (_, _, start, _) in enumerate(REFUSED)],
)
def test_impossible_values_are_refused_with_field_value_and_fix(
    make: Callable[..., object], values: dict[str, Any], start: str, fix: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**values)
    assert str(caught.value).startswith(start)
    assert fix in str(caught.value).removeprefix(start)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize(
    "config_class", [ModelConfig, DataConfig, MaskConfig, ObjectiveConfig, OptimConfig]
)
def test_no_number_may_be_nan_or_infinite(config_class: type, value: float) -> None:
    floats = [*names(config_class, "float"), *names(config_class, "float | None")]
    assert floats
    for name in floats:
        with pytest.raises(ConfigError, match=rf"\.{name}={value!r}: .*finite"):
            config_class(**{name: value})


@pytest.mark.parametrize(
    "config_class", [ModelConfig, DataConfig, MaskConfig, OptimConfig, MeshConfig, TrainConfig]
)
@pytest.mark.parametrize("value", ["1", None, True, 1.5, [1]], ids=repr)
def test_whole_numbers_take_nothing_else(config_class: type, value: object) -> None:
    for name in names(config_class, "int"):
        with pytest.raises(ConfigError, match=rf"\.{name}=.*: must be a whole number"):
            config_class(**{name: value})


WRONG_JSON = [
    ("hidden_size", "768"),
    ("hidden_size", None),
    ("hidden_size", True),
    ("hidden_size", 768.0),
    ("hidden_size", [768]),
    ("hidden_dropout", "0.1"),
    ("hidden_dropout", None),
    ("hidden_dropout", False),
    ("hidden_dropout", {"value": 0.1}),
    ("hidden_dropout", 10**400),
    ("layer_norm_eps", math.nan),
    ("contrastive_logits_temperature", math.inf),
    ("diversity_loss_weight", math.nan),
    ("conv_bias", 0),
    ("conv_bias", "false"),
    ("do_stable_layer_norm", None),
    ("feat_extract_norm", None),
    ("feat_extract_norm", ["group"]),
    ("hidden_act", "gelu_new"),
    ("model_type", None),
    ("conv_dim", 512),
    ("conv_dim", "5555555"),
    ("conv_dim", None),
    ("conv_dim", ["512"] * 7),
    ("conv_dim", [512.0] * 7),
    ("conv_dim", [True] * 7),
    ("conv_dim", [[512]] * 7),
    ("conv_stride", {"0": 5}),
    ("id2label", ["laugh", "cry"]),
    ("id2label", {"0": "laugh", "2": "cry"}),
    ("id2label", {"one": "laugh"}),
    ("num_labels", 0),
    ("num_labels", 10**9),
    ("num_labels", "2"),
    ("conv_pos_batch_norm", True),
]


@pytest.mark.parametrize(("name", "value"), WRONG_JSON, ids=lambda value: str(value)[:20])
def test_wrong_types_in_a_config_json_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"{name}="):
        config_from_hf({name: value})


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from([field.name for field in dataclasses.fields(ModelConfig)]), JSON_VALUES
    )
)
@example({"other_fields": 3})
def test_any_json_object_gives_a_valid_config_or_a_config_error(fields: dict[str, Any]) -> None:
    try:
        config = config_from_hf(fields)
    except ConfigError:
        return
    assert dataclasses.replace(config) == config


def test_whole_numbers_may_stand_for_floats_in_a_config_json() -> None:
    config = config_from_hf({"hidden_dropout": 0, "layer_norm_eps": 1})
    assert (config.hidden_dropout, config.layer_norm_eps) == (0.0, 1.0)
    assert type(config.hidden_dropout) is float


@pytest.mark.parametrize(
    ("kernels", "strides"),
    [((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)), ((3,), (7,)), ((1, 4), (1, 3))],
)
def test_receptive_field_is_the_shortest_length_with_a_frame(
    kernels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    config = ModelConfig(conv_dim=(8,) * len(kernels), conv_kernel=kernels, conv_stride=strides)
    shortest = config.receptive_field_samples
    assert frames_from_samples(shortest, kernels, strides) == 1
    assert frames_from_samples(shortest - 1, kernels, strides) == 0


@pytest.mark.parametrize(
    ("time_prob", "feature_prob", "exists"), [(0.0, 0.0, False), (0.1, 0.0, True), (0.0, 0.1, True)]
)
def test_the_mask_embedding_exists_by_the_rule_of_transformers(
    time_prob: float, feature_prob: float, exists: bool
) -> None:
    config = ModelConfig(mask_time_prob=time_prob, mask_feature_prob=feature_prob)
    assert config.has_mask_embedding is exists


@pytest.mark.parametrize(
    ("longest", "expected"),
    [
        (0.5, (1.0,)),
        (1.0, (1.0,)),
        (1.01, (1.0, 2.0)),
        (4.0, (1.0, 2.0, 3.0, 4.0)),
        (15.625, (1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 15.625)),
    ],
)
def test_only_buckets_that_a_window_can_fall_into_are_used(
    longest: float, expected: tuple[float, ...]
) -> None:
    assert DataConfig(max_seconds=longest).used_bucket_seconds == expected


def test_an_unused_bucket_does_not_ask_for_a_larger_batch() -> None:
    config = DataConfig(max_seconds=2.0, batch_seconds=16.0)
    assert config.used_bucket_seconds == (1.0, 2.0)


def test_lists_become_tuples() -> None:
    """So that a configuration is hashable and equal to the one it was read back from."""
    assert DataConfig(bucket_seconds=[2.0, 15.625]).bucket_seconds == (2.0, 15.625)  # type: ignore[arg-type]
    assert hash(ModelConfig(conv_dim=[512] * 7)) == hash(ModelConfig())  # type: ignore[arg-type]


def config_from_dict(plain: dict[str, Any]) -> Config:
    parts = {field.name: field.default_factory for field in dataclasses.fields(Config)}
    return Config(
        **{
            name: value if name == "task" else parts[name](**value)  # type: ignore[operator, misc]
            for name, value in plain.items()
        }
    )


def test_to_dict_survives_json() -> None:
    config = Config(
        data=DataConfig(folder="clips", bucket_seconds=(2.5, 15.625)),
        optim=OptimConfig(
            learning_rate=1e-4 / 3,
            clip_norm=1.0,
            weight_decay_by_path=((r".*\.bias", 0.0), (".*", 1.0)),
            frozen=(r"wav2vec2\.feature_extractor\..*",),
        ),
        train=TrainConfig(seed=2**32 - 1),
    )
    plain = config.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["data"]["bucket_seconds"] == [2.5, 15.625]
    assert config_from_dict(plain) == config


def test_there_are_configuration_files() -> None:
    assert "tiny" in {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_files_load(path: Path) -> None:
    """Each has `get_config`, a docstring that opens with its command, and valid values."""
    config = load_config(str(path))
    assert config == load_config(f"{path}:get_config")
    assert config_from_dict(config.to_dict()) == config
    assert f"--config configs/{path.name}" in path.read_text(encoding="utf-8")


def test_a_configuration_file_may_hold_other_functions(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from voc2vec_jax.config import Config, TrainConfig\n"
        "def get_config(): return Config()\n"
        "def other(): return Config(train=TrainConfig(seed=5))\n"
        "def wrong(): return {}\n"
    )
    assert load_config(f"{path}:other").train.seed == 5
    assert load_config(str(path)).train.seed == 0
    with pytest.raises(ConfigError, match="no function missing"):
        load_config(f"{path}:missing")
    with pytest.raises(ConfigError, match="returned dict, not a Config"):
        load_config(f"{path}:wrong")
    with pytest.raises(ConfigError, match=r"no file .*absent\.py"):
        load_config(str(tmp_path / "absent.py"))


def test_flags_override_single_values_of_a_file() -> None:
    arguments = parse(
        ["--config", str(CONFIGS[0]), "--workdir", "w", "--optim.learning-rate", "0.25"]
    )
    expected = load_config(str(CONFIGS[0]))
    assert arguments.run == dataclasses.replace(
        expected, optim=dataclasses.replace(expected.optim, learning_rate=0.25)
    )


def test_rules_by_path_are_flags() -> None:
    arguments = parse(
        [
            *("--config", str(CONFIGS[0]), "--workdir", "w"),
            *("--optim.weight-decay-by-path", r".*\.(bias|scale)", "0", ".*", "1"),
            *("--optim.learning-rate-by-path", "quantizer.*", "0.1", ".*", "1"),
            *("--optim.frozen", r"wav2vec2\.feature_extractor\..*", r".*\.masked_spec_embed"),
            *("--mask.sampler", "hf", "--mask.equalize", "--objective.codebook", "reset"),
        ]
    )
    optim = arguments.run.optim
    assert optim.weight_decay_by_path == ((r".*\.(bias|scale)", 0.0), (".*", 1.0))
    assert optim.learning_rate_by_path == (("quantizer.*", 0.1), (".*", 1.0))
    assert optim.frozen == (r"wav2vec2\.feature_extractor\..*", r".*\.masked_spec_embed")
    assert arguments.run.mask.sampler == "hf"
    assert arguments.run.mask.equalize
    assert arguments.run.objective.codebook == "reset"
    assert config_from_dict(arguments.run.to_dict()) == arguments.run


def test_flags_are_checked_like_files(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--config", str(CONFIGS[0]), "--workdir", "w", "--train.num-steps", "0"])
    assert caught.value.code == 2
    assert "train.num_steps=0: must be at least 1" in capsys.readouterr().err
