"""Who may import whom, and how long a module may be; read from the source, nothing is run."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INSTALLED = ("voc2vec_jax", "data_pipelines")
CHECKOUT_ONLY = ("tools", "configs", "tests", "conftest")
"""Folders that an installed package does not bring, so that nothing may need them."""

LIGHT = {
    f"voc2vec_jax.{name}"
    for name in (
        "config",
        "config.model",
        "config.recipe",
        "config.run",
        "config.train",
        "audio.signal",
        "audio.decode",
    )
}
"""What the data pipeline and `--help` load; no JAX in it."""
BELOW_MODELS = LIGHT | {"voc2vec_jax"}
"""What models may use besides each other."""
FOR_DATA = {"voc2vec_jax.config", "voc2vec_jax.audio.signal"}
"""What data pipelines may use of the other package."""

MAX_LINES = 300
LONGER_FOR_A_REASON: dict[str, str] = {
    "voc2vec_jax/training/loop.py": "its import lines grew in the move; its errors are to leave it",
}
"""Path from the root to the argument for its length."""


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
    assert set(MODULES) >= LIGHT | FOR_DATA


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


def test_only_commands_join_training_and_data() -> None:
    found = offenders(of_packages("voc2vec_jax"), {"data_pipelines"})
    assert found.keys() == {"voc2vec_jax.cli.train", "voc2vec_jax.cli.evaluate"}


def test_data_pipelines_use_configuration_and_audio_only() -> None:
    ours = {
        name: {i for i in used if top(i) == "voc2vec_jax"} - FOR_DATA
        for name, used in of_packages("data_pipelines").items()
    }
    assert {name: used for name, used in ours.items() if used} == {}


def test_data_pipelines_do_without_jax() -> None:
    assert offenders(of_packages("data_pipelines"), {"jax", "jaxlib", "flax", "optax"}) == {}


def test_tensorflow_feeds_data_and_nothing_else() -> None:
    tensorflow = {"tensorflow", "tensorflow_datasets"}
    users = {top(name) for name in offenders(IMPORTS, tensorflow)}
    assert users == {"data_pipelines"}


def test_the_packages_do_without_torch() -> None:
    found = offenders(of_packages(*INSTALLED), {"torch", "torchaudio", "transformers"})
    assert found == {}


def test_nothing_needs_what_only_a_checkout_has() -> None:
    for forbidden in CHECKOUT_ONLY:
        others = {name: used for name, used in IMPORTS.items() if top(name) != forbidden}
        assert offenders(others, {forbidden}) == {}


def test_models_import_nothing_above_them() -> None:
    models = {n: used for n, used in IMPORTS.items() if n.startswith("voc2vec_jax.models")}
    assert len(models) > 5
    for name, used in models.items():
        ours = {i for i in used if top(i) == "voc2vec_jax"}
        above = {i for i in ours if not i.startswith("voc2vec_jax.models")} - BELOW_MODELS
        assert not above, name
        assert "voc2vec_jax" not in ours, f"{name}: the package's front door loads everything"


def test_no_module_imports_in_a_circle() -> None:
    """The front doors aside, which gather what lies behind them."""
    graph = {name: {i for i in used if i in MODULES} for name, used in IMPORTS.items()}
    while graph:
        leaves = {name for name, used in graph.items() if not used & graph.keys() - {name}}
        assert leaves, f"these import each other: {sorted(graph)}"
        graph = {name: used for name, used in graph.items() if name not in leaves}


@pytest.mark.parametrize(
    "path", sources(*INSTALLED, "tools", "configs"), ids=lambda path: module_name(path)
)
def test_modules_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    name = path.relative_to(ROOT).as_posix()
    if name in LONGER_FOR_A_REASON:
        assert lines > MAX_LINES, f"{name} has become short: take its exception out"
    else:
        assert lines <= MAX_LINES, f"{name} has {lines} lines: split it, or argue for it here"


def test_every_exception_is_argued_for() -> None:
    assert all((ROOT / name).is_file() for name in LONGER_FOR_A_REASON)
    assert all(len(reason) > 20 for reason in LONGER_FOR_A_REASON.values())
