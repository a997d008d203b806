"""Folds side by side: who gets which fold, what of the machine, and what a failure takes along."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from voc2vec_jax.cli import jobs
from voc2vec_jax.errors import DONE, FAILED, STOPPED, WRONG_USAGE, ConfigError

KEYS = [(0, fold) for fold in range(6)]


def work(out: Path, keys: Iterator[jobs.Key]) -> None:
    """Notes every fold; dies at the second one, and refuses the fourth."""
    for seed, fold in keys:
        cores = len(os.sched_getaffinity(0))
        (out / f"{fold}.{os.getpid()}.{cores}").touch()
        if (out / "well").exists():
            time.sleep(0.05)  # so that the other one has its share
            continue
        if (seed, fold) == KEYS[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        if (seed, fold) == KEYS[3]:
            raise ConfigError("what a fold may die of")


def refuse(keys: Iterator[jobs.Key]) -> None:
    raise ConfigError("what no fold is reached with")


@pytest.mark.thorough
def test_a_fold_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    finished: list[int] = []
    machine = jobs.shares(2)
    code = jobs.side_by_side(machine, KEYS, partial(work, tmp_path), lambda: finished.append(1))
    assert code in (FAILED, WRONG_USAGE), "of whichever was first to end"
    assert len(finished) == 4
    runs = sorted(path.name.split(".") for path in tmp_path.iterdir())
    assert [int(fold) for fold, _, _ in runs] == list(range(6)), "each fold once"
    assert len({pid for _, pid, _ in runs}) >= 3, "others have taken the places of the dead"
    cores = len(os.sched_getaffinity(0))
    assert {int(count) for _, _, count in runs} == {cores // 2 or cores}
    said = capfd.readouterr().err
    assert "failed (killed by SIGKILL) at fold 1 of seed 0, which the same command runs" in said
    assert f"failed (exit code {WRONG_USAGE}) at fold 3 of seed 0" in said
    assert "error: what a fold may die of" in said

    (tmp_path / "well").touch()
    assert jobs.side_by_side(machine, KEYS, partial(work, tmp_path), list) == DONE


@pytest.mark.thorough
def test_what_fails_before_a_fold_is_not_tried_for_ever(capfd: pytest.CaptureFixture[str]) -> None:
    assert jobs.side_by_side(jobs.shares(2), KEYS, refuse, list) == WRONG_USAGE
    assert capfd.readouterr().err.count("failed (exit code 2) before its first fold") == 2


def wait_for_ever(out: Path, keys: Iterator[jobs.Key]) -> None:
    for _, fold in keys:
        (out / str(fold)).touch()
        time.sleep(600)


@pytest.mark.thorough
def test_who_is_told_to_stop_stops_the_others(tmp_path: Path) -> None:
    def interrupt(number: int, frame: object) -> None:
        if len(list(tmp_path.iterdir())) == 2:
            signal.raise_signal(signal.SIGTERM)
        else:
            signal.setitimer(signal.ITIMER_REAL, 0.1)

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            jobs.side_by_side(jobs.shares(2), KEYS, partial(wait_for_ever, tmp_path), list)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    assert STOPPED == 75


@pytest.mark.parametrize(
    ("count", "gpus", "devices", "memory"),
    [
        (2, "0,1,2,3", ["0,2", "1,3"], None),
        (2, "GPU-a", ["GPU-a", "GPU-a"], "0.450"),
        (3, "0,1", ["0", "1", "0"], "0.450"),
        (2, "", [None, None], None),
    ],
)
def test_a_machine_is_divided(
    count: int,
    gpus: str,
    devices: list[str | None],
    memory: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.delenv(jobs.PLATFORM, raising=False)
    for name in jobs.OWN_MEMORY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jobs.os, "sched_getaffinity", lambda pid: {1, 3, 5, 7, 9}, raising=False)
    found = jobs.shares(count)
    assert [share.environment.get("CUDA_VISIBLE_DEVICES") for share in found] == devices
    assert {share.environment.get(jobs.MEMORY) for share in found} == {memory}
    assert {share.environment[jobs.PLATFORM] for share in found} == {None}
    cores = {2: [{1, 3}, {5, 7}], 3: [{1}, {3}, {5}]}[count]
    assert [set(share.cores) for share in found] == cores
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    assert jobs.shares(count)[0].environment.get(jobs.MEMORY) is None, "the user has decided"
    assert jobs.shares(9)[8].cores == frozenset(), "fewer cores than processes: all of them"
