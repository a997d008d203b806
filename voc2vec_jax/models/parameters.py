"""Models as plain data: a static description and a flat dict of arrays.

NNX describes a model once; training, checkpoints, sharding and conversion then work on
`{"encoder.layers.0.attention.q_proj.kernel": array, ...}` with ordinary JAX.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

Params = dict[str, jax.Array]
AbstractParams = dict[str, jax.ShapeDtypeStruct]
ModelT = TypeVar("ModelT", bound=nnx.Module)


def split(model: ModelT) -> tuple[nnx.GraphDef[ModelT], Params]:
    """A model as its description and its parameters by dotted path."""
    graphdef, state = nnx.split(model, nnx.Param)
    flat = nnx.to_flat_state(state)
    return graphdef, {".".join(map(str, path)): variable[...] for path, variable in flat}


def merge(graphdef: nnx.GraphDef[ModelT], params: Params) -> ModelT:
    """The model that `split` took apart; cheap, meant to be called inside `jax.jit`."""
    flat: Any = {
        tuple(_key(part) for part in path.split(".")): nnx.Param(value)
        for path, value in params.items()
    }
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def sha256_of(params: Mapping[str, jax.Array]) -> str:
    """Equal if, and only if, parameters have the same paths, types, shapes and values."""
    found = hashlib.sha256()
    for path in sorted(params):
        value = np.asarray(params[path])
        found.update(f"{path} {value.dtype} {value.shape}\n".encode())
        found.update(np.ascontiguousarray(value).tobytes())
    return found.hexdigest()


def describe(
    architecture: Callable[..., ModelT], config: Any
) -> tuple[nnx.GraphDef[ModelT], AbstractParams]:
    """Description and parameter shapes of a model, without allocating it.

    Tracing a full-size model takes a second; the last few are remembered.
    """
    graphdef, abstract = _describe(architecture, config)
    return graphdef, dict(abstract)


@functools.lru_cache(maxsize=8)
def _describe(
    architecture: Callable[..., ModelT], config: Any
) -> tuple[nnx.GraphDef[ModelT], AbstractParams]:
    graphdef, state = nnx.split(
        nnx.eval_shape(lambda: architecture(config, rngs=nnx.Rngs(0))), nnx.Param
    )
    abstract = {
        ".".join(map(str, path)): jax.ShapeDtypeStruct(variable.shape, variable.dtype)
        for path, variable in nnx.to_flat_state(state)
    }
    return graphdef, abstract


def _key(part: str) -> str | int:
    return int(part) if part.isdecimal() else part
