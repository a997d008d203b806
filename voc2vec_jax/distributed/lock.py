"""One run per working directory, or per part of one: a lock with an owner and a heartbeat.

The lock is a file that only one process can create. Its time of change is renewed while the run is
alive, by the clock of the file system, so that hosts need not agree on the time.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from voc2vec_jax.errors import WorkdirLockedError

LOCK = "lock.json"
HEARTBEAT_SECONDS = 10.0
POLL_SECONDS = 1.0
TURN_SECONDS = 0.2
STALE_SECONDS = 60.0
"""A lock that was not renewed for so long has lost its owner."""


class WorkdirLock:
    """Held inside `with`; a lock whose owner is dead is taken over, and said so.

    Its owner is dead if it ran on this host and is gone, or if its heartbeat stopped. Of one that
    ran on another host it takes up to `STALE_SECONDS` to know.

    Args:
        workdir: Exists.
        name: Of the lock in it, where its parts are locked one by one.
        patient: Wait to know whether an owner on another host is dead; else it counts as alive
            until its heartbeat has been missing for `STALE_SECONDS`.

    Raises (on entering):
        WorkdirLockedError: Naming the owner.
    """

    def __init__(self, workdir: Path, name: str = LOCK, *, patient: bool = True):
        self._path = workdir / name
        self._patient = patient
        self._owner = json.dumps(
            {
                "host": socket.gethostname(),
                "pid_namespace": _pid_namespace(),
                "pid": os.getpid(),
                "process_started": _process_started(os.getpid()),
                "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            }
        )
        self._waits_for: tuple[str, float] | None = None  # text and time of change of its lock
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="workdir lock", daemon=True)

    def __enter__(self) -> "WorkdirLock":
        while not self._create():
            self._take_over_or_refuse()
        self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._released.set()
        self._heart.join()
        with contextlib.suppress(OSError):
            if self._is_ours():
                self._path.unlink()

    def _create(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(self._owner + "\n")
        return True

    def _take_over_or_refuse(self) -> None:
        try:
            text = self._path.read_text(encoding="utf-8")
            changed = self._path.stat().st_mtime
            age = _now(self._path.parent) - changed
        except FileNotFoundError:
            return  # it was released in the meantime
        owner = _parse(text)
        described = (
            f"process {owner.get('pid', '?')} on {owner.get('host', 'an unknown host')}"
            f" since {owner.get('since', 'an unknown time')}"
        )
        reason = _why_dead(owner, age)
        if reason is None:
            if not self._patient:
                raise WorkdirLockedError(
                    f"{self._path}: {described} is at work here, last seen {max(age, 0):.0f} s ago"
                )
            if self._waits_for is None and not _is_near(owner):
                self._waits_for = text, changed
                print(
                    f"{self._path}: {described} was last seen {max(age, 0):.0f} s ago; waiting for "
                    f"a sign of life, and taking over if {STALE_SECONDS:.0f} s pass without one",
                    file=sys.stderr,
                    flush=True,
                )
            if self._waits_for != (text, changed):
                raise WorkdirLockedError(
                    f"{self._path}: {described} is at work here, last seen {max(age, 0):.0f} s "
                    "ago; stop it, or write elsewhere (another --workdir or --out)"
                )
            time.sleep(POLL_SECONDS)
            return
        # Of two that see the same dead owner, one gets the file; it may be a new one by now.
        aside = self._path.with_name(f"{self._path.name}.{socket.gethostname()}.{os.getpid()}")
        try:
            os.rename(self._path, aside)
        except FileNotFoundError:
            return
        if aside.read_text(encoding="utf-8") != text:
            os.rename(aside, self._path)
            return
        aside.unlink()
        print(f"{self._path}: taking over from {described}: {reason}", file=sys.stderr, flush=True)

    def _is_ours(self) -> bool:
        return self._path.read_text(encoding="utf-8").strip() == self._owner

    def _beat(self) -> None:
        renewed = time.monotonic()
        while not self._released.wait(HEARTBEAT_SECONDS):
            try:
                ours = self._renew(time.monotonic() - renewed)
            except OSError:
                continue  # a file system that stumbles; the next beat tells
            if not ours:
                print(
                    f"error: {self._path}: another run has taken over this working directory; "
                    "this one stops before both write",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)
            renewed = time.monotonic()

    def _renew(self, silent_seconds: float) -> bool:
        """False if the lock is no longer ours; one that somebody has removed is made again."""
        try:
            ours = self._is_ours()
        except FileNotFoundError:
            # In a long silence another run may have taken over, and have ended.
            ours = silent_seconds < STALE_SECONDS and self._create()
        if ours:
            os.utime(self._path)
        return ours


@contextlib.contextmanager
def taking_turns(folder: Path, name: str) -> Iterator[None]:
    """A block that only one process is in at a time; others wait, also for those of other hosts.

    Args:
        folder: Exists, and is shared.
        name: Of the lock in it.
    """
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(WorkdirLock(folder, name, patient=False))
                break
            except WorkdirLockedError:
                time.sleep(TURN_SECONDS)
        yield


def _parse(text: str) -> dict[str, object]:
    try:
        owner = json.loads(text)
    except json.JSONDecodeError:  # created, and not yet written to
        return {}
    return owner if isinstance(owner, dict) else {}


def _why_dead(owner: dict[str, object], age: float) -> str | None:
    """Why the owner of a lock that was renewed `age` seconds ago is dead; None: it is not."""
    if age > STALE_SECONDS:
        return f"no heartbeat for {age:.0f} s"
    pid = owner.get("pid")
    if not _is_near(owner) or not isinstance(pid, int):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "it is no longer running"
    except PermissionError:
        pass
    started = _process_started(pid)
    if started is not None and started != owner.get("process_started"):
        return "it has ended" if started == -1 else "another process has its number now"
    return None


def _is_near(owner: dict[str, object]) -> bool:
    """Whether the number of a process means the same there and here."""
    here = socket.gethostname(), _pid_namespace()
    return (owner.get("host"), owner.get("pid_namespace")) == here


def _pid_namespace() -> str | None:
    """Containers may share the name of their host, and not the numbers of processes."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _process_started(pid: int) -> int | None:
    """Ticks from the start of the system to that of a process, where /proc knows them; -1 for one
    that has ended and was not waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return -1 if fields[0] == "Z" else int(fields[19])


def _now(directory: Path) -> float:
    """The time by the clock of a file system, in seconds."""
    probe = directory / f".clock.{socket.gethostname()}.{os.getpid()}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()
