"""What a resumed run may change of the configuration that it began with, field by field."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from voc2vec_jax.config import Config, OptimConfig
from voc2vec_jax.errors import CheckpointMismatchError
from voc2vec_jax.training.optimizer import learning_rate, warmup

TASKS = ("wav2vec2", "hubert", "classify")
PRETRAINING = ("wav2vec2", "hubert")
SMOOTH = 2.0
"""By what factor the learning rate may jump where a run goes on with another length."""
LONGEST = 200
"""Characters of a value that are shown; `metrics.jsonl` has all of them."""


class Effect(Enum):
    """What another value of a field does to a run that goes on."""

    ANOTHER_RUN = "there is no state for it, or it reads other samples; always refused"
    MEASURED = "changes what is learnt and what held-out figures measure"
    LEARNT = "changes what is learnt"
    NAMED = "changes nothing that is learnt, or rounding, or what the remark says; not refused"


@dataclass(frozen=True)
class Rule:
    """The effect of a field in runs of some tasks; those of others do not read it."""

    effect: Effect
    tasks: tuple[str, ...] = TASKS


def _each(section: str, names: str, effect: Effect, *tasks: str) -> dict[str, Rule]:
    return {f"{section}.{name}": Rule(effect, tasks or TASKS) for name in names.split()}


FIELDS: dict[str, Rule] = {
    "task": Rule(Effect.ANOTHER_RUN),
    **_each(
        "model",
        "model_type hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act"
        " feat_extract_activation feat_extract_norm conv_dim conv_kernel conv_stride conv_bias"
        " num_conv_pos_embeddings num_conv_pos_embedding_groups do_stable_layer_norm"
        " layer_norm_eps feat_proj_layer_norm",
        Effect.ANOTHER_RUN,
    ),
    **_each(
        "model",
        "num_codevectors_per_group num_codevector_groups codevector_dim proj_codevector_dim",
        Effect.ANOTHER_RUN,
        "wav2vec2",
    ),
    **_each("model", "final_dim num_clusters num_special_classes", Effect.ANOTHER_RUN, "hubert"),
    **_each(
        "model",
        "use_weighted_layer_sum final_norm_in_hidden_states classifier_proj_size"
        " classifier_activation labels",
        Effect.ANOTHER_RUN,
        "classify",
    ),
    **_each(
        "model",
        "hidden_dropout activation_dropout attention_dropout feat_proj_dropout layerdrop",
        Effect.LEARNT,
    ),
    **_each("model", "feat_quantizer_dropout", Effect.LEARNT, "wav2vec2"),
    **_each(
        "model",
        "num_negatives contrastive_logits_temperature diversity_loss_weight",
        Effect.MEASURED,
        "wav2vec2",
    ),
    **_each(
        "model",
        "apply_spec_augment mask_time_prob mask_time_length mask_time_min_masks mask_feature_prob"
        " mask_feature_length mask_feature_min_masks",
        Effect.LEARNT,
        "classify",
    ),
    **_each("model", "other_fields", Effect.NAMED),
    # Where a corpus or its labels lie may change; what is there is in the fingerprint.
    **_each("data", "name folder table data_dir labels label_rate_hz", Effect.NAMED),
    **_each(
        "data",
        "mixture_temperature normalize min_seconds max_seconds bucket_seconds batch_seconds"
        " batch_clips batch_multiple gain_db noise_snr_db eval_share",
        Effect.ANOTHER_RUN,
    ),
    **_each("data", "label_alignment", Effect.ANOTHER_RUN, "hubert"),
    **_each("mask", "prob length min_spans sampler equalize", Effect.MEASURED, *PRETRAINING),
    **_each("objective", "feature_grad_mult", Effect.LEARNT, *PRETRAINING),
    **_each("objective", "feature_penalty_weight", Effect.MEASURED, *PRETRAINING),
    **_each(
        "objective",
        "gumbel_temperature_start gumbel_temperature_stop gumbel_temperature_decay",
        Effect.LEARNT,
        "wav2vec2",
    ),
    **_each(
        "objective", "masked_weight unmasked_weight logit_temperature", Effect.MEASURED, "hubert"
    ),
    # Read where a run starts from trained weights, which this one has behind it.
    **_each("objective", "codebook label_embeddings", Effect.NAMED),
    **_each("classify", "class_weights crop", Effect.ANOTHER_RUN, "classify"),  # of the batches
    **_each("classify", "label_smoothing", Effect.LEARNT, "classify"),
    **_each("classify", "padding", Effect.MEASURED, "classify"),
    **_each(
        "optim",
        "learning_rate warmup_steps warmup_share beta1 beta2 epsilon epsilon_placement"
        " weight_decay weight_decay_by_path learning_rate_by_path clip_norm",
        Effect.LEARNT,
    ),
    **_each("optim", "frozen", Effect.ANOTHER_RUN),
    **_each("mesh", "data fsdp tensor", Effect.NAMED),
    **_each("train", "seed", Effect.ANOTHER_RUN),  # decides what is held out, and all order
    **_each("train", "precision gradients_added_in", Effect.LEARNT),
    **_each("train", "num_steps accumulate_steps", Effect.LEARNT),  # see `_judge`
    **_each("train", "best_by", Effect.MEASURED, "classify"),
    **_each(
        "train",
        "remat log_every_steps eval_every_steps checkpoint_every_steps keep_checkpoints"
        " export_checkpoint patience tracking max_skipped_updates",
        Effect.NAMED,
    ),
}
"""Every field of `Config`; `tests/test_resuming.py` holds it complete."""

DEFAULTS_OF_THEN: dict[str, Any] = {"train.max_skipped_updates": 1}
"""What a run did before a field was there, where that is not the field's default of today."""


