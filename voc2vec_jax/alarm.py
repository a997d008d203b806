"""The collapse alarm: says that a pre-training run has stopped learning, what it saw, what to try.

Three ways to collapse are known, and each shows in a figure that healthy runs keep away from:

    codebook  nearly all frames get the same few codes: perplexity falls towards one per group
    trivial   the codes of a clip are all equal, so nothing is left to tell apart: the loss is 0
    blind     all context vectors are alike: accuracy is below chance, since a tie is no hit
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


class CollapseAlarm:
    """Watches log lines; a pure function of them, so that a resumed run raises the same alarms.

    Args:
        config: The run.
        state: `state` of the alarm of the run that is gone on with.
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
    }
