"""Who may import whom, how long a module may be, and what names may stand side by side.

Read from the source; nothing is run.
"""

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INSTALLED = ("voc2vec_jax", "data_pipelines")
CHECKOUT_ONLY = ("tools", "configs", "tests", "conftest")
"""Folders that an installed package does not bring, so that nothing may need them."""

GROUND = ("errors", "files", "pictures")
ROOMS: dict[str, tuple[str, ...]] = {
    "train, evaluate, embed, predict": ("cli",),
    "cli": (
        *("evaluation", "training", "features", "objectives", "checkpoints", "distributed"),
        *("scores", "compiling", "config", "audio", "errors"),
        *("data_pipelines.preparation", "data_pipelines.batches", "data_pipelines.corpora"),
        "data_pipelines.stores",
    ),
    "evaluation": (
        *("training", "features", "objectives", "checkpoints", "distributed", "models"),
        *("scores", "compiling", "config", "audio", *GROUND),
    ),
    "training": (
        *("objectives", "checkpoints", "distributed", "models", "compiling", "config", "audio"),
        *GROUND,
    ),
    "features": ("checkpoints", "distributed", "models", "compiling", "audio", "files", "errors"),
    "checkpoints": ("distributed", "models", "config", "audio", "files", "errors"),
    "objectives": ("models", "ops", "scores", "config", "audio"),
    "models": ("ops", "config", "audio"),
    "ops": (),
    "distributed": ("config", "errors"),
    "data_pipelines.preparation": (
        *("data_pipelines.builders", "data_pipelines.corpora", "data_pipelines.stores"),
        *("audio", "files", "errors"),
    ),
    "data_pipelines.builders": (
        *("data_pipelines.corpora", "data_pipelines.stores", "audio", "files", "errors"),
    ),
    "data_pipelines.batches": (
        *("data_pipelines.corpora", "data_pipelines.frame_labels", "data_pipelines.stores"),
        *("config", "audio", "errors"),
    ),
    "data_pipelines.frame_labels": ("data_pipelines.stores", "audio", "files", "errors"),
    "data_pipelines.corpora": (
        *("data_pipelines.stores", "data_pipelines.synthetic"),
        *("config", "audio", "files", "errors"),
    ),
    "data_pipelines.stores": ("audio", "files", "pictures", "errors"),
    "data_pipelines.synthetic": ("audio",),
    "scores": ("config",),
    "compiling": ("audio",),
    "config": ("audio", "errors"),
    "audio": ("errors",),
    "pictures": ("files",),
    "files": (),
    "errors": (),
}
"""Room, and the rooms that it may import. Without a prefix they are those of `voc2vec_jax`. A room
imports only what stands below it, so that no two import each other; CONTRIBUTING shows it too."""

LIGHT = {
    "voc2vec_jax.config",
    *(
        f"voc2vec_jax.config.{name}"
        for name in ("data", "families", "model", "recipe", "run", "train")
    ),
    "voc2vec_jax.audio.signal",
    "voc2vec_jax.audio.decode",
    "voc2vec_jax.audio.frame_grid",
    "voc2vec_jax.audio.segments",
    "voc2vec_jax.audio.separated_cells",
    "voc2vec_jax.audio.spelling",
    "voc2vec_jax.audio.tables",
    "voc2vec_jax.audio.walking",
    "voc2vec_jax.errors",
    "voc2vec_jax.files",
}
"""What the data pipeline and `--help` load; no JAX in it."""

MAX_LINES = 300
LONGER_FOR_A_REASON: dict[str, str] = {}
"""Path from the root to the argument for its length."""