@dataclass(frozen=True)
class Change:
    """A field whose value is not the one that the checkpoint was made with."""

    field: str
    then: Any
    now: Any
    effect: Effect
    note: str = ""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.field}: {_short(self.then)} then, {_short(self.now)} now{note}"

    def entry(self) -> dict[str, Any]:
        """For the event of resuming."""
        entry = {"field": self.field, "then": self.then, "now": self.now}
        return {**entry, "note": self.note} if self.note else entry


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def changes(config: Config, then: Mapping[str, Any], step: int) -> list[Change]:
    """The fields that differ from those of a checkpoint, in the order of the configuration.

    Args:
        config: Of the run that goes on.
        then: `Config.to_dict` of the run that made it. A field that it is too old to know had its
            default of then (`DEFAULTS_OF_THEN`); one that this version does not know is listed too.
        step: Updates behind the checkpoint.
    """
    now = _flat(config.to_dict())
    before = {**_flat(Config().to_dict()), **DEFAULTS_OF_THEN, **_flat(then)}
    found = []
    for name in [*now, *sorted(before.keys() - now.keys())]:
        if name not in now or before[name] != now[name]:
            effect, note = _judge(name, before, now, step)
            if name in DEFAULTS_OF_THEN and name not in _flat(then):
                note = "what its version did, which had no such field"
            found.append(Change(name, before[name], now.get(name), effect, note))
    return found


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, held in config.items():
        if isinstance(held, Mapping):
            flat |= {f"{section}.{name}": value for name, value in held.items()}
        else:
            flat[section] = held
    return flat


