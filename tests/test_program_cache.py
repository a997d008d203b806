"""The cache of compiled programs: on for commands, bounded, and no reason to fail or to differ."""

import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_run import QUICK_TO_COMPILE, ROOT, figures, finish, make_place, train_command
from voc2vec_jax.cli import program_cache

PROGRAM = """
import sys
from voc2vec_jax.cli.command import prepare_process
prepare_process()
import jax, jax.numpy as jnp
shape = jnp.arange(12.0)
for scale in map(float, sys.argv[1:]):
    def scaled(values):
        return jnp.sort(jnp.cumsum(values) * scale)
    print(jax.jit(scaled)(shape).sum(), jax.config.jax_compilation_cache_dir)
"""
"""Compiles as many programs of one name as there are arguments."""


def compiled(home: Path, *scales: int, **environment: str) -> tuple[list[str], str]:
    """The program in a process with its own home: lines of its output, and its standard error."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    variables |= {"HOME": str(home), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_TO_COMPILE}
    variables |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **environment}
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, *map(str, scales)],
        env=variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.splitlines(), ended.stderr


def folder_of(home: Path) -> Path:
    (folder,) = (home / ".cache" / "voc2vec_jax" / "compiled").iterdir()
    return folder


def entries(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.glob("jit_scaled-*-cache")}


def test_commands_keep_programs_and_are_silent_of_it(tmp_path: Path) -> None:
    cold, said = compiled(tmp_path, 2)
    folder = folder_of(tmp_path)
    assert said == ""
    assert re.fullmatch(r"jaxlib-[\d.]+\w*-\w+-[0-9a-f]{12}", folder.name)
    assert cold == [f"572.0 {folder}"]
    (entry,) = entries(folder).values()
    before = entry.stat().st_mtime_ns
    assert compiled(tmp_path, 2) == (cold, "")
    assert entries(folder)[entry.name].stat().st_mtime_ns == before


def test_what_is_damaged_is_removed_said_once_and_compiled_again(tmp_path: Path) -> None:
    """By a kill or a full disk: a half entry, an entry without its time, a time without entry."""
    cold, _ = compiled(tmp_path, 2, 3)
    folder = folder_of(tmp_path)
    for entry in entries(folder).values():
        entry.write_bytes(entry.read_bytes()[:-9])
    warm, said = compiled(tmp_path, 2, 3)
    assert warm == cold
    assert (
        said == f"{folder}: a damaged program was removed from the cache, and is compiled again\n"
    )
    assert compiled(tmp_path, 2, 3) == (cold, "")

    whole = next(iter(entries(folder)))
    (folder / whole.replace("-cache", "-atime")).unlink()
    (folder / "jit_scaled-none-atime").write_bytes(b"\0" * 8)
    assert compiled(tmp_path, 4)[1] == said  # JAX looks through all entries when it adds one
    assert whole not in entries(folder)
    assert not (folder / "jit_scaled-none-atime").exists()
    assert compiled(tmp_path, 2, 3, 4)[1] == ""


def test_a_cache_that_cannot_be_used_is_said_once(tmp_path: Path) -> None:
    place = tmp_path / ".cache" / "voc2vec_jax"
    place.mkdir(parents=True)
    (place / "compiled").write_text("a file in the way")
    values, said = compiled(tmp_path, 2, 3)
    assert [value.split()[0] for value in values] == ["572.0", "858.0"]
    assert said.startswith(f"{place / 'compiled'}/jaxlib-")
    assert said.count("\n") == 1
    assert ": compiled programs cannot be kept ([Errno 20] Not a directory" in said
    assert "JAX_COMPILATION_CACHE_DIR" in said


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    """A program that is there is used; no other one can be added."""
    cold, _ = compiled(tmp_path, 2)
    folder = folder_of(tmp_path)
    # Also for root: files that stand where JAX would write. A folder cannot be overwritten.
    kept = entries(folder)
    name = next(iter(kept))
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / name).mkdir()
    (folder / name.replace("-cache", "-atime")).write_bytes(b"\0" * 8)
    values, said = compiled(tmp_path, 2)
    assert values == cold
    assert said.count("\n") == 1
    assert "compiled programs cannot be kept ([Errno 21] Is a directory" in said


def test_settings_of_jax_win(tmp_path: Path) -> None:
    own = tmp_path / "own"
    values, _ = compiled(tmp_path, 2, JAX_COMPILATION_CACHE_DIR=str(own))
    assert values == [f"572.0 {own}"]
    assert len(entries(own)) == 1
    values, said = compiled(tmp_path, 2, JAX_ENABLE_COMPILATION_CACHE="0")
    assert (values, said) == (["572.0 None"], "")
    assert not (tmp_path / ".cache").exists()
    values, _ = compiled(tmp_path, 2, JAX_ENABLE_COMPILATION_CACHE="1")
    assert values == [f"572.0 {folder_of(tmp_path)}"]


@pytest.mark.thorough
def test_the_size_is_bounded(tmp_path: Path) -> None:
    compiled(tmp_path, 2)
    folder = folder_of(tmp_path)
    (entry,) = entries(folder).values()
    # What small programs come along, that one, and one more.
    room = (
        sum(path.stat().st_size for path in folder.glob("*-cache")) + 3 * entry.stat().st_size // 2
    )
    for scale in (3, 2, 4):
        assert compiled(tmp_path, scale, JAX_COMPILATION_CACHE_MAX_SIZE=str(room))[1] == ""
    left = entries(folder)
    assert len(left) == 2
    assert entry.name in left  # it was used after the one that made room


@pytest.mark.thorough
@pytest.mark.parametrize("task", ["get_config", "classify"])
def test_runs_end_with_the_same_bytes_cold_and_warm(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State is donated to a program that was read from a file, as to one that was compiled."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    place = make_place(tmp_path)
    ends = []
    for name in ("cold", "warm"):
        finish(train_command(place, tmp_path / name, function=task))
        exported = (tmp_path / name / "export").glob("*.safetensors")
        tensors = {path.name: path.read_bytes() for path in exported}
        programs = sorted(folder_of(tmp_path).glob("*-cache"))
        ends.append((tensors, figures(tmp_path / name), programs))
    assert ends[0] == ends[1]
    assert any(path.name.startswith("jit__step-") for path in ends[0][2])


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The cache of a process that has not imported JAX."""
    with warnings.catch_warnings():
        for name in (program_cache.FOLDER, program_cache.ENABLED):
            monkeypatch.delenv(name, raising=False)
        for name in (
            "JAX_COMPILATION_CACHE_MAX_SIZE",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
        ):
            monkeypatch.setenv(name, "0")  # so that what is set is taken back
            monkeypatch.delenv(name)
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        monkeypatch.delitem(sys.modules, "jax")
        monkeypatch.setenv("HOME", str(tmp_path))
        yield tmp_path / ".cache" / "voc2vec_jax" / "compiled"


