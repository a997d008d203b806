"""Versions that may decide a number: they are recorded, and do not decide what a run is."""

import functools
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("voc2vec-jax", "jax", "flax", "numpy", "scikit-learn", "librosa", "opensmile")


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed and may decide a number."""
    return dict(_versions())


@functools.cache  # each fold asks, and the file system answers
def _versions() -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def mixed(each: Sequence[Mapping[str, str]]) -> list[str]:
    """A sentence on each package that was not of one version throughout, such as in all folds."""
    said = []
    for package in sorted({name for one in each for name in one}):
        held = [one.get(package, "none") for one in each]
        if len(set(held)) > 1:
            counted = ", ".join(f"{held.count(one)} with {one}" for one in dict.fromkeys(held))
            said.append(f"folds were made by different versions of {package}: {counted}")
    return said
