"""fairseq's configurations, of all the forms in which its checkpoints hold them."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voc2vec_jax.checkpoints.formats.plain_pickle import Opaque
from voc2vec_jax.config.model import MAX_CONV_LAYERS
from voc2vec_jax.errors import CheckpointError

Fields = Mapping[Any, object]

SETTINGS = {
    # fairseq's name: (Hugging Face's name, fairseq's default, which a missing field means)
    "dropout": ("hidden_dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0),
    "encoder_layerdrop": ("layerdrop", 0.0),
    "dropout_input": ("feat_proj_dropout", 0.0),
    "mask_prob": ("mask_time_prob", 0.65),
    "mask_length": ("mask_time_length", 10),
    "mask_channel_prob": ("mask_feature_prob", 0.0),
    "mask_channel_length": ("mask_feature_length", 10),
}
SETTINGS_OF_WAV2VEC2 = {
    "dropout_features": ("feat_quantizer_dropout", 0.0),
    "num_negatives": ("num_negatives", 100),
    "logit_temp": ("contrastive_logits_temperature", 0.1),
}
REQUIRED: dict[str, type] = {
    "encoder_attention_heads": int,
    "layer_norm_first": bool,
    "activation_fn": str,
    "conv_feature_layers": str,
}
"""They decide what the model computes, and no tensor shows them."""
AGREEING = (
    ("encoder_layers", "num_hidden_layers"),
    ("encoder_embed_dim", "hidden_size"),
    ("encoder_ffn_embed_dim", "intermediate_size"),
    ("conv_bias", "conv_bias"),
    ("conv_pos", "num_conv_pos_embeddings"),
    ("conv_pos_groups", "num_conv_pos_embedding_groups"),
    ("latent_vars", "num_codevectors_per_group"),
    ("latent_groups", "num_codevector_groups"),
    ("latent_dim", "codevector_dim"),
    ("final_dim", "proj_codevector_dim"),
    ("final_dim", "final_dim"),
)
"""fairseq's name and ours of what the tensors show too."""
DERIVED_IF_0 = {"latent_dim", "final_dim"}
EXTRACTOR_MODES = {"group": "default", "layer": "layer_norm"}

FINETUNING = (*SETTINGS, "layerdrop")
"""What fine-tuning sets anew; the rest is as in the pre-training, which it keeps in `w2v_args`."""


@dataclass(frozen=True)
class FairseqConfigs:
    model: Fields
    normalize: bool
    family: str | None
    """`wav2vec2` or `hubert`, if it says so."""


def find_configs(checkpoint: object, *, finetuned: bool) -> FairseqConfigs:
    """The configurations of the model and of its input.

    They are in `cfg` (nested), in `args` of 2020 (one for all), or in s3prl's `model_cfg` and
    `task_cfg`; as a dictionary, an OmegaConf object or a Namespace.

    Raises:
        CheckpointError: A configuration, or a field that the function needs, is missing.
    """
    top = _fields(checkpoint)
    if "model_cfg" in top:
        model, task = _fields(top["model_cfg"]), _fields(top.get("task_cfg"))
    else:
        model, task = _model_and_task(top.get("cfg" if _fields(top.get("cfg")) else "args"))
    normalize = _value(task.get("normalize"))
    if finetuned:
        inner, inner_task = _model_and_task(_value(model.get("w2v_args")))
        if not inner:
            raise CheckpointError(
                "a fine-tuned model without 'w2v_args', the configuration of its encoder"
            )
        changed = {name: model[name] for name in FINETUNING if name in model}
        if "layerdrop" in changed:
            changed["encoder_layerdrop"] = changed.pop("layerdrop")
        model = {**inner, **changed}
        if normalize is None:
            normalize = _value(inner_task.get("normalize"))
        task = inner_task
    model = {name: _value(value) for name, value in model.items()}
    problems = [
        f"{name} is missing" if name not in model else f"{name} is {shown(model[name])}"
        for name, kind in REQUIRED.items()
        if type(model.get(name)) is not kind
    ]
    if type(normalize) is not bool:
        problems.append(f"normalize of the task is {shown(normalize)}")
    layer_type = model.get("layer_type", "transformer")
    if type(layer_type) is not str or layer_type != "transformer":
        problems.append(f"layer_type is {shown(layer_type)}, not transformer")
    if problems:
        raise CheckpointError(f"its configuration is not usable ({'; '.join(problems)})")
    return FairseqConfigs(model, normalize is True, _family(model, task))


