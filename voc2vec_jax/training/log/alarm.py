"""The collapse alarm: says that a pre-training run has stopped learning, what it saw, what to try.

Each way to collapse shows in a figure that healthy runs keep away from. Of wav2vec 2.0:

    codebook  nearly all frames get the same few codes: perplexity falls towards one per group
    trivial   the codes of a clip are all equal, so nothing is left to tell apart: the loss is 0
    blind     all context vectors are alike: accuracy is below chance, since a tie is no hit

HuBERT's targets are made beforehand and cannot collapse in training, so what is left is:

    constant  all frames are given the same label, although theirs differ
    labels    nearly all frames have the same label: there is nothing to learn
"""

import math
from collections.abc import Mapping
from typing import Any

from voc2vec_jax.config import Config

LINES = 5
"""Log lines in a row that must show the same symptom."""
ENTRIES_EVER, SHARE_OF_BITS = 2.0, 0.5
"""Entries that each codebook of V must use: 2 at any time, and √V (half of its bits) once the
learning rate has warmed up. Before that healthy base models are seen at 18 of 640 entries (fairseq
issue 2981, update 1,064)."""
SHARE_OF_CHANCE_LOSS = 0.05
SHARE_OF_CHANCE_ACCURACY = 0.25
LABELS_EVER = 2.0
"""Perplexity that HuBERT's labels must have at any time, and its predictions once the learning rate
has warmed up: a fresh model gives many frames the same label, and learns frequencies first."""


class CollapseAlarm:
    """Watches log lines; a pure function of them, so that a resumed run raises the same alarms.

    Args:
        config: The run.
        state: `state` of the alarm of the run that is resumed.
    """

    def __init__(self, config: Config, state: Mapping[str, int] | None = None):
        self.config = config
        self.state = dict(state or {})
        """Lines in a row by symptom, and whether an episode is under way (`raised`)."""

    def see(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """The event to report for a log line: one at the start of each episode, else None."""
        seen = symptoms(self.config, entry)
        lines = {name: self.state.get(name, 0) + 1 for name in seen}
        raised = bool(self.state.get("raised")) and bool(seen)
        lasting = [name for name in seen if lines[name] >= LINES]
        self.state = {**lines, "raised": int(raised or bool(lasting))}
        if raised or not lasting:
            return None
        advice = _advice(self.config)
        return {
            "event": "collapse_alarm",
            "step": entry["step"],
            "symptoms": lasting,
            "saw": "; ".join(seen[name] for name in lasting),
            "try": " ".join(advice[name] for name in lasting),
        }


def symptoms(config: Config, entry: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the figures of a log line, in words, by symptom."""
    find = {"wav2vec2": _of_wav2vec2, "hubert": _of_hubert}.get(config.task)
    return find(config, entry) if find else {}


def _of_wav2vec2(config: Config, entry: Mapping[str, Any]) -> dict[str, str]:
    groups, entries = config.model.num_codevector_groups, config.model.num_codevectors_per_group
    candidates = config.model.num_negatives + 1
    warm = entry["step"] > config.optim.warmup_steps
    fewest = groups * min(ENTRIES_EVER, entries**SHARE_OF_BITS)
    if warm:
        fewest = groups * entries**SHARE_OF_BITS
    lowest_loss = SHARE_OF_CHANCE_LOSS * math.log(candidates)
    lowest_accuracy = SHARE_OF_CHANCE_ACCURACY / candidates

    found = {}
    for name in ("code_perplexity", "probability_perplexity"):
        value = entry.get(name)
        if value is not None and value < fewest:
            found["codebook"] = (
                f"{name}={value:.3g} of {groups * entries} (alarm below {fewest:.3g})"
            )
    loss, accuracy = entry.get("contrastive_loss"), entry.get("accuracy")
    if loss is not None and loss < lowest_loss:
        found["trivial"] = f"contrastive_loss={loss:.3g} (alarm below {lowest_loss:.3g})"
    elif accuracy is not None and accuracy < lowest_accuracy:
        found["blind"] = (
            f"accuracy={accuracy:.3g} (chance is {1 / candidates:.3g},"
            f" alarm below {lowest_accuracy:.3g})"
        )
    return found


def _of_hubert(config: Config, entry: Mapping[str, Any]) -> dict[str, str]:
    labels, predictions = entry.get("target_perplexity"), entry.get("prediction_perplexity")
    if labels is not None and labels < LABELS_EVER:
        return {"labels": f"target_perplexity={labels:.3g} (alarm below {LABELS_EVER:g})"}
    warm = entry["step"] > config.optim.warmup_steps
    if warm and predictions is not None and predictions < LABELS_EVER:
        return {
            "constant": (
                f"prediction_perplexity={predictions:.3g} (alarm below {LABELS_EVER:g}; that of "
                f"the labels is {labels:.3g})"
            )
        }
    return {}


def _advice(config: Config) -> dict[str, str]:
    slower = (
        f"lower optim.learning_rate (now {config.optim.learning_rate:g}) or lengthen "
        f"optim.warmup_steps (now {config.optim.warmup_steps})"
    )
    return {
        "codebook": (
            f"Raise model.diversity_loss_weight (now {config.model.diversity_loss_weight:g}), "
            f"{slower}, and let objective.gumbel_temperature_decay "
            f"(now {config.objective.gumbel_temperature_decay:g}) keep choices random for longer."
        ),
        "trivial": (
            f"Listen to the data for silence and constant tones, {slower}, and raise "
            f"model.diversity_loss_weight (now {config.model.diversity_loss_weight:g})."
        ),
        "blind": f"{slower[0].upper()}{slower[1:]}, and clip gradients with optim.clip_norm.",
        "constant": (
            f"{slower[0].upper()}{slower[1:]}, clip gradients with optim.clip_norm, and see that "
            "model and data.normalize are those of the recipe."
        ),
        "labels": (
            f"Listen to the data for silence, and look at the quality that {config.data.labels} "
            "reports of itself (manifest.json); make labels of another layer or of MFCC."
        ),
    }
