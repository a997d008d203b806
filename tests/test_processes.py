"""Several processes do what one does: the same losses, the same data, files written once."""

import dataclasses
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from safetensors.numpy import load_file

from tests.small_run import (
    ROOT,
    digest,
    events,
    figures,
    finish,
    launch_command,
    make_place,
    start,
    state_of,
    train_command,
)
from voc2vec_jax.checkpoints.orbax import Checkpoints
from voc2vec_jax.cli.train import main, parse
from voc2vec_jax.distributed import processes, sharding
from voc2vec_jax.distributed.lock import LOCK, WorkdirLock
from voc2vec_jax.distributed.processes import LOST_ANOTHER, Processes
from voc2vec_jax.errors import BAD_DATA, DONE, FAILED, STOPPED, WRONG_USAGE, ConfigError
from voc2vec_jax.training.starting_point import newest_step

pytestmark = pytest.mark.unoptimised

FSDP = ("--mesh.data", "2", "--mesh.fsdp", "2")
LAST = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def alone(place: Path) -> Path:
    """One process, this one, with four devices, to its end."""
    workdir = place / "alone"
    assert main(train_command(place, workdir, *FSDP)[5:]) == DONE
    return workdir


@pytest.fixture(scope="module")
def two(place: Path) -> tuple[Path, str]:
    """Two processes with two devices each, and what they said."""
    workdir = place / "two"
    return workdir, finish(launch_command(2, 2, train_command(place, workdir, *FSDP)))


def assert_same_run(ours: Path, theirs: Path, tolerance: float = 1e-5) -> float:
    """The largest relative difference of losses; everything that is counted must be equal."""
    ours_said, theirs_said = figures(ours), figures(theirs)
    assert [e["step"] for e in ours_said] == [e["step"] for e in theirs_said]
    differences = []
    for entry, other in zip(ours_said, theirs_said, strict=True):
        assert entry.keys() == other.keys()
        for name in ("epoch", "hours_heard", "corpus_hours", "padding_share", "batch_seconds"):
            assert entry[name] == other[name], name
        losses = [name for name in ("loss", "eval_loss") if name in other]
        differences += [abs(entry[name] / other[name] - 1) for name in losses]
    assert max(differences) <= tolerance
    return max(differences)


def test_two_processes_are_as_good_as_one(alone: Path, two: tuple[Path, str]) -> None:
    difference = assert_same_run(two[0], alone)
    print(f"largest relative difference of losses: {difference:.1e}")
    ours = load_file(two[0] / "export" / "model.safetensors")
    for name, tensor in load_file(alone / "export" / "model.safetensors").items():
        np.testing.assert_allclose(ours[name], tensor, atol=3e-4, err_msg=name)


def test_the_first_process_writes_and_speaks(two: tuple[Path, str]) -> None:
    workdir, said = two
    assert {path.name for path in workdir.iterdir()} == {
        *("checkpoints", "config.json", "curves.png", "export", "first_step.json", "metrics.jsonl")
    }
    assert [e["step"] for e in figures(workdir)] == list(range(1, LAST + 1)), "each line once"
    assert len(re.findall(r"^\[0\] step=8/8 ", said, re.MULTILINE)) == 1
    assert "[0] done: " in said
    assert "[1] step=" not in said
    assert "[1] done" not in said


@pytest.mark.slow
def test_four_processes_are_as_good_as_one(alone: Path, place: Path) -> None:
    workdir = place / "four"
    finish(launch_command(4, 1, train_command(place, workdir, *FSDP)))
    print(f"largest relative difference of losses: {assert_same_run(workdir, alone):.1e}")


@pytest.mark.slow
def test_a_tensor_axis_over_two_processes_is_as_good_as_one(alone: Path, place: Path) -> None:
    """Both processes then hold the same rows."""
    workdir = place / "tensor"
    axes = ("--mesh.data", "1", "--mesh.tensor", "2")
    finish(launch_command(2, 1, train_command(place, workdir, *axes)))
    print(f"largest relative difference of losses: {assert_same_run(workdir, alone):.1e}")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "hubert"])
