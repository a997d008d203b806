"""One update: the compiled heart of training, and the state that it turns into the next."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from voc2vec_jax import optim, sharding
from voc2vec_jax.checkpoint import State
from voc2vec_jax.config import Config
from voc2vec_jax.losses import Ratio
from voc2vec_jax.models.parameters import Params, merge, split
from voc2vec_jax.tasks import Batch, Metrics, Task

StepFunction = Callable[[State, Batch], tuple[State, Metrics]]


class Training:
    """The compiled parts of a run: how to begin, and one update.

    Args:
        config: The run.
        task: Its objective.
        mesh: The devices to use.
    """

    def __init__(self, config: Config, task: Task, mesh: Mesh):
        self.config, self.task, self.mesh = config, task, mesh
        self._schedule = optim.learning_rate(config.optim, config.train.num_steps)
        self._graphdef, abstract = nnx.split(nnx.eval_shape(lambda: task.init(jax.random.key(0))))
        paths = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(abstract)]
        self._trained = optim.trained_paths(config.optim, paths)
        self._optimizer = optim.optimizer(config.optim, config.train.num_steps, paths)
        self.abstract_state: State = jax.eval_shape(self._init, jax.random.key(0))
        self.shardings = sharding.state_shardings(self.abstract_state, mesh)
        self.step: StepFunction = jax.jit(
            self._step,
            donate_argnums=0,
            out_shardings=(self.shardings, sharding.replicated(mesh)),
        )

    def _init(self, key: jax.Array) -> State:
        _, params = split(self.task.init(key))
        return {
            "params": params,
            "opt_state": self._optimizer.init({path: params[path] for path in self._trained}),
            "step": jnp.zeros((), jnp.int32),
        }

    def initial_state(self, params: Mapping[str, np.ndarray] | None = None) -> State:
        """A fresh state, made in place on the mesh; `params` replace what they name."""
        # Initialisation and updates must not share random numbers.
        key = jax.random.fold_in(jax.random.key(self.config.train.seed), 2**32 - 1)
        state: State = jax.jit(self._init, out_shardings=self.shardings)(key)
        for path, value in (params or {}).items():
            state["params"][path] = jax.device_put(value, self.shardings["params"][path])
        return state

    def _step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(self.config.train.seed), state["step"])

        trained = {path: state["params"][path] for path in self._trained}

        def loss_of(trained: Params) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
            model = merge(self._graphdef, {**state["params"], **trained})
            loss, count, metrics = self.task.loss(model, batch, key, state["step"])
            return loss, (count, metrics)

        (loss, (count, metrics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained)
        gradients = jax.tree.map(lambda g: g / jnp.maximum(count, 1), gradients)
        updates, opt_state = self._optimizer.update(gradients, state["opt_state"], trained)
        one = jnp.ones(())
        figures = {
            "loss": Ratio(loss, count),
            **metrics,
            "gradient_norm": Ratio(optax.tree.norm(gradients), one),
            "learning_rate": Ratio(jnp.asarray(self._schedule(state["step"])), one),
        }
        new_state = {
            "params": {**state["params"], **optax.apply_updates(trained, updates)},
            "opt_state": opt_state,
            "step": state["step"] + 1,
        }
        return new_state, figures
