"""TensorBoard and W&B hear what stands in `metrics.jsonl`."""

import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.test_update import changed
from voc2vec_jax.config import Config
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.training.log.trackers import check_installed, open_listeners


def tracked(name: str) -> Config:
    return changed(Config(), train={"tracking": (name,)})


def scalars(workdir: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workdir / "tensorboard")).Reload()
    return {
        tag: [(event.step, round(event.value, 5)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="part of the extras `tracking` and `test`")
    (first,) = open_listeners(tracked("tensorboard"), tmp_path, None)
    for step in (10, 20, 30):
        first.log(step, {"loss": step / 100, "eval_loss": 1.0})
    first.close()
    # Killed after step 30, resumed from step 20.
    (second,) = open_listeners(tracked("tensorboard"), tmp_path, 20)
    for step in (30, 40):
        second.log(step, {"loss": step / 100})
    second.close()
    found = scalars(tmp_path)
    assert found["loss"] == [(10, 0.1), (20, 0.2), (30, 0.3), (40, 0.4)]
    assert found["eval_loss"] == [(10, 1.0), (20, 1.0)]


class FakeWandB(types.ModuleType):
    """Records what it is told; the real one talks to a server."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **options: Any) -> "FakeWandB":
        self.started.append(options)
        return self

    def log(self, figures: dict[str, float], step: int) -> None:
        self.logged.append((step, figures))

    def finish(self) -> None:
        self.finished += 1


def test_a_resumed_run_is_the_same_run_on_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for resumed_at in (None, 10, None):
        (listener,) = open_listeners(tracked("wandb"), tmp_path, resumed_at)
        listener.log(10, {"loss": 2.0})
        listener.close()
    ids = [options["id"] for options in fake.started]
    assert ids[0] == ids[1] != ids[2], "a fresh start in the same place is another run"
    assert fake.started[0]["config"]["train"]["tracking"] == ["wandb"]
    assert fake.logged == [(10, {"loss": 2.0})] * 3
    assert fake.finished == 3


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="wandb is not installed; pip install wandb"):
        check_installed(tracked("wandb"))


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.tracking=\('aim',\).*tensorboard, wandb"):
        tracked("aim")
