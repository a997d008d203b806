"""The collapse alarm rings on collapsed runs, once, and is silent on healthy ones."""

import json
import math
from collections.abc import Iterable
from typing import Any

import pytest

from configs.tiny import get_config
from tests.test_update import changed
from voc2vec_jax.training.log.alarm import LINES, CollapseAlarm, symptoms

CONFIG = get_config()  # 2 × 16 entries, 50 negatives
FIGURES = ("contrastive_loss", "accuracy", "code_perplexity", "probability_perplexity")
# Every tenth of 300 updates of configs/tiny.py on 2.2 h of recordings (the run of the README).
HEALTHY = [
    (3.994, 0.037, 28.27, 28.44),
    (3.938, 0.033, 30.13, 30.28),
    (3.931, 0.032, 29.88, 29.95),
    (3.926, 0.036, 30.74, 30.81),
    (3.926, 0.032, 30.95, 31.04),
    (3.926, 0.033, 30.56, 30.70),
    (3.924, 0.035, 30.97, 31.08),
    (3.925, 0.032, 31.25, 31.37),
    (3.922, 0.041, 31.26, 31.36),
    (3.866, 0.058, 29.52, 29.65),
    (3.695, 0.077, 25.20, 25.27),
    (3.648, 0.080, 24.22, 24.22),
    (3.583, 0.119, 22.81, 23.01),
    (3.551, 0.108, 24.22, 24.18),
    (3.610, 0.100, 23.90, 24.05),
    (3.512, 0.130, 24.57, 24.72),
]
# Every fifth update of configs/tiny.py on the embedded corpus, on a CPU, with `--data.max-seconds 2
# --data.bucket-seconds 2 --data.batch-seconds 16 --data.eval-share 0.1
# --model.diversity-loss-weight 0 --optim.learning-rate 0.03 --optim.warmup-steps 5
# --train.log-every-steps 5 --train.num-steps 200`. Accuracy rises, since few codes are easy to tell
# apart.
COLLAPSED = [
    (4.013, 0.045, 20.771, 20.850),
    (3.707, 0.110, 10.220, 10.253),
    (3.405, 0.116, 8.517, 8.548),
    (3.522, 0.139, 8.567, 8.624),
    (1.449, 0.330, 2.714, 2.738),
    (3.444, 0.172, 8.657, 8.662),
    (3.546, 0.134, 9.431, 9.443),
    (3.167, 0.276, 6.146, 6.213),
    (3.014, 0.370, 5.974, 6.011),
    (2.173, 0.179, 5.296, 5.297),
    (3.438, 0.243, 5.731, 5.837),
    (2.826, 0.421, 4.136, 4.104),
    (2.850, 0.637, 3.282, 3.297),
    (2.448, 0.670, 3.052, 3.096),
    (1.937, 0.742, 2.836, 2.803),
    (2.715, 0.623, 3.109, 3.108),
]


def lines(figures: Iterable[tuple[float, ...]], every: int) -> list[dict[str, Any]]:
    return [
        {"step": every * number, **dict(zip(FIGURES, line, strict=True))}
        for number, line in enumerate(figures, start=1)
    ]


def alarms(alarm: CollapseAlarm, entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in map(alarm.see, entries) if event is not None]


def test_a_healthy_run_is_left_in_peace() -> None:
    assert alarms(CollapseAlarm(CONFIG), lines(HEALTHY, 10)) == []


def test_a_collapsed_run_rings_once_and_says_what_and_why() -> None:
    optim = {"learning_rate": 0.03, "warmup_steps": 5}
    config = changed(CONFIG, model={"diversity_loss_weight": 0.0}, optim=optim)
    (event,) = alarms(CollapseAlarm(config), lines(COLLAPSED, 5))
    assert event["event"] == "collapse_alarm"
    assert event["step"] == 60, "the fifth line in a row below 8 of 32"
    assert event["symptoms"] == ["codebook"]
    assert "perplexity=4.1 of 32 (alarm below 8)" in event["saw"]
    assert "Raise model.diversity_loss_weight (now 0)" in event["try"]
    assert "optim.learning_rate (now 0.03)" in event["try"]
    assert json.loads(json.dumps(event)) == event


def test_it_rings_again_in_the_next_episode_and_survives_a_resume() -> None:
    bad, good = COLLAPSED[-1], HEALTHY[0]
    entries = lines([bad] * (LINES + 3) + [good] + [bad] * LINES, 100)
    rings = [event["step"] for event in alarms(CollapseAlarm(CONFIG), entries)]
    assert rings == [100 * LINES, 100 * (2 * LINES + 4)]
    for cut in range(len(entries)):
        before = CollapseAlarm(CONFIG)
        events = alarms(before, entries[:cut])
        after = CollapseAlarm(CONFIG, json.loads(json.dumps(before.state)))
        events += alarms(after, entries[cut:])
        assert [event["step"] for event in events] == rings, cut


SYMPTOMS = {
    "two entries per group, ever": (1, {"code_perplexity": 3.9}, {"codebook"}),
    "half of the bits, before the learning rate is up": (50, {"code_perplexity": 7.9}, set()),
    "half of the bits, after": (51, {"code_perplexity": 7.9}, {"codebook"}),
    "soft choices count too": (51, {"probability_perplexity": 7.9}, {"codebook"}),
    "nothing to tell apart": (1, {"contrastive_loss": 0.1, "accuracy": 0.0}, {"trivial"}),
    "all alike": (1, {"contrastive_loss": math.log(51), "accuracy": 0.004}, {"blind"}),
    "chance": (1, {"contrastive_loss": math.log(51), "accuracy": 1 / 51}, set()),
    "another task": (1, {"loss": 0.0}, set()),
    "nothing counted": (1, {"contrastive_loss": None, "accuracy": None}, set()),
}


@pytest.mark.parametrize("case", SYMPTOMS)
def test_symptoms(case: str) -> None:
    step, figures, expected = SYMPTOMS[case]
    assert CONFIG.optim.warmup_steps == 50
    assert symptoms(CONFIG, {"step": step, **figures}).keys() == expected