ALIKE_FOR_A_REASON = {
    ("evaluate", "evaluation"): "the command has its name by contract; the room is what it calls",
    ("train", "training"): "the same",
    ("fairseq", "fairseq_config"): "two halves of one format, 540 lines together",
    ("asvp_esd", "asvp_esd_babies"): "two datasets by these names",
}
"""Siblings whose names begin alike, and why that is right."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_package(path: Path) -> bool:
    return path.name == "__init__.py"


MODULES = {module_name(path): path for path in sources(*INSTALLED, "tools", "configs")}


def imports(text: str, name: str, *, package: bool = False) -> Iterator[str]:
    """Full names of all modules that a source imports, wherever in it the statement stands.

    `from package import name` counts as `package.name` where that is a module of this repository,
    and as `package` where it is not.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")[: len(name.split(".")) - node.level + package]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in MODULES else base
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            first = node.args[0] if node.args else None
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield str(first.value)


IMPORTS = {
    name: set(imports(path.read_text(encoding="utf-8"), name, package=is_package(path)))
    for name, path in MODULES.items()
}


def top(name: str) -> str:
    return name.split(".")[0]


def room_of(name: str) -> str | None:
    """The row of `ROOMS` that a module belongs to; None for the packages' front doors."""
    package, _, rest = name.partition(".")
    room = rest.split(".")[0]
    if not room:
        return None
    if package == "data_pipelines":
        return f"data_pipelines.{room}"
    commands = next(iter(ROOMS))
    return commands if room in commands.split(", ") else room


def of_packages(*packages: str) -> dict[str, set[str]]:
    found = {name: IMPORTS[name] for name in IMPORTS if top(name) in packages}
    assert found, packages
    return found


def offenders(found: dict[str, set[str]], forbidden: set[str]) -> dict[str, set[str]]:
    """Modules of `found` that import a top-level package of `forbidden`."""
    bad = {name: {i for i in used if top(i) in forbidden} for name, used in found.items()}
    return {name: used for name, used in bad.items() if used}


def test_the_reader_sees_every_form_of_import() -> None:
    text = """
import a, b.c as d
from e.f import g
from voc2vec_jax import train, __version__
from .checkpoints import source
from .models.encoder import Encoder
def later():
    if True:
        import h
        importlib.import_module("i.j")
        __import__("k")
"""
    assert set(imports(text, "voc2vec_jax.here")) == {
        "a",
        "b.c",
        "e.f",
        "voc2vec_jax.train",
        "voc2vec_jax",
        "voc2vec_jax.checkpoints.source",
        "voc2vec_jax.models.encoder",
        "h",
        "i.j",
        "k",
    }
    in_package = set(imports("from . import encoder", "voc2vec_jax.models", package=True))
    assert in_package == {"voc2vec_jax.models.encoder"}
    assert set(MODULES) >= LIGHT


def test_the_table_of_rooms_has_no_way_up() -> None:
    order = list(ROOMS)
    for room, below in ROOMS.items():
        assert all(order.index(other) > order.index(room) for other in below), room
        assert len(set(below)) == len(below), room


def test_every_room_imports_only_what_it_may() -> None:
    """And what it may it does: an arrow that is no longer there goes out of the table."""
    arrows: dict[str, set[str]] = {room: set() for room in ROOMS}
    for name, used in of_packages(*INSTALLED).items():
        room = room_of(name)
        if room is None:
            continue
        assert room in ROOMS, f"{name}: add its room to the table"
        for other in (i for i in used if top(i) in INSTALLED):
            below = room_of(other)
            assert below is not None, f"{name}: a package's front door loads what lies behind it"
            assert below == room or below in ROOMS[room], f"{name} imports {other}"
            arrows[room].add(below)
    for room, allowed in ROOMS.items():
        assert arrows[room] - {room} == set(allowed), room


