"""The fault drill, and the faults that it leaves out: corrupt checkpoints and two runs at once."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.drill import drill, passed
from tests.small_run import make_place, start, train_command
from tests.test_trainer import CONFIG, Clips, figures, run
from voc2vec_jax.checkpoints.checksums import damage, newest_whole, write_sums
from voc2vec_jax.distributed import lock
from voc2vec_jax.distributed.lock import WorkdirLock
from voc2vec_jax.errors import (
    BAD_DATA,
    FAILED,
    CorruptCheckpointError,
    WorkdirLockedError,
    exit_code,
)

pytestmark = [pytest.mark.unoptimised, pytest.mark.usefixtures("shared_programs")]


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize(("processes", "faults"), [(1, 18), (2, 12)])
def test_faults_at_random_moments_leave_no_trace(
    tmp_path: Path, processes: int, faults: int
) -> None:
    """In start-up, in an update, in a log line, in a save: wherever they happen to fall."""
    report = drill(make_place(tmp_path), processes, faults, seed=0)
    print(json.dumps(report, indent=2))
    assert passed(report), report


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], Path]:
    """A run with the checkpoints of steps 8 and 9."""
    workdir = tmp_path_factory.mktemp("whole")
    return run(workdir, Clips()), workdir


def truncate_largest(step: Path) -> None:
    largest = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def flip_a_bit(step: Path) -> None:
    largest = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


DAMAGES = {
    "truncated file": (truncate_largest, "bytes instead of"),
    "flipped bit": (flip_a_bit, "other bytes than were written"),
    "no metadata": (lambda step: (step / "_CHECKPOINT_METADATA").unlink(), "METADATA is missing"),
    "no state": (lambda step: shutil.rmtree(step / "state"), "state/ is missing"),
    "missing file": (lambda step: next((step / "state").rglob("d/*")).unlink(), "is missing"),
    "garbage": (
        lambda step: [p.write_bytes(b"\0garbage") for p in step.rglob("*") if p.is_file()],
        "is garbage",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_corrupt_newest_checkpoint_falls_back_loudly_to_the_one_before(
    whole: tuple[dict[str, bytes], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    params, undisturbed = whole
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    harm, reason = DAMAGES[kind]
    harm(workdir / "checkpoints" / "9")
    assert run(workdir, Clips()) == params
    said = capsys.readouterr().err
    assert "WARNING: checkpoint 9 is corrupt (" in said
    assert reason in said
    assert (workdir / "checkpoints" / "corrupt-9").is_dir()
    assert damage(workdir / "checkpoints" / "9") is None, "it was written anew"
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    events = [line for line in lines if "event" in line]
    assert [event["event"] for event in events] == ["resume", "corrupt_checkpoint"]
    assert events[1]["step"] == 8
    assert reason in events[1]["what"]
    assert figures(workdir) == figures(undisturbed)


def test_a_run_without_a_whole_checkpoint_does_not_begin_anew(
    whole: tuple[dict[str, bytes], Path], tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(whole[1], workdir)
    for step in ("8", "9"):
        truncate_largest(workdir / "checkpoints" / step)
    before = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    for _ in range(2):  # nor at the second try
        with pytest.raises(CorruptCheckpointError, match=r"no checkpoint is whole \(9: .*; 8: "):
            run(workdir, Clips())
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == before
    assert exit_code(CorruptCheckpointError()) == BAD_DATA


def test_a_checkpoint_without_sums_is_believed(
    whole: tuple[dict[str, bytes], Path], tmp_path: Path
) -> None:
    """Those of earlier versions have none."""
    shutil.copytree(whole[1] / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "9" / "checksums.json").unlink()
    assert newest_whole(tmp_path / "checkpoints") == (9, {})
    assert newest_whole(tmp_path / "nothing") == (None, {})


@pytest.mark.parametrize("unreadable", ["_CHECKPOINT_METADATA", "checksums.json", "state/a"])
def test_a_file_that_cannot_be_read_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreadable: str
) -> None:
    """As on a disk with a bad block."""
    for step in ("1", "2"):
        for name in ("meta/a", "state/a"):
            (tmp_path / step / name).parent.mkdir(parents=True)
            (tmp_path / step / name).write_text("a")
        write_sums(tmp_path / step)
        (tmp_path / step / "_CHECKPOINT_METADATA").write_text("{}")
    assert newest_whole(tmp_path) == (2, {})
    open_file = Path.open

    def stumble(path: Path, *mode: Any, **how: Any) -> Any:
        if path == tmp_path / "2" / unreadable:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return open_file(path, *mode, **how)

    monkeypatch.setattr(Path, "open", stumble)
    step, damaged = newest_whole(tmp_path)
    assert step == 1
    assert damaged == {2: f"{unreadable} cannot be read ([Errno 5] Input/output error)"}


def test_a_corrupt_checkpoint_of_another_run_is_passed_over_and_left(
    whole: tuple[dict[str, bytes], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from voc2vec_jax.objectives import Wav2Vec2Task
    from voc2vec_jax.training.loop import fit

    other, workdir = tmp_path / "other", tmp_path / "run"
    shutil.copytree(whole[1], other)
    truncate_largest(other / "checkpoints" / "9")
    workdir.mkdir()
    fit(CONFIG, Wav2Vec2Task(CONFIG), Clips(), workdir, resume=other)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    first, second = (json.loads(line) for line in lines[:2])
    assert first == {"event": "resume", "step": 8}
    assert (second["event"], second["step"]) == ("corrupt_checkpoint", 8)
    corrupt = other / "checkpoints" / "9"
    assert re.fullmatch(rf"{corrupt} is corrupt \(.* bytes .*\): passed over, .* 8", second["what"])
    assert f"WARNING: {second['what']}" in capsys.readouterr().err
    assert (other / "checkpoints" / "9").is_dir()


def test_a_second_run_in_a_workdir_is_refused(tmp_path: Path) -> None:
    with WorkdirLock(tmp_path):
        with (
            pytest.raises(
                WorkdirLockedError, match=rf"process {os.getpid()} on .* is at work here"
            ) as refused,
            WorkdirLock(tmp_path),
        ):
            pass
        assert exit_code(refused.value) == FAILED
        assert (tmp_path / "lock.json").exists(), "the refused one has not taken it away"
    assert not any(tmp_path.iterdir())
    with WorkdirLock(tmp_path):
        pass


def leave_lock(workdir: Path, **owner: object) -> Path:
    path = workdir / "lock.json"
    namespace = os.readlink("/proc/self/ns/pid") if Path("/proc").exists() else None
    here = {"host": lock.socket.gethostname(), "pid_namespace": namespace}
    path.write_text(json.dumps({**here, **owner}))
    return path


def test_the_lock_of_a_dead_process_is_taken_over_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    leave_lock(tmp_path, pid=child.pid, process_started=1)
    with WorkdirLock(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert f"taking over from process {child.pid}" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_process_that_got_the_number_of_a_dead_one_is_no_owner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_lock(tmp_path, pid=os.getpid(), process_started=-5)
    with WorkdirLock(tmp_path):
        pass
    assert "another process has its number now" in capsys.readouterr().err


ELSEWHERE = {"another host": {"host": "elsewhere"}, "a container": {"pid_namespace": "pid:[1]"}}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_lock_from_elsewhere_is_waited_for_until_it_is_stale(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
) -> None:
    """The number of its owner says nothing here: that of this test, or that of no process."""
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.5)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.01)
    for pid in (os.getpid(), 2**30):
        leave_lock(tmp_path, pid=pid, **ELSEWHERE[where])
        began = time.monotonic()
        with WorkdirLock(tmp_path):
            assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
        assert time.monotonic() - began > 0.4
        said = capsys.readouterr().err
        assert said.count("waiting for a sign of life") == 1
        assert f"taking over from process {pid} on" in said


def test_a_lock_from_elsewhere_that_is_renewed_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = leave_lock(tmp_path, host="elsewhere", pid=1)
    before = path.read_text()
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            os.utime(path, (time.time() - 5, time.time() - 5))  # other than it was

    monkeypatch.setattr(lock.time, "sleep", sleep)
    with (
        pytest.raises(WorkdirLockedError, match=r"process 1 on elsewhere .* is at work here"),
        WorkdirLock(tmp_path),
    ):
        pass
    assert len(naps) == 3
    assert path.read_text() == before


def test_a_lock_that_is_long_stale_is_taken_over_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = leave_lock(tmp_path, host="elsewhere", pid=1)
    long_ago = time.time() - lock.STALE_SECONDS - 1
    os.utime(path, (long_ago, long_ago))
    with WorkdirLock(tmp_path):
        pass
    said = capsys.readouterr().err
    assert "no heartbeat for 6" in said
    assert "waiting" not in said


def until(path: Path, beat: Callable[[Path], bool]) -> None:
    deadline = time.monotonic() + 20
    while not beat(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_heartbeat_renews_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "lock.json"
    with WorkdirLock(tmp_path):
        os.utime(path, (1, 1))
        until(path, lambda path: path.stat().st_mtime > 2)


def test_the_heart_goes_on_when_the_file_system_stumbles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    set_time, failed = os.utime, []

    def stumble(path: Path) -> None:
        if len(failed) < 3:
            failed.append(path)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        set_time(path)

    with WorkdirLock(tmp_path):
        set_time(tmp_path / "lock.json", (1, 1))
        monkeypatch.setattr(lock.os, "utime", stumble)
        until(tmp_path / "lock.json", lambda path: path.stat().st_mtime > 2)
    assert len(failed) == 3


def test_a_lock_that_was_removed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    with WorkdirLock(tmp_path):
        path = tmp_path / "lock.json"
        owner = path.read_text()
        path.unlink()
        until(path, lambda path: path.exists() and path.read_text() == owner)
    assert not path.exists()


def test_a_lock_that_is_gone_after_a_long_silence_is_lost(tmp_path: Path) -> None:
    """Another run may have taken over, and have ended."""
    assert not WorkdirLock(tmp_path)._renew(lock.STALE_SECONDS + 1)
    assert not any(tmp_path.iterdir())


def test_a_run_whose_lock_was_taken_stops(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from voc2vec_jax.distributed import lock as w;"
        "w.HEARTBEAT_SECONDS = 0.05; lock = w.WorkdirLock(pathlib.Path(sys.argv[1]));"
        "lock.__enter__(); (pathlib.Path(sys.argv[1]) / 'lock.json').write_text('{}');"
        "time.sleep(60)"
    )
    ended = subprocess.run(
        ["python3", "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=50
    )
    assert ended.returncode == 1
    assert "another run has taken over" in ended.stderr


def wait_for_checkpoint(process: subprocess.Popen[str], workdir: Path, step: int) -> None:
    deadline = time.monotonic() + 200
    while not (workdir / "checkpoints" / str(step)).exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.thorough
def test_data_that_vanish_stop_a_run_with_its_checkpoints_whole(tmp_path: Path) -> None:
    place, workdir = make_place(tmp_path), tmp_path / "run"
    command = train_command(place, workdir, "--train.num-steps", "100000")
    running = start(command)
    wait_for_checkpoint(running, workdir, 4)
    (samples,) = place.glob("cache/*/samples.int16")
    os.truncate(samples, 0)
    output, _ = running.communicate(timeout=100)
    assert running.returncode == BAD_DATA, output
    assert "samples.int16: has been cut short" in output
    assert "Traceback" not in output
    step, damaged = newest_whole(workdir / "checkpoints")
    assert step is not None
    assert damaged == {}
    assert not (workdir / "lock.json").exists()


@pytest.mark.thorough
def test_two_commands_in_one_workdir_and_a_crash(tmp_path: Path) -> None:
    """The second is refused while the first lives, and goes on at once when it was killed."""
    place, workdir = make_place(tmp_path), tmp_path / "run"
    command = train_command(place, workdir, "--train.num-steps", "100000")
    first = start(command)
    wait_for_checkpoint(first, workdir, 4)
    second = start(command)
    output, _ = second.communicate(timeout=100)
    assert second.returncode == FAILED, output
    assert f"process {first.pid} on" in output
    assert "Traceback" not in output
    first.kill()
    first.communicate()
    third = start(train_command(place, workdir, "--train.num-steps", "100000"))
    step = newest_whole(workdir / "checkpoints")[0]
    assert step is not None
    wait_for_checkpoint(third, workdir, step + 4)
    third.send_signal(signal.SIGTERM)
    output, _ = third.communicate(timeout=100)
    assert third.returncode == 75, output
    assert f"taking over from process {first.pid}" in output
    assert not (workdir / "lock.json").exists()
