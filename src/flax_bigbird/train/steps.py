"""The compiled functions of a training run: gradients, updates, and the outputs of evaluations."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from flax_bigbird.data.types import ROW_MASK, Arrays
from flax_bigbird.parallel.batch_sharding import BatchPart, BatchSharding
from flax_bigbird.parallel.mesh import replicated, under
from flax_bigbird.parallel.parameter_sharding import (
    optimizer_shardings,
    parameter_shardings,
    place_tree,
)
from flax_bigbird.tasks.base import Loss, Task
from flax_bigbird.tasks.row_masks import loss_masks_rows

Part = tuple[BatchPart, Arrays]
"""A part of a batch, and the rows of it that this process has read."""


class Totals(NamedTuple):
    """The sums over the examples of one or more batches.

    Attributes:
      loss: The sum of the losses of the targets.
      num_targets: The number of targets.
      num_tokens: The number of tokens, without padding.
    """

    loss: Any
    num_targets: Any
    num_tokens: Any


class TrainingSteps:
    """The functions of one run, compiled for its mesh: one program per bucket length.

    Gradients and the optimizer's state are split over the devices as the parameters are.

    Attributes:
      optimizer: The optimizer. It may be replaced before the first step.
      batch_sharding: How batches are split over the devices.
    """

    def __init__(self, task: Task, model: Any, optimizer: Any, mesh: Mesh | None, seed: int):
        self.optimizer = optimizer
        self._task, self._model, self._mesh = task, model, mesh
        self.batch_sharding = BatchSharding(mesh, pads_rows=loss_masks_rows(type(task)))
        # Evaluations drop the rows that are added.
        self.evaluation_sharding = BatchSharding(mesh)
        # A NumPy array, which every process of a run may pass to a compiled function.
        self._key = np.asarray(jax.random.key_data(jax.random.key(seed)))
        gradients: Any = None
        arrays = updated = everywhere = None
        if mesh is not None:
            everywhere = replicated(mesh)
            self._params = parameter_shardings(mesh, model.params)
            self._state = optimizer_shardings(mesh, optimizer, model.params)
            totals = Totals(everywhere, everywhere, everywhere)
            gradients, arrays = (self._params, totals), self._state
            updated = (self._params, self._state, totals)
        self._init = jax.jit(lambda params: self.optimizer.init(params), out_shardings=arrays)
        self._gradient = jax.jit(self._part_gradient, out_shardings=gradients)
        self._step = jax.jit(self._compute_step, donate_argnums=(0, 1), out_shardings=updated)
        self._add = jax.jit(_add_trees, donate_argnums=(0,), out_shardings=gradients)
        self._apply = jax.jit(self._apply_gradient, donate_argnums=(0, 1), out_shardings=updated)
        self._eval = jax.jit(
            lambda params, batch: self._task.eval_step(self._model, params, batch),
            out_shardings=everywhere,
        )

    def place_params(self, params: Any) -> Any:
        """Returns parameters, which every process has as a whole, split over the devices."""
        return params if self._mesh is None else place_tree(params, self._params)

    def init_optimizer(self, params: Any) -> Any:
        """Returns the optimizer's state for the first step."""
        if self._mesh is None:
            return self.optimizer.init(params)
        with under(self._mesh):
            return self._init(params)

    def gradient(self, params: Any, part: Part, *numbers: int) -> tuple[Any, Totals]:
        """Returns the gradient of the summed loss of a part of a batch.

        Args:
          params: The parameters.
          part: The part.
          *numbers: What identifies the part in the run, for the key of its dropout.
        """
        with under(self._mesh):
            return self._gradient(params, self._place(part), self._key, _numbers(numbers))

    def step(self, params: Any, state: Any, part: Part, *numbers: int) -> tuple[Any, Any, Totals]:
        """Returns what an optimizer step of one batch changes, see `gradient` and `apply`."""
        with under(self._mesh):
            return self._step(params, state, self._place(part), self._key, _numbers(numbers))

    def add(self, total: Any, gradient: Any) -> Any:
        """Returns the sum of two results of `gradient`."""
        with under(self._mesh):
            return self._add(total, gradient)

    def apply(self, params: Any, state: Any, total: Any) -> tuple[Any, Any, Totals]:
        """Returns parameters and state after an update by the mean gradient per target."""
        with under(self._mesh):
            return self._apply(params, state, total)

    def eval_step(self, params: Any, parts: list[Part]) -> Arrays:
        """Returns the outputs of all rows of an evaluation batch, on every device."""
        ((part, arrays),) = parts
        with under(self._mesh):
            return self._eval(params, self.evaluation_sharding.place(arrays, part))

    def _place(self, part: Part) -> Arrays:
        layout, arrays = part
        return self.batch_sharding.place(arrays, layout)

    def _part_gradient(self, params: Any, batch: Arrays, key_data: Any, numbers: Any):
        key = jax.random.wrap_key_data(key_data)
        for index in range(len(numbers)):
            key = jax.random.fold_in(key, numbers[index])
        gradient, totals = self._compute_gradient(params, batch, key)
        if self._mesh is not None:
            gradient = jax.lax.with_sharding_constraint(gradient, self._params)
        return gradient, totals

    def _compute_gradient(self, params: Any, batch: Arrays, key: Any) -> tuple[Any, Totals]:
        """Returns the gradient of the summed loss, and the totals of the batch."""

        def summed_loss(params: Any) -> tuple[Any, Any]:
            loss: Loss = self._task.loss(self._model, params, batch, train=True, dropout_rng=key)
            num_targets = jnp.asarray(loss.num_targets, jnp.float32)
            return loss.mean * num_targets, num_targets

        (value, num_targets), gradient = jax.value_and_grad(summed_loss, has_aux=True)(params)
        return gradient, Totals(value, num_targets, _count_tokens(batch))

    def _apply_gradient(self, params: Any, state: Any, total: tuple[Any, Totals]):
        gradient, totals = total
        scale = 1 / jnp.maximum(totals.num_targets, 1)
        gradient = jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), gradient)
        updates, state = self.optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, totals

    def _compute_step(self, params: Any, state: Any, batch: Arrays, key_data: Any, numbers: Any):
        total = self._part_gradient(params, batch, key_data, numbers)
        return self._apply_gradient(params, state, total)


def _count_tokens(batch: Arrays) -> Any:
    """Returns the number of tokens of the rows that count."""
    mask = batch.get(ROW_MASK)
    total = jnp.zeros((), jnp.int32)
    for name, value in batch.items():
        if name.endswith("attention_mask"):
            per_row = value.reshape(len(value), -1).astype(jnp.int32).sum(1)
            total += (per_row if mask is None else per_row * mask.astype(jnp.int32)).sum()
    return total


def _numbers(numbers: tuple[int, ...]) -> np.ndarray:
    return np.asarray(numbers, np.uint32)


def _add_trees(total: Any, gradient: Any) -> Any:
    return jax.tree.map(jnp.add, total, gradient)