def test_two_processes_of_the_other_tasks(place: Path, task: str) -> None:
    """Strictly: nothing in them is chosen by the largest of two close values."""
    more: tuple[str, ...] = ()
    if task == "hubert":
        labels = place / "labels"
        finish(
            [
                *(sys.executable, "-m", "tools.make_labels", "--features", "mfcc"),
                *("--clusters", "8", "--data.folder", str(place / "audio")),
                *("--data.data-dir", str(place / "cache"), "--out", str(labels)),
            ]
        )
        more = ("--data.labels", str(labels))
    workdirs = [place / f"{task}{count}" for count in (1, 2)]
    commands = [train_command(place, w, *FSDP, *more, function=task) for w in workdirs]
    finish(commands[0], 4)
    finish(launch_command(2, 2, commands[1]))
    difference = assert_same_run(workdirs[1], workdirs[0])
    print(f"largest relative difference of losses: {difference:.1e}")


@pytest.mark.thorough
def test_a_run_goes_on_with_other_devices_and_processes(place: Path, tmp_path: Path) -> None:
    """Saved on 8 devices, restored on 1 and on 2 processes with 2 each: same state, same data."""
    saved = tmp_path / "saved"
    half = ("--train.num-steps", "4")
    finish(train_command(place, saved, *half, "--mesh.data", "2", "--mesh.fsdp", "4"), 8)
    assert {path.name for path in (saved / "checkpoints").iterdir()} == {"4"}
    few, several = tmp_path / "one", tmp_path / "several"
    for workdir in (few, several):
        shutil.copytree(saved, workdir)
    longer = "--accept-changes"  # it had ended
    finish(train_command(place, few, longer), 1)
    finish(launch_command(2, 2, train_command(place, several, longer, *FSDP)))
    assert_same_run(several, few)
    assert digest(several, 4) == digest(few, 4) == digest(saved, 4)
    for workdir in (few, several):
        (resumed,) = (e for e in events(workdir) if e["event"] == "resume")
        assert resumed["step"] == 4
        changed = {change["field"] for change in resumed["changed"]}
        assert changed - {"mesh.data"} == {"mesh.fsdp", "train.num_steps"}
    ours, theirs = state_of(several, LAST), state_of(few, LAST)
    assert ours.keys() == theirs.keys()
    assert int(ours["['step']"]) == LAST


def strike(place: Path, workdir: Path, index: int, *more: str, how: str) -> tuple[int, str, float]:
    """Does something to one of two running processes; exit code, output, seconds until the end."""
    psutil = pytest.importorskip("psutil")
    long = ("--train.num-steps", "100000", "--train.checkpoint-every-steps", "50000", *more)
    command = launch_command(2, 1, train_command(place, workdir, *long), "--grace-seconds", "5")
    launcher = start(command)
    output = []
    assert launcher.stdout is not None
    for line in launcher.stdout:
        output.append(line)
        if "[0] step=5/" in line:  # by then everything is compiled, the evaluation at 4 too
            break
    children = psutil.Process(launcher.pid).children()
    # The last word of a command is that of --processes.index.
    getattr(next(c for c in children if c.cmdline()[-1] == str(index)), how)()
    began = time.monotonic()
    rest, _ = launcher.communicate(timeout=100)
    return launcher.returncode, "".join(output) + rest, time.monotonic() - began


@pytest.mark.slow  # the drill does it too, without looking at the messages
def test_sigterm_to_one_of_two_stops_both_at_one_step(place: Path, tmp_path: Path) -> None:
    code, said, seconds = strike(place, tmp_path / "run", 1, how="terminate")
    assert code == STOPPED, said
    assert seconds < 60
    stopped = re.findall(r"^\[([01])\] stopped: SIGTERM at step (\d+): state saved", said, re.M)
    assert sorted(index for index, _ in stopped) == ["0", "1"], said
    assert len({step for _, step in stopped}) == 1
    assert (tmp_path / "run" / "checkpoints" / stopped[0][1]).is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_killed_process_stops_the_other(place: Path, tmp_path: Path, index: int) -> None:
    code, said, seconds = strike(place, tmp_path / "run", index, how="kill")
    assert code in (137, LOST_ANOTHER), said
    survivor = 1 - index
    lost = f"[{survivor}] error: another process was lost" in said
    # Where process 0 is gone, JAX may abort the other from C++ before it can speak itself.
    aborted = f"[{survivor}] F" in said and "JAX distributed service detected fatal errors" in said
    assert lost or (index == 0 and aborted), said
    ended = rf"process {survivor} (exited with 134|was killed by SIGABRT), as when another process"
    assert re.search(ended, said), said
    assert f"process {index} was killed by SIGKILL" in said
    assert seconds < 30


