"""Sums over the clips of a batch, and the gradient of what a loss makes of them.

Every device works on its own rows, as if it were alone, so that no operation of the model has the
size of the whole batch. What a task sums over clips (`Task.sums`) is then added up over devices,
and how the loss changes with these few numbers goes back into each device's own backward pass.
Gradients meet in one place, at the end of the update, in float32 whatever the precision. Only where
a parameter is split over the fsdp axis does each micro-batch's part go to its owner at once: no
device has room for the whole.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from voc2vec_jax.distributed.sharding import BATCH_AXES
from voc2vec_jax.models.parameters import Params
from voc2vec_jax.objectives import Batch, Metrics

Sums = Callable[[Params, Batch, Any, jax.Array], Any]
"""`Task.sums`, with the parameters in place of the model."""
Weigh = Callable[[Any, Any, jax.Array], tuple[jax.Array, jax.Array, Metrics]]
"""`Task.weigh`."""


def add_up(
    sums: Sums,
    params: Params,
    batch: Batch,
    draws: Any,
    step: jax.Array,
    mesh: Mesh,
    parts: int,
) -> Any:
    """`sums` of a batch, the same on every device; `parts` micro-batches, one after the other."""

    def of_my_rows(params: Params, step: jax.Array, batch: Batch, draws: Any) -> Any:
        def of_part(batch: Batch, draws: Any) -> Any:
            return sums(params, batch, draws, step)

        mine = over_micro_batches(of_part, batch, draws, parts)
        return jax.lax.psum(mine, BATCH_AXES)

    return _by_rows(of_my_rows, mesh, (params, step), (batch, draws), PartitionSpec())


def loss_and_gradients(
    sums: Sums,
    weigh: Weigh,
    trained: Params,
    fixed: Params,
    batch: Batch,
    draws: Any,
    step: jax.Array,
    shardings: Mapping[str, NamedSharding],
    mesh: Mesh,
    *,
    parts: int,
    added_in: jax.typing.DTypeLike,
) -> tuple[jax.Array, jax.Array, Metrics, Params]:
    """The loss of a batch, its count, metrics, and the gradient by the trained parameters.

    Args:
        sums: Computed by each device for its own rows.
        weigh: Of the sums of all devices; computed by each of them alike.
        trained: Parameters to differentiate by, as the model computes with them.
        fixed: All others.
        batch: Split over the batch axes of the mesh.
        draws: Arrays split like the batch, scalars the same everywhere.
        step: Updates done.
        shardings: Of every parameter.
        mesh: The devices.
        parts: Micro-batches, one after the other; loss, count and gradients are added up.
        added_in: Dtype in which the gradients of devices are added up.

    Returns:
        The gradients in float32, each where its parameter lies.
    """
    split = {path: _fsdp_axis(shardings[path]) for path in trained}

    def of_my_rows(
        trained: Params, fixed: Params, step: jax.Array, batch: Batch, draws: Any
    ) -> tuple[jax.Array, jax.Array, Metrics, Params]:
        def of_part(batch: Batch, draws: Any) -> tuple[jax.Array, jax.Array, Metrics, Params]:
            mine, pull_back = jax.vjp(lambda p: sums({**fixed, **p}, batch, draws, step), trained)
            total = jax.lax.psum(mine, BATCH_AXES)

            def loss_of(total: Any) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
                loss, count, metrics = weigh(total, draws, step)
                return loss, (count, metrics)

            (loss, (count, metrics)), slope = jax.value_and_grad(loss_of, has_aux=True)(total)
            (gradients,) = pull_back(slope)
            return loss, count, metrics, {p: to_owner(p, g) for p, g in gradients.items()}

        def to_owner(path: str, gradient: jax.Array) -> jax.Array:
            axis = split[path]
            if axis is not None:
                gradient = jax.lax.psum_scatter(
                    gradient.astype(added_in), "fsdp", scatter_dimension=axis, tiled=True
                )
            return gradient.astype(jnp.float32)

        def add(path: str, gradient: jax.Array) -> jax.Array:
            axes = BATCH_AXES if split[path] is None else ("data",)
            if math.prod(mesh.shape[axis] for axis in axes) == 1:
                return gradient
            return jax.lax.psum(gradient.astype(added_in), axes).astype(jnp.float32)

        loss, count, metrics, gradients = over_micro_batches(of_part, batch, draws, parts)
        return loss, count, metrics, {p: add(p, g) for p, g in gradients.items()}

    everywhere = PartitionSpec()
    by_owner = {
        path: everywhere if axis is None else PartitionSpec(*[None] * axis, "fsdp")
        for path, axis in split.items()
    }
    loss, count, metrics, gradients = _by_rows(
        of_my_rows,
        mesh,
        (trained, fixed, step),
        (batch, draws),
        (everywhere, everywhere, everywhere, by_owner),
    )
    where = {path: shardings[path] for path in gradients}
    return loss, count, metrics, jax.lax.with_sharding_constraint(gradients, where)


def over_micro_batches(
    sums: Callable[[Batch, Any], Any], batch: Batch, draws: Any, parts: int
) -> Any:
    """`sums` of rows, added up over `parts` divisions of them; scalars go to all parts."""
    if parts == 1:
        return sums(batch, draws)
    leaves, structure = jax.tree.flatten((batch, draws))
    rows = [leaf for leaf in leaves if leaf.ndim]

    def divided(leaf: jax.Array) -> jax.Array:
        # Every `parts`-th row, which gives the same micro-batches on any mesh.
        return leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]).swapaxes(0, 1)

    def of_part(part: list[jax.Array]) -> Any:
        following = iter(part)
        return sums(
            *jax.tree.unflatten(structure, [next(following) if x.ndim else x for x in leaves])
        )

    divisions = list(map(divided, rows))
    shapes = jax.eval_shape(of_part, [leaf[0] for leaf in divisions])
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(total: Any, part: list[jax.Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_part(part)), None

    return jax.lax.scan(add, nothing, divisions)[0]


def _by_rows(
    compute: Callable[..., Any],
    mesh: Mesh,
    whole: tuple[Any, ...],
    split: tuple[Any, ...],
    out: Any,
) -> Any:
    """What every device computes of `whole`, and of its own rows of `split` (scalars: all of it).

    The tensor axis is left to the partitioner, which gives each device its part of a layer.
    """

    def place(leaf: jax.Array) -> PartitionSpec:
        return PartitionSpec(BATCH_AXES) if leaf.ndim else PartitionSpec()

    return jax.shard_map(
        compute,
        mesh=mesh,
        in_specs=(*(PartitionSpec() for _ in whole), *jax.tree.map(place, split)),
        out_specs=out,
        axis_names=set(BATCH_AXES),
        check_vma=False,  # a gradient stays on its device until it is added up here
    )(*whole, *split)


def _fsdp_axis(sharding: NamedSharding) -> int | None:
    return list(sharding.spec).index("fsdp") if "fsdp" in sharding.spec else None
