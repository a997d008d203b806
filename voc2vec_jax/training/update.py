"""One update: the compiled heart of training, and the state that it turns into the next."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from voc2vec_jax import compiling
from voc2vec_jax.checkpoints.orbax import State
from voc2vec_jax.config import Config, DataConfig, TrainConfig
from voc2vec_jax.distributed import sharding
from voc2vec_jax.errors import ConfigError
from voc2vec_jax.models.parameters import Params, merge, split
from voc2vec_jax.objectives import AddsUp, Batch, Metrics, Predicts, Task
from voc2vec_jax.objectives.losses import Ratio
from voc2vec_jax.training import optimizer, precision

# Random numbers of initialisation and of evaluation are none of an update's; see `_step`.
_INITIALISATION, _EVALUATION = 2**32 - 1, 2**32 - 2


class Training:
    """The compiled parts of a run: how to begin, and one update.

    Args:
        config: The run.
        task: Its objective.
        mesh: The devices to use.

    Raises:
        ConfigError: The mesh does not divide the model.
    """

    def __init__(self, config: Config, task: Task, mesh: Mesh):
        sharding.check_model(config.model, mesh)
        self.config, self.task, self.mesh = config, task, mesh
        model = nnx.eval_shape(lambda: task.init(jax.random.key(0)))
        # A head on vectors has neither.
        model.set_attributes(
            remat=config.train.remat,
            batch_sharding=sharding.batch_sharding(mesh),
            raise_if_not_found=False,
        )
        self._graphdef, abstract = nnx.split(model)
        self._paths = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(abstract)]
        self._trained = optimizer.trained_paths(config.optim, self._paths)
        self.abstract_state: State = jax.eval_shape(self._init, jax.random.key(0))
        self.shardings = sharding.state_shardings(self.abstract_state, mesh)
        self.described_state: State = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            self.abstract_state,
            self.shardings,
        )
        everywhere = sharding.replicated(mesh)
        self._compiled_step: Any = jax.jit(
            self._step, donate_argnums=0, out_shardings=(self.shardings, everywhere)
        )
        self._compiled_evaluate: Any = jax.jit(self._evaluate, out_shardings=everywhere)
        self._compiled_predict: Any = jax.jit(self._predict, out_shardings=everywhere)
        self._compiled_init: Any = jax.jit(self._init, out_shardings=self.shardings)

    def for_run(self, config: Config) -> "Training":
        """The same compiled programs for another run.

        Raises:
            ConfigError: It differs in more than its data, seed, length and rhythm.
        """
        if _compiled_in(config) != _compiled_in(self.config):
            raise ConfigError(
                "runs that share compiled programs may differ in data, seed, length and rhythm only"
            )
        other = copy.copy(self)
        other.config = config
        return other

    def step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """One update; the state that is given is used up.

        Args:
            state: On the mesh.
            batch: On the mesh, `waveform` [B, S] and `lengths` [B] among it.

        Returns:
            The next state, and figures as sums and counts. The learning rate is that of this
            update, `gradient_norm` is before clipping.
        """
        train = self.config.train
        updated: tuple[State, Metrics] = self._compiled_step(
            state, batch, jax.random.key(train.seed), np.int32(train.num_steps)
        )
        return updated

    def lower_step(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> jax.stages.Lowered:
        """The program of `step` for such a batch, for the devices of the mesh; nothing runs.

        Args:
            batch: Shapes, dtypes and shardings; the devices need not exist (`topologies` of JAX).
        """
        key = jax.eval_shape(jax.random.key, 0)
        num_steps = jax.ShapeDtypeStruct((), jnp.int32)
        lowered: jax.stages.Lowered = self._compiled_step.lower(
            self.described_state, batch, key, num_steps
        )
        return lowered

    def evaluate(self, params: Params, batch: Batch) -> Any:
        """Sums over a held-out batch, without dropout and with the likeliest codes; see `AddsUp`.

        What is drawn for a row follows from the seed and its window, so that curves can be
        compared, and does not depend on the rows beside it.
        """
        return self._compiled_evaluate(params, batch, jax.random.key(self.config.train.seed))

    def predict(self, params: Params, batch: Batch) -> jax.Array:
        """What the model says of each row of a batch; for tasks that are `Predicts`."""
        outputs: jax.Array = self._compiled_predict(params, batch)
        return outputs

    @property
    def compiled_programs(self) -> int:
        """Programs that were compiled so far, one per batch shape if all is well."""
        programs = (self._compiled_step, self._compiled_evaluate, self._compiled_predict)
        return sum(program._cache_size() for program in programs)

    def _optimizer(self, num_steps: int | jax.Array) -> optax.GradientTransformation:
        return optimizer.optimizer(self.config.optim, num_steps, self._paths)

    def _init(self, key: jax.Array) -> State:
        _, params = split(self.task.init(key))
        return {
            "params": params,
            "opt_state": self._optimizer(1).init({path: params[path] for path in self._trained}),
            "step": jnp.zeros((), jnp.int32),
        }

    def initial_state(self, params: Mapping[str, np.ndarray] | None = None) -> State:
        """A fresh state, made in place on the mesh; `params` replace what they name."""
        key = jax.random.fold_in(jax.random.key(self.config.train.seed), _INITIALISATION)
        with compiling.said("compiling the initial state"):
            state: State = self._compiled_init(key)
        for path, value in (params or {}).items():
            state["params"][path] = jax.device_put(value, self.shardings["params"][path])
        return state

    @jax.named_scope("draws")
    def _draw(self, batch: Batch, key: jax.Array, train: bool) -> Any:
        samples = batch["waveform"].shape[1] if "waveform" in batch else 0
        return self.task.draw(batch["lengths"], samples, key, train=train)

    def _step(
        self, state: State, batch: Batch, key: jax.Array, num_steps: jax.Array
    ) -> tuple[State, Metrics]:
        """`key` of the run's seed, and its length: inputs, so that runs share the program."""
        draws = self._draw(batch, jax.random.fold_in(key, state["step"]), train=True)

        trained = {path: state["params"][path] for path in self._trained}

        def sums(batch: Batch, draws: Any) -> tuple[jax.Array, jax.Array, Metrics, Params]:
            def loss_of(trained: Params) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
                params = {**state["params"], **trained}
                loss, count, metrics = self._loss(params, batch, draws, state["step"])
                return loss, (count, metrics)

            (loss, (count, metrics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained)
            shardings = {path: self.shardings["params"][path] for path in trained}
            gradients = jax.lax.with_sharding_constraint(gradients, shardings)
            return loss, count, metrics, gradients

        loss, count, metrics, gradients = self._over_micro_batches(sums, batch, draws)
        # Where nothing counts, the gradient is 0. A count may lie below 1: class weights do.
        divisor = jnp.where(count > 0, count, 1)
        gradients = jax.tree.map(lambda g: g / divisor, gradients)
        rule = self._optimizer(num_steps)
        with jax.named_scope("optimizer"):
            updates, opt_state = rule.update(gradients, state["opt_state"], trained)
        schedule = optimizer.learning_rate(self.config.optim, num_steps)
        one = jnp.ones(())
        figures = {
            "loss": Ratio(loss, count),
            **metrics,
            "gradient_norm": Ratio(optax.tree.norm(gradients), one),
            "update_norm": Ratio(optax.tree.norm(updates), one),
            "learning_rate": Ratio(jnp.asarray(schedule(state["step"])), one),
        }
        new_state = {
            "params": {**state["params"], **optax.apply_updates(trained, updates)},
            "opt_state": opt_state,
            "step": state["step"] + 1,
        }
        return new_state, figures

    def _to_compute(self, params: Params, batch: Batch) -> tuple[nnx.Module, Batch]:
        params, batch = precision.to_compute(params, batch, self.config.train.precision)
        whole = {path: sharding.gathered(self.shardings["params"][path]) for path in params}
        return merge(self._graphdef, jax.lax.with_sharding_constraint(params, whole)), batch

    def _loss(
        self, params: Params, batch: Batch, draws: Any, step: jax.Array
    ) -> tuple[jax.Array, jax.Array, Metrics]:
        model, batch = self._to_compute(params, batch)
        return self.task.loss(model, batch, draws, step)

    def _predict(self, params: Params, batch: Batch) -> jax.Array:
        assert isinstance(self.task, Predicts)
        model, batch = self._to_compute(params, batch)
        return self.task.predict(model, batch)

    def _evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Any:
        key = jax.random.fold_in(key, _EVALUATION)

        def sums(batch: Batch, draws: Any) -> Any:
            assert isinstance(self.task, AddsUp)
            model, batch = self._to_compute(params, batch)
            return self.task.sums(model, batch, draws)

        return self._over_micro_batches(sums, batch, self._draw_by_row(batch, key))

    @jax.named_scope("draws")
    def _draw_by_row(self, batch: Batch, key: jax.Array) -> Any:
        """Draws of each row as if it were alone."""
        samples = batch["waveform"].shape[1]

        def one(length: jax.Array, window: jax.Array) -> Any:
            key_of_row = jax.random.fold_in(key, window)
            draws = self.task.draw(length[None], samples, key_of_row, train=False)
            return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[1:]), draws)

        return jax.vmap(one)(batch["lengths"], batch["window"])

    def _over_micro_batches(
        self, sums: Callable[[Batch, Any], Any], batch: Batch, draws: Any
    ) -> Any:
        """`sums` of the batch, added up over `train.accumulate_steps` parts of it."""
        count = self.config.train.accumulate_steps
        if count == 1:
            return sums(batch, draws)

        def split(leaf: jax.Array) -> jax.Array:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                # As if each were a batch: dropout and layer drop are drawn anew.
                return jax.vmap(jax.random.fold_in, (None, 0))(leaf, jnp.arange(count))
            if leaf.ndim == 0:
                return jnp.broadcast_to(leaf, (count,))
            return sharding.micro_batches(leaf, count, self.mesh)

        parts = jax.tree.map(split, (batch, draws))
        first = jax.eval_shape(lambda parts: jax.tree.map(lambda leaf: leaf[0], parts), parts)
        nothing = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(sums, *first)
        )

        def add(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, sums(*part)), None

        return jax.lax.scan(add, nothing, parts)[0]


def _compiled_in(config: Config) -> Config:
    """A configuration without what is an input of the compiled programs, or none of theirs."""
    train = TrainConfig(
        accumulate_steps=config.train.accumulate_steps,
        precision=config.train.precision,
        remat=config.train.remat,
    )
    return dataclasses.replace(config, data=DataConfig(), train=train)