def _judge(
    name: str, then: Mapping[str, Any], now: Mapping[str, Any], step: int
) -> tuple[Effect, str]:
    """What a change does, where the table alone does not say it, and a remark."""
    rule = FIELDS.get(name)
    if rule is None:
        effect = Effect.ANOTHER_RUN if name.startswith("model.") else Effect.LEARNT
        return effect, "a field of the version that wrote it, which this one does not know"
    if now["task"] not in rule.tasks:
        return Effect.NAMED, f"task {now['task']} does not read it"
    if name == "train.num_steps":
        return _judge_length(then, now, step)
    if name == "train.accumulate_steps":
        weight = "model.diversity_loss_weight"
        diverse = now["task"] == "wav2vec2" and max(then[weight], now[weight]) > 0
        if diverse:
            return Effect.LEARNT, "the diversity term is that of each micro-batch"
        return Effect.NAMED, "they add up to the same update"
    embedding = ("model.mask_time_prob", "model.mask_feature_prob")
    if name in embedding and any(then[n] for n in embedding) != any(now[n] for n in embedding):
        return Effect.ANOTHER_RUN, "with both at 0 there is no mask embedding"
    if rule.effect is Effect.MEASURED:
        return rule.effect, "held-out figures measure something else, the best so far is forgotten"
    return rule.effect, ""


def _judge_length(then: Mapping[str, Any], now: Mapping[str, Any], step: int) -> tuple[Effect, str]:
    """Another length is no more than named where the schedule goes on; it says how."""
    rates, warmups = [], []
    for of in (then, now):
        known = {field.name: of[f"optim.{field.name}"] for field in fields(OptimConfig)}
        optim, num_steps = OptimConfig(**known), of["train.num_steps"]
        rates.append(float(learning_rate(optim, num_steps)(step)))
        warmups.append(int(warmup(optim, num_steps)))
    note = f"at step {step} the learning rate is {rates[1]:.4g} instead of {rates[0]:.4g}"
    if warmups[0] != warmups[1]:
        note += f", with a warm-up of {warmups[1]} updates instead of {warmups[0]}"
    if rates[0] == 0 < rates[1]:
        return Effect.LEARNT, f"{note}: the run had ended, and its rate would rise again"
    if warmups[0] <= step < warmups[1]:
        return Effect.LEARNT, f"{note}: the warm-up was over, and would begin again"
    if max(rates) > SMOOTH * min(rates):
        return Effect.LEARNT, f"{note}: a jump"
    return Effect.NAMED, note


def refuse(changed: Sequence[Change], *, same_data: bool, accept_changes: bool) -> None:
    """Refuses to go on from a checkpoint of another run, or, unless told to, in another way.

    Args:
        changed: As `changes` gives them.
        same_data: Whether every step reads the same samples as then.
        accept_changes: Whether changes of what is learnt were asked for.

    Raises:
        CheckpointMismatchError: All fields that stand in the way, and what to do.
    """
    others = [change for change in changed if change.effect is Effect.ANOTHER_RUN]
    model = [change for change in others if change.field.startswith(("task", "model."))]
    if model:
        raise CheckpointMismatchError(
            f"the checkpoint is of another architecture ({_listed(model)}); use its "
            "configuration, or another --workdir"
        )
    frozen = [change for change in others if change.field == "optim.frozen"]
    if frozen:
        raise CheckpointMismatchError(
            f"{_listed(frozen)}; the optimiser has no state for what was frozen, so go on with the "
            "same, or start in another --workdir with --init-from"
        )
    if others or not same_data:
        of_data = [c for c in changed if c in others or c.field.startswith("data.")]
        what = _listed(of_data) or "the corpus, or how it is batched, has changed"
        raise CheckpointMismatchError(
            f"the checkpoint was made with other data ({what}), so it cannot go on exactly; "
            "restore what it had, or start in another --workdir with --init-from"
        )
    learnt = [c for c in changed if c.effect in (Effect.MEASURED, Effect.LEARNT)]
    if learnt and not accept_changes:
        raise CheckpointMismatchError(
            f"what is learnt would change ({_listed(learnt)}); go on with the values of then, give "
            "--accept-changes to go on with these, or start in another --workdir"
        )


def _listed(changed: Sequence[Change]) -> str:
    return "; ".join(map(str, changed))


def forgets_best(changed: Sequence[Change]) -> bool:
    """Whether held-out figures of then cannot be compared with those to come."""
    return any(change.effect is Effect.MEASURED for change in changed)