def test_programs_of_other_versions_are_forgotten_when_nobody_uses_them(undecided: Path) -> None:
    old, recent, alien = (undecided / name for name in ("jaxlib-1-a", "jaxlib-2-b", "notes"))
    for folder in (old, recent, alien):
        folder.mkdir(parents=True)
        (folder / "x-cache").write_text("x")
    long_ago = time.time() - (program_cache.FORGET_AFTER_DAYS + 1) * 24 * 3600
    for folder in (old, alien):
        os.utime(folder, (long_ago, long_ago))
    said: list[str] = []
    program_cache.switch_on(said.append)
    own = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert own.parent == undecided
    assert sorted(path.name for path in undecided.iterdir()) == ["jaxlib-2-b", "notes"]
    assert os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] == str(2 * 2**30)

    own.mkdir()
    os.utime(own, (long_ago, long_ago))
    del os.environ["JAX_COMPILATION_CACHE_DIR"]
    program_cache.switch_on(said.append)
    assert own.stat().st_mtime > long_ago + 24 * 3600  # it is in use
    assert said == []


def test_hosts_with_other_cpus_have_other_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = iter(("flags\t: sse avx\n", "flags\t: avx sse\nflags\t: x\n", "flags\t: sse\n", "none"))
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path, **how: next(texts))
    one, reordered, less, unknown = (program_cache.cpu() for _ in range(4))
    assert one == reordered
    assert len({one, less, unknown}) == 3
