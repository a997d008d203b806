"""Configuration files: `--config FILE.py[:NAME]`, whose values the other flags then override."""

import argparse
import importlib.util
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TypeVar

import tyro

from voc2vec_jax.config import Config
from voc2vec_jax.errors import ConfigError

T = TypeVar("T")


def load_config(location: str) -> Config:
    """Runs a configuration file.

    Args:
        location: `FILE.py`, or `FILE.py:NAME` for another function than `get_config`.

    Raises:
        ConfigError: No such file or function, or it does not return a `Config`.
    """
    path, named, function = location.partition(".py:")
    if named and not function:
        raise ConfigError(f"--config {location}: name a function after the colon, or leave it out")
    file = Path(path + ".py" if named else path)
    if not file.is_file():
        raise ConfigError(f"--config {location}: no file {file}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config {location}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ConfigError(f"--config {location}: {error}") from None
    make = getattr(module, function or "get_config", None)
    if make is None:
        raise ConfigError(f"--config {location}: {file} has no function {function or 'get_config'}")
    config = make()
    if not isinstance(config, Config):
        raise ConfigError(f"--config {location}: returned {type(config).__name__}, not a Config")
    return config


def named_config(argv: Sequence[str]) -> Config:
    """The configuration of the file behind `--config`, which the other flags then change.

    Raises:
        ConfigError: As `load_config`.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    location = finder.parse_known_args(argv)[0].config
    return load_config(location) if location else Config()


def given_fields(argv: Sequence[str], section: str) -> frozenset[str]:
    """The fields of a section of the configuration that stand on a command line as flags.

    Also those that are given the value of the configuration file.
    """
    prefix = f"--{section}."
    names = {
        word.removeprefix(prefix).partition("=")[0].replace("-", "_")
        for word in argv
        if word.startswith(prefix)
    }
    return frozenset(names | {name.removeprefix("no_") for name in names})


def parse_over_config(
    arguments: type[T], argv: Sequence[str], description: str | None, name: str
) -> T:
    """The command line on top of the configuration file that it names.

    Args:
        arguments: A dataclass whose field `run` is the configuration with its overrides.
        argv: Without the name of the program.
        description: For `--help`.
        name: Of the module that is run.

    Raises:
        ConfigError: The file or a value in it cannot work.
        SystemExit: Wrong flags, or `--help`.
    """
    # The fields without a default are asked for as such; the run's values come from the file.
    asked = {
        field.name: tyro.MISSING
        for field in fields(arguments)  # type: ignore[arg-type]
        if field.default is MISSING and field.default_factory is MISSING
    }
    return tyro.cli(
        arguments,
        args=list(argv),
        default=arguments(**(asked | {"run": named_config(argv)})),
        description=description,
        prog=f"python -m {name}",
        config=[tyro.conf.AvoidSubcommands],
    )
