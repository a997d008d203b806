"""Compiled programs are kept from one command to the next, in JAX's own cache.

It lies in `~/.cache/voc2vec_jax/compiled`, not where corpora are kept: that folder may be one of
many people, and whoever can write into the cache can have any code run. JAX's variables win:
`JAX_COMPILATION_CACHE_DIR=DIR` is another cache, for JAX to look after alone, and
`JAX_ENABLE_COMPILATION_CACHE=0` is none.
"""

import builtins
import hashlib
import os
import platform
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

MAX_BYTES = 2 * 2**30
"""Of the programs of one jaxlib on one kind of CPU. The ones not used for longest make room."""
MIN_COMPILE_SECONDS = 0.3
"""What is compiled faster is not kept. Most programs for embeddings take less than JAX's second."""
FORGET_AFTER_DAYS = 60
"""Programs of another jaxlib or CPU that nobody has used for so long are removed."""
FOLDER, ENABLED = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
OFF = ("0", "false", "off", "no", "n", "f")
"""What JAX takes for no."""

_OF_JAX = re.compile(
    r"Error (?P<doing>reading|writing) persistent compilation cache entry for '(?P<program>[^']*)':"
    r" (?P<kind>\w+): (?P<reason>.*)",
    re.DOTALL,
)


def switch_on(say: Callable[[str], None]) -> None:
    """Has JAX keep compiled programs, unless its own settings decide; before anything is compiled.

    A cache that cannot be used is said once, and everything is compiled as without it.

    Args:
        say: Gets a line that somebody should read.
    """
    if _decided():
        return
    try:
        root = Path("~/.cache/voc2vec_jax/compiled").expanduser()
    except RuntimeError as error:  # a user without a home
        say(_unusable("~/.cache/voc2vec_jax/compiled", str(error)))
        return
    folder = root / f"jaxlib-{version('jaxlib')}-{cpu()}"
    _forget_others(root, folder)
    _set("jax_compilation_cache_dir", str(folder))
    _set("jax_compilation_cache_max_size", MAX_BYTES)
    _set("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    _say_once_for_many(folder, say)


def _decided() -> bool:
    """Whether the user, or a program around this one, has said what is to be kept where."""
    if FOLDER in os.environ or os.environ.get(ENABLED, "").lower() in OFF:
        return True
    if "jax" not in sys.modules:
        return False
    import jax

    values: dict[str, object] = jax.config.values
    return values[FOLDER.lower()] is not None or not values[ENABLED.lower()]


def _set(name: str, value: str | float) -> None:
    """Sets one of JAX's options that no variable of the environment sets."""
    if name.upper() in os.environ:
        return
    if "jax" not in sys.modules:  # commands import it late
        os.environ[name.upper()] = str(value)
        return
    import jax

    jax.config.update(name, value)


def cpu() -> str:
    """A name for what this host's CPU can do; a program made for one may not run on another.

    JAX's keys do not tell them apart, and a home folder may be shared by many hosts.
    """
    told = Path("/proc/cpuinfo")
    text = told.read_text(encoding="utf-8", errors="replace") if told.exists() else ""
    # `flags` on x86, `Features` on ARM; of the first core, in no order that means anything.
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    features = " ".join(sorted(found[1].split())) if found else platform.processor()
    known = f"{platform.system()} {platform.machine()} {features}"
    return f"{platform.machine()}-{hashlib.sha256(known.encode()).hexdigest()[:12]}"


def _forget_others(root: Path, folder: Path) -> None:
    """Removes what no host has used for long, and marks `folder` as in use."""
    oldest = time.time() - FORGET_AFTER_DAYS * 24 * 3600
    with suppress(OSError):  # JAX finds out, and says, whether the cache can be used
        if folder.is_dir():
            os.utime(folder)
        for other in root.glob("jaxlib-*"):
            if other != folder and other.stat().st_mtime < oldest:
                shutil.rmtree(other, ignore_errors=True)


def _say_once_for_many(folder: Path, say: Callable[[str], None]) -> None:
    """Puts one line in plain words in place of JAX's warning for every program."""
    before = warnings.showwarning
    told: set[bool] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        failed = _OF_JAX.match(str(message))
        if failed is None:
            before(message, category, filename, lineno, file, line)
            return
        damaged = folder.is_dir() and (
            failed["kind"] == "FileNotFoundError"  # one of an entry's two files
            or (failed["doing"] == "reading" and not _is_of_the_system(failed["kind"]))
        )
        read = failed["program"] if damaged and failed["doing"] == "reading" else None
        _remove_damaged(folder, read)
        if damaged not in told:
            told.add(damaged)
            removed = "a damaged program was removed from the cache, and is compiled again"
            say(f"{folder}: {removed}" if damaged else _unusable(str(folder), failed["reason"]))

    warnings.showwarning = show
    # Where warnings are errors, this one would end what goes on without the cache.
    warnings.filterwarnings("always", message=_OF_JAX.pattern.partition(" for ")[0])


def _unusable(folder: str, reason: str) -> str:
    return (
        f"{folder}: compiled programs cannot be kept ({reason.splitlines()[0]}), so that each"
        " start compiles anew; make it writable and see that there is room, or set"
        " JAX_COMPILATION_CACHE_DIR to another folder, or JAX_ENABLE_COMPILATION_CACHE=0 for none"
    )


def _is_of_the_system(kind: str) -> bool:
    """Whether an exception of this name says something of the disk, and nothing of an entry."""
    known = getattr(builtins, kind, None)
    # The lock of the cache has an error of its own.
    return kind == "Timeout" or (isinstance(known, type) and issubclass(known, OSError))


def _remove_damaged(folder: Path, read: str | None) -> None:
    """Removes what a kill or a full disk has left behind; JAX would stumble over it for ever.

    Args:
        folder: The cache: pairs of `KEY-cache` and `KEY-atime`, the second written last.
        read: The name of a program whose entry could not be read, if that is what happened. It is
            the one of that name that was used last.
    """
    import filelock

    with suppress(OSError, NotImplementedError), filelock.FileLock(folder / ".lockfile", 10):
        files = {path.name: path for path in folder.iterdir()}
        keys = {name.rpartition("-")[0] for name in files if name.endswith(("-cache", "-atime"))}
        bad = [key for key in keys if not {f"{key}-cache", f"{key}-atime"} <= files.keys()]
        used = {
            key: files[f"{key}-atime"].stat().st_mtime_ns
            for key in keys
            if f"{key}-atime" in files and key.rpartition("-")[0] == read
        }
        if used:
            bad.append(max(used, key=used.__getitem__))
        for key in bad:
            for name in (f"{key}-cache", f"{key}-atime"):
                (folder / name).unlink(missing_ok=True)