def test_contributing_shows_the_table_of_rooms() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^|]*)` \|[^|]*\| ([^|]*) \|$", text, flags=re.MULTILINE)
    shown = {
        room: tuple(re.findall(r"`([\w.]+)`", allowed)) for room, allowed in rows if room in ROOMS
    }
    assert shown == ROOMS


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_configuration_and_audio_need_neither_jax_nor_tensorflow(name: str) -> None:
    """Not even through what they import here."""
    reached, left = set(), [name]
    while left:
        module = left.pop()
        reached.add(module)
        used = IMPORTS[module]
        assert not {top(i) for i in used} & {"jax", "jaxlib", "flax", "optax", "tensorflow"}, module
        left += [i for i in used if i in MODULES and i not in reached]
    assert reached <= LIGHT


def test_help_waits_for_no_framework() -> None:
    """What a command imports before it has read its flags; in a process that has imported none."""
    commands = ("train", "evaluate", "embed", "predict")
    program = (
        f"import sys; [__import__(f'voc2vec_jax.cli.{{name}}') for name in {commands}];"
        "print(sorted({'jax', 'flax', 'tensorflow', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


def test_data_pipelines_do_without_jax() -> None:
    assert offenders(of_packages("data_pipelines"), {"jax", "jaxlib", "flax", "optax"}) == {}


def test_tensorflow_feeds_data_and_nothing_else() -> None:
    tensorflow = {"tensorflow", "tensorflow_datasets"}
    users = {top(name) for name in offenders(IMPORTS, tensorflow)}
    assert users == {"data_pipelines"}


def test_the_packages_do_without_torch() -> None:
    found = offenders(of_packages(*INSTALLED), {"torch", "torchaudio", "transformers"})
    assert found == {}


def test_private_names_of_jax_stand_in_one_place() -> None:
    private = {
        name for name, used in IMPORTS.items() if any(i.startswith("jax._src") for i in used)
    }
    assert private == {"voc2vec_jax.distributed.processes"}


def test_nothing_needs_what_only_a_checkout_has() -> None:
    for forbidden in CHECKOUT_ONLY:
        others = {name: used for name, used in IMPORTS.items() if top(name) != forbidden}
        assert offenders(others, {forbidden}) == {}


def test_no_module_imports_in_a_circle() -> None:
    """The front doors aside, which gather what lies behind them."""
    graph = {name: {i for i in used if i in MODULES} for name, used in IMPORTS.items()}
    while graph:
        leaves = {name for name, used in graph.items() if not used & graph.keys() - {name}}
        assert leaves, f"these import each other: {sorted(graph)}"
        graph = {name: used for name, used in graph.items() if name not in leaves}


def test_modules_are_short() -> None:
    for path in sources(*INSTALLED, "tools", "configs"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        name = path.relative_to(ROOT).as_posix()
        if name in LONGER_FOR_A_REASON:
            assert lines > MAX_LINES, f"{name} has become short: take its exception out"
        else:
            assert lines <= MAX_LINES, f"{name} has {lines} lines: split it, or argue for it here"


def words(name: str) -> list[str]:
    """The words of a name, without the endings of grammar."""
    stems = (re.sub(r"(ings?|ed|er|es|s|e)$", "", word) for word in name.split("_"))
    return [re.sub(r"(.)\1$", r"\1", stem) for stem in stems]  # labelled, embedding


def alike(one: str, other: str) -> bool:
    """Whether two names differ by a suffix only: a word more, or an ending."""
    pairs = zip(words(one), words(other), strict=False)
    return all(a.startswith(b) or b.startswith(a) for a, b in pairs)


def test_names_that_begin_alike_are_told_apart() -> None:
    assert alike("embed", "embedding")
    assert alike("embedding", "embedding_files")
    assert alike("labels", "label_build")
    assert alike("labelled", "labelling")
    assert not alike("hf_config", "model_card")


def test_no_two_siblings_differ_by_a_suffix() -> None:
    packages = {path.parent for path in sources(*INSTALLED) if is_package(path)}
    found = set()
    for folder in packages:
        names = {path.stem for path in folder.glob("*.py")} | {
            path.parent.name for path in folder.glob("*/__init__.py")
        }
        pairs = itertools.combinations(sorted(n for n in names if not n.startswith("__")), 2)
        found |= {pair for pair in pairs if alike(*pair)}
    assert found == set(ALIKE_FOR_A_REASON)


def test_every_exception_is_argued_for() -> None:
    assert all((ROOT / name).is_file() for name in LONGER_FOR_A_REASON)
    reasons = [*LONGER_FOR_A_REASON.values(), *ALIKE_FOR_A_REASON.values()]
    assert all(reason for reason in reasons)
