"""The recipes of `configs/`: each stands alone, says its base, and repeats no other."""

import ast
import itertools
import re
import shutil
import sys
from pathlib import Path

import pytest

from voc2vec_jax.cli.config_files import load_config

RECIPES = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))
MOST_SHARED_LINES = 5


def by_name(path: Path) -> str:
    return path.stem


def code_lines(text: str) -> list[str]:
    """Lines of code: no blank ones, no comments, no docstrings, no imports."""
    tree, left_out = ast.parse(text), set()
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = [line.strip() for n, line in enumerate(text.splitlines(), 1) if n not in left_out]
    return [line for line in lines if line and not line.startswith("#")]


def runs(text: str, length: int) -> set[tuple[str, ...]]:
    """Every `length` lines of code in a row."""
    lines = code_lines(text)
    return {tuple(lines[i : i + length]) for i in range(len(lines) - length + 1)}


def test_there_are_recipes() -> None:
    assert {"tiny", "tiny_hubert", "voc2vec_base"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=by_name)
def test_a_copy_elsewhere_gives_the_same_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder, with no `configs` to import."""
    expected = load_config(str(path))
    for name in [name for name in sys.modules if name.split(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "configs", None)
    monkeypatch.chdir(tmp_path)
    shutil.copy(path, tmp_path)
    assert load_config(path.name) == expected


@pytest.mark.parametrize("path", RECIPES, ids=by_name)
def test_recipes_import_the_package_and_the_standard_library(path: Path) -> None:
    used = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used.add("." * node.level + (node.module or ""))
    others = {name.split(".")[0] for name in used} - {"voc2vec_jax"}
    assert others <= sys.stdlib_module_names


@pytest.mark.parametrize("path", RECIPES, ids=by_name)
def test_the_docstring_names_what_the_recipe_starts_from(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {
        f"families.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "families"
    }
    assert used
    docstring = ast.get_docstring(tree) or ""
    assert "\nBase: " in docstring
    assert used == set(re.findall(r"families\.\w+", docstring))


def test_no_recipe_repeats_another() -> None:
    of_recipe = {
        path.name: runs(path.read_text(encoding="utf-8"), MOST_SHARED_LINES + 1) for path in RECIPES
    }
    for one, other in itertools.combinations(of_recipe, 2):
        shared = of_recipe[one] & of_recipe[other]
        assert not shared, f"{one} and {other} share lines: move them into a base of families.py"


def test_the_reader_of_lines_leaves_out_what_is_no_code() -> None:
    text = '''"""A docstring
    of two lines."""
from a import (
    b,
)

# A comment.
def f():
    """Another."""
    import c
    return b  # kept as it is
'''
    assert code_lines(text) == ["def f():", "return b  # kept as it is"]
    assert runs(text, 2) == {("def f():", "return b  # kept as it is")}
    assert runs(text, 3) == set()