@pytest.mark.slow
def test_a_process_that_falls_silent_stops_the_other(place: Path, tmp_path: Path) -> None:
    """As a host that is lost: no connection is reset, only heartbeats are missing."""
    heartbeat = ("--processes.heartbeat-timeout-seconds", "10")
    code, said, seconds = strike(place, tmp_path / "run", 1, *heartbeat, how="suspend")
    assert code == LOST_ANOTHER, said
    assert "stopped sending heartbeats" in said
    assert "process 1 is killed: it did not end by itself" in said
    assert seconds < 10 + 5 + 30


@pytest.mark.thorough
def test_an_error_in_one_process_ends_all(place: Path, tmp_path: Path) -> None:
    """Wrong in all of them, and found by process 0: the others do not wait for it."""
    workdir = tmp_path / "run"
    command = launch_command(
        2, 1, train_command(place, workdir, "--data.folder", str(tmp_path / "none"))
    )
    began = time.monotonic()
    output = finish(command, 1, BAD_DATA)
    assert time.monotonic() - began < 60
    assert "no such folder" in output
    assert "[1] error: process 0 failed while opening the corpus" in output
    assert "Traceback" not in output


WRONG = {
    "part of the three": (["--processes.count", "2"], "give all three"),
    "auto and more": (
        ["--processes.auto", "--processes.count", "2"],
        "the environment decides all of it",
    ),
    "no port": (
        ["--processes.coordinator", "here", "--processes.count", "2", "--processes.index", "0"],
        "must be HOST:PORT",
    ),
    "index too high": (
        ["--processes.coordinator", "h:1", "--processes.count", "2", "--processes.index", "2"],
        "must be from 0 to 1",
    ),
    "no process": (
        ["--processes.coordinator", "h:1", "--processes.count", "0", "--processes.index", "0"],
        "must be at least 1",
    ),
    "no time": (["--processes.heartbeat-timeout-seconds", "0"], "must be at least 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_flags_that_do_not_fit_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    more, message = WRONG[case]
    with pytest.raises(SystemExit) as refused:
        main(train_command(place, tmp_path / "run", *more)[5:])
    assert refused.value.code == WRONG_USAGE
    errors = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in errors
    assert "--processes." in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


def test_flags_reach_the_start(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda **values: given.update(values))
    flags = ("--processes.coordinator", "h:1", "--processes.count", "3", "--processes.index", "2")
    more = (*flags, "--processes.heartbeat-timeout-seconds", "7")
    parse(train_command(place, place / "x", *more)[5:]).processes.start()
    assert given["coordinator_address"] == "h:1"
    assert (given["num_processes"], given["process_id"]) == (3, 2)
    assert given["heartbeat_timeout_seconds"] == 7
    assert given["cluster_detection_method"] == "deactivate"
    given.clear()
    Processes(auto=True).start()
    assert given["coordinator_address"] is None
    assert given["cluster_detection_method"] is None
    given.clear()
    Processes().start()
    assert given == {}


def test_auto_where_there_is_nothing_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**values: object) -> None:
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fails)
    with pytest.raises(ConfigError, match=r"--processes\.auto: nothing here says"):
        Processes(auto=True).start()


@pytest.mark.parametrize(
    ("given", "who"),
    [
        (Processes(auto=True), "--processes.auto"),
        (Processes("h:1", 2, 1), "process 1 of 2, coordinator h:1"),
    ],
)
def test_processes_that_do_not_come_together(
    monkeypatch: pytest.MonkeyPatch, given: Processes, who: str
) -> None:
    reason = ""

    def fails(**values: object) -> None:
        raise RuntimeError(f"{reason}\nmore of it")

    monkeypatch.setattr(jax.distributed, "initialize", fails)
    reason = "UNAVAILABLE: the port is taken"
    with pytest.raises(OSError, match=f"^{who}: {reason}$"):
        given.start()
    reason = "DEADLINE_EXCEEDED: Barrier timed out"
    with pytest.raises(OSError, match=f"^{who}: {reason}; not all came together within 300 s$"):
        given.start()


