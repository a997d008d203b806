"""One run per working directory: a lock with an owner and a heartbeat.

The lock is a file that only one process can create. Its time of change is renewed while the run is
alive, by the clock of the file system, so that hosts need not agree on the time.
"""

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A lock that was not renewed for so long has lost its owner."""


class WorkdirLockedError(OSError):
    """Another run is at work in this working directory."""


class WorkdirLock:
    """Held inside `with`; a lock whose owner is dead is taken over, and said so.

    Its owner is dead if it ran on this host and is gone, or if its heartbeat stopped.

    Args:
        workdir: Exists.

    Raises (on entering):
        WorkdirLockedError: Naming the owner.
    """

    def __init__(self, workdir: Path):
        self._path = workdir / "lock.json"
        self._owner = json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "process_started": _process_started(os.getpid()),
                "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            }
        )
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
        if self._is_ours():
            self._path.unlink(missing_ok=True)

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
            age = _now(self._path.parent) - self._path.stat().st_mtime
        except FileNotFoundError:
            return  # it was released in the meantime
        owner = _parse(text)
        described = (
            f"process {owner.get('pid', '?')} on {owner.get('host', 'an unknown host')}"
            f" since {owner.get('since', 'an unknown time')}"
        )
        reason = _why_dead(owner, age)
        if reason is None:
            raise WorkdirLockedError(
                f"{self._path}: {described} is at work here, last seen {max(age, 0):.0f} s ago; "
                f"stop it or give another --workdir (a lock whose owner is gone is taken over "
                f"after {STALE_SECONDS:.0f} s)"
            )
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
        try:
            return self._path.read_text(encoding="utf-8").strip() == self._owner
        except OSError:
            return False

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            try:
                ours = self._path.read_text(encoding="utf-8").strip() == self._owner
            except FileNotFoundError:
                ours = False
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
            os.utime(self._path)


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
    if owner.get("host") != socket.gethostname() or not isinstance(pid, int):
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
