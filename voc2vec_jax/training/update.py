"""One update: the compiled heart of training, and the state that it turns into the next."""

import copy
import dataclasses
from collections.abc import Mapping
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
from voc2vec_jax.training import gradients, optimizer, precision

# Random numbers of initialisation and of evaluation are none of an update's; see `_step`.
_INITIALISATION, _EVALUATION = 2**32 - 1, 2**32 - 2
FINITE = ("loss", "gradient_norm", "update_norm")
"""Figures that must be finite, or the update is skipped. The norms are only if every gradient and
every change is."""
SKIPPED = ("skipped", "skipped_in_a_row")
"""Counts in the state: updates that were not finite, of the whole run and in a row."""


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
        # A head on vectors has no such attribute.
        model.set_attributes(remat=config.train.remat, raise_if_not_found=False)
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
            **{name: jnp.zeros((), jnp.int32) for name in SKIPPED},
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

        params, step = self._to_compute(state["params"]), state["step"]
        loss, count, metrics, summed = gradients.loss_and_gradients(
            self._sums,
            self.task.weigh,
            {path: value for path, value in params.items() if path in self._trained},
            {path: value for path, value in params.items() if path not in self._trained},
            batch,
            draws,
            step,
            self.shardings["params"],
            self.mesh,
            parts=self.config.train.accumulate_steps,
            added_in=precision.DTYPES[self.config.train.gradients_added_in],
        )
        # Where nothing counts, the gradient is 0. A count may lie below 1: class weights do.
        divisor = jnp.where(count > 0, count, 1)
        gradient = jax.tree.map(lambda g: g / divisor, summed)
        trained = {path: state["params"][path] for path in self._trained}
        rule = self._optimizer(num_steps)
        with jax.named_scope("optimizer"):
            updates, opt_state = rule.update(gradient, state["opt_state"], trained)
            gradient_norm, update_norm = optax.tree.norm(gradient), optax.tree.norm(updates)
            finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm) & jnp.isfinite(update_norm)
            updated = (optax.apply_updates(trained, updates), opt_state)
            before = (trained, state["opt_state"])
            trained, opt_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old), updated, before
            )
            # Adam counts the updates that it made; the schedule goes by all that were tried.
            opt_state = (*opt_state[:-1], opt_state[-1]._replace(count=step + 1))
        schedule = optimizer.learning_rate(self.config.optim, num_steps)
        counts = {
            "skipped": state["skipped"] + ~finite,
            "skipped_in_a_row": jnp.where(finite, 0, state["skipped_in_a_row"] + 1),
        }
        one = jnp.ones(())
        figures = {
            "loss": Ratio(loss, count),
            **metrics,
            "gradient_norm": Ratio(gradient_norm, one),
            "update_norm": Ratio(update_norm, one),
            "learning_rate": Ratio(jnp.asarray(schedule(step)), one),
            **{name: Ratio(count.astype(jnp.float32), one) for name, count in counts.items()},
        }
        new_state = {
            "params": {**state["params"], **trained},
            "opt_state": opt_state,
            "step": step + 1,
            **counts,
        }
        return new_state, figures

    def _to_compute(self, params: Params) -> Params:
        """Parameters as the model reads them, on every device that needs them."""
        params = precision.to_compute(params, self.config.train.precision)
        whole = {path: sharding.gathered(self.shardings["params"][path]) for path in params}
        return jax.lax.with_sharding_constraint(params, whole)

    def _sums(self, params: Params, batch: Batch, draws: Any, step: jax.Array) -> Any:
        return self.task.sums(merge(self._graphdef, params), batch, draws, step)

    def _predict(self, params: Params, batch: Batch) -> jax.Array:
        assert isinstance(self.task, Predicts)
        return self.task.predict(merge(self._graphdef, self._to_compute(params)), batch)

    def _evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Any:
        assert isinstance(self.task, AddsUp)
        draws = self._draw_by_row(batch, jax.random.fold_in(key, _EVALUATION))
        return gradients.add_up(
            self._sums,
            self._to_compute(params),
            batch,
            draws,
            jnp.zeros((), jnp.int32),
            self.mesh,
            self.config.train.accumulate_steps,
        )

    @jax.named_scope("draws")
    def _draw_by_row(self, batch: Batch, key: jax.Array) -> Any:
        """Draws of each row as if it were alone."""
        samples = batch["waveform"].shape[1]

        def one(length: jax.Array, window: jax.Array) -> Any:
            key_of_row = jax.random.fold_in(key, window)
            draws = self.task.draw(length[None], samples, key_of_row, train=False)
            return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[1:]), draws)

        return jax.vmap(one)(batch["lengths"], batch["window"])


def _compiled_in(config: Config) -> Config:
    """A configuration without what is an input of the compiled programs, or none of theirs."""
    train = TrainConfig(
        accumulate_steps=config.train.accumulate_steps,
        gradients_added_in=config.train.gradients_added_in,
        precision=config.train.precision,
        remat=config.train.remat,
    )
    return dataclasses.replace(config, data=DataConfig(), train=train)