def test_another_newest_checkpoint_than_that_of_process_0_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "first_does", lambda work, what: "4")
    with (
        Checkpoints(tmp_path, keep=1) as checkpoints,
        pytest.raises(ConfigError, match=f"{tmp_path}: the newest checkpoint of this process"),
    ):
        newest_step(checkpoints)


def test_a_workdir_without_the_lock_of_process_0_is_another_one(tmp_path: Path) -> None:
    with WorkdirLock(tmp_path):
        processes.require_shared(tmp_path, LOCK)
    with pytest.raises(ConfigError, match=r"--workdir .* lock\.json .* that all hosts share"):
        processes.require_shared(tmp_path, LOCK)


def test_one_process_is_the_first_and_waits_for_nobody() -> None:
    assert processes.is_first()
    assert not processes.several()
    assert not processes.told_to_stop(3)
    assert processes.first_does(lambda: [1], "counting") == [1]
    processes.require_same("a", "it")
    arrays = {"a": jax.numpy.ones(2)}
    assert processes.whole(arrays) is arrays
    processes.leave(3)


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh needs to know of a device of another process."""

    id: int
    process_index: int


@pytest.mark.parametrize(
    ("owners", "tensor", "expected"),
    [
        ([0, 0, 1, 1], 1, ((0, 1), 4)),
        ([1, 0, 1, 0], 1, ((1, 3), 4)),
        ([0, 0, 1, 1], 2, ((0,), 2)),
        ([0, 1, 0, 1], 2, ((0, 1), 2)),
        ([1, 1, 0, 1], 4, ((0,), 1)),
    ],
)
def test_a_process_reads_the_rows_of_its_devices(
    owners: list[int], tensor: int, expected: tuple[tuple[int, ...], int]
) -> None:
    devices = np.array([Device(i, owner) for i, owner in enumerate(owners)], dtype=object)

    axes = {"data": 4 // tensor, "fsdp": 1, "tensor": tensor}
    grid = SimpleNamespace(shape=axes, devices=devices.reshape(*axes.values()))
    assert sharding.batch_share(cast(Mesh, grid)) == expected


SCRIPT = """
import sys, time
index = int(sys.argv[-1])
print("here is", index, flush=True)
{body}
"""


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("", 0, "[1] here is 1"),
        ("sys.exit(75)", STOPPED, "[0] here is 0"),
        ("sys.exit(3 if index else 0)", BAD_DATA, "process 1 exited with 3"),
        ("sys.exit(1) if index else time.sleep(60)", FAILED, "process 0 is killed"),
        (
            "import os; os.kill(os.getpid(), 9) if index else time.sleep(60)",
            137,
            "process 1 was killed by SIGKILL; the others have 1 s to end",
        ),
    ],
)
def test_the_launcher_ends_all_and_says_why(body: str, code: int, said: str) -> None:
    command = [sys.executable, "-c", SCRIPT.format(body=body)]
    output = finish(launch_command(2, 1, command, "--grace-seconds", "1"), 1, code)
    assert said in output


def test_the_launcher_passes_a_signal_on() -> None:
    body = "import signal; signal.signal(15, lambda *_: sys.exit(75)); print('set', flush=True)"
    command = [sys.executable, "-c", SCRIPT.format(body=f"{body}; time.sleep(60)")]
    launcher = start(launch_command(2, 1, command))
    assert launcher.stdout is not None
    seen = 0
    while seen < 2:
        seen += "set" in launcher.stdout.readline()
    launcher.send_signal(signal.SIGINT)
    output, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == STOPPED, output
    assert "SIGINT: telling all processes" in output


def test_the_launcher_wants_a_command() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tools.launch_local", "--processes", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == WRONG_USAGE
    assert "a command after --" in ended.stderr