def hf_fields(model: Fields, family: str) -> dict[str, Any]:
    """The settings that no tensor shows, as fields of a `config.json`."""
    settings = {**SETTINGS, **(SETTINGS_OF_WAV2VEC2 if family == "wav2vec2" else {})}
    fields: dict[str, Any] = {
        "num_attention_heads": model["encoder_attention_heads"],
        "do_stable_layer_norm": model["layer_norm_first"],
        "hidden_act": model["activation_fn"],
        "feat_extract_activation": "gelu",
        "layer_norm_eps": 1e-5,
    }
    if family == "hubert":
        fields |= {"feat_proj_layer_norm": True, "conv_pos_batch_norm": False}
    for name, (hf_name, default) in settings.items():
        value: Any = model.get(name, default)
        whole = type(default) is int
        if type(value) not in ((int,) if whole else (int, float)) or not abs(value) < 2**53:
            raise CheckpointError(
                f"{name} is {shown(value)}; must be a {'whole ' if whole else ''}number"
            )
        fields[hf_name] = value if whole else float(value)
    return fields


def contradictions(model: Fields, sizes: Mapping[str, Any]) -> list[str]:
    """What the configuration says otherwise than the tensors."""
    found: list[tuple[str, object, object]] = [
        (name, model[name], sizes[hf_name])
        for name, hf_name in AGREEING
        if name in model
        and hf_name in sizes
        and not (name in DERIVED_IF_0 and type(model[name]) is int and model[name] == 0)
    ]
    if "extractor_mode" in model:
        mode = EXTRACTOR_MODES[sizes["feat_extract_norm"]]
        found.append(("extractor_mode", model["extractor_mode"], mode))
    layers = [(width, kernel) for width, kernel, _ in conv_feature_layers(model)]
    there = list(zip(sizes["conv_dim"], sizes["conv_kernel"], strict=True))
    found.append(("conv_feature_layers (width, kernel)", str(layers), str(there)))
    return [
        f"{name} is {shown(said)}, but the tensors have {shown(there)}"
        for name, said, there in found
        if type(said) is not type(there) or said != there
    ]


def conv_feature_layers(model: Fields) -> list[tuple[int, int, int]]:
    """Width, kernel and stride of each convolution, from an expression such as
    `[(512, 10, 5)] + [(512, 3, 2)] * 4`."""
    text = str(model["conv_feature_layers"])
    try:
        layers = _evaluate(ast.parse(text[:2000].strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        layers = None
    if (
        not isinstance(layers, list)
        or not layers
        or not all(
            type(layer) is tuple
            and len(layer) == 3
            and all(type(n) is int and n > 0 for n in layer)
            for layer in layers
        )
    ):
        raise CheckpointError(
            f"conv_feature_layers is {shown(text)}; must be a list of (width, kernel, stride)"
        )
    return layers


def _evaluate(node: ast.expr) -> Any:
    """Lists, tuples and whole numbers; sums and multiples of lists."""
    match node:
        case ast.Constant(value=int() as number):
            return number
        case ast.Tuple(elts=items):
            return tuple(_evaluate(item) for item in items)
        case ast.List(elts=items):
            return [_evaluate(item) for item in items]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            first, second = _evaluate(left), _evaluate(right)
            if type(first) is list and type(second) is list:
                return first + second
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            items, count = _evaluate(left), _evaluate(right)
            if type(items) is list and type(count) is int and len(items) * count <= MAX_CONV_LAYERS:
                return items * count
    raise ValueError(ast.dump(node)[:80])


def _model_and_task(config: object) -> tuple[Fields, Fields]:
    """Of a nested configuration; of a flat one, all of it for both."""
    fields = _fields(config)
    if "model" in fields and _fields(fields["model"]):
        return _fields(fields["model"]), _fields(fields.get("task"))
    return fields, fields


def _fields(value: object) -> Fields:
    """One level only: a file may nest the same object in itself without end."""
    if isinstance(value, Opaque):
        state = value.state
        if value.class_name.startswith("omegaconf."):
            state = state.get("_content") if isinstance(state, dict) else None
        value = state
    return value if isinstance(value, dict) else {}


def _value(value: object) -> object:
    """Out of the node of OmegaConf or the enumeration that holds it."""
    if isinstance(value, Opaque) and value.class_name.startswith("omegaconf.nodes."):
        value = value.state.get("_val") if isinstance(value.state, dict) else None
    if isinstance(value, Opaque) and len(value.arguments) == 1 and value.state is None:
        value = value.arguments[0]
    return value


def _family(model: Fields, task: Fields) -> str | None:
    for value in (model.get("_name"), model.get("arch"), task.get("_name"), task.get("task")):
        name = str(_value(value)) if isinstance(_value(value), str) else ""
        for family in ("hubert", "wav2vec2"):
            if name.startswith(family):
                return family
        if name.startswith("wav2vec_"):  # the heads of fine-tuning: wav2vec_ctc, wav2vec_seq2seq
            return "wav2vec2"
    return None


def shown(value: object) -> str:
    """Objects by their type, since a file may make them endless to print."""
    plain = value is None or isinstance(value, str | float)
    if plain or (isinstance(value, int) and abs(value) < 2**63):
        return f"{value!r:.200}"
    return f"a {type(value).__name__}"
