"""The training loop: steps, evaluations, checkpoints; nothing of files' formats or screens."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_bigbird.train.losses import IGNORED
from flax_bigbird.train.objectives import Objective
from flax_bigbird.train.objectives.base import Prepared
from flax_bigbird.train.options import TrainOptions

Arrays = dict[str, Any]


class TrainingError(RuntimeError):
    """A run that cannot go on: what happened, at which step, the remedy."""


class Interrupted(Exception):
    """The run was asked to stop, and is saved."""

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step}")
        self.step = step


@dataclass
class Progress:
    """What of a run is neither parameters nor the optimiser's state; JSON holds it."""

    step: int = 0
    data: dict[str, Any] = field(default_factory=dict)  # the iterator's state
    tokens: int = 0  # real ones seen in training
    seconds: float = 0.0  # of training, earlier processes included
    losses: list[tuple[int, float]] = field(default_factory=list)  # (step, mean since the last)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    best: float | None = None
    best_step: int | None = None
    worse: int = 0  # evaluations since the best


class Watcher(Protocol):
    """Hears of a run: prints, writes metrics, keeps files."""

    def logged(self, progress: Progress, metrics: Mapping[str, float]) -> None: ...

    def evaluated(self, progress: Progress, metrics: Mapping[str, float], best: bool) -> None: ...

    def keep_best(self, params: Any) -> None: ...

    def save(self, params: Any, state: Any, progress: Progress) -> None: ...

    def should_stop(self) -> bool: ...


class Validation(NamedTuple):
    """Rows to validate on, and a function that gives their batches anew."""

    prepared: Prepared
    batches: Callable[[], Iterator[tuple[np.ndarray, Arrays]]]


@dataclass(frozen=True)
class Plan:
    """The numbers of a run that follow from options and data."""

    steps: int
    evaluate_every: int


class Loop:
    """Trains `model` for `objective` from `params` on; one compilation a bucket.

    All that is random in step n follows from the seed and n: a run that goes on from a checkpoint
    ends as one that was never broken off.
    """

    def __init__(
        self,
        options: TrainOptions,
        objective: Objective,
        model: Any,
        optimizer: optax.GradientTransformation,
        plan: Plan,
    ):
        self.options, self.objective, self.model = options, objective, model
        self.optimizer, self.plan = optimizer, plan
        self._key = jax.random.key(options.seed)
        self._sharding = _over_devices()
        self._gradient = jax.jit(self._gradient_of)
        self._step = jax.jit(self._whole_step, donate_argnums=(0, 1))
        self._add = jax.jit(_weighted_sum, donate_argnums=(0,))
        self._apply = jax.jit(self._update, donate_argnums=(0, 1))
        self._outputs = jax.jit(lambda params, batch: objective.outputs(model, params, batch))

    def run(
        self,
        params: Any,
        state: Any,
        progress: Progress,
        batches: Any,
        validation: Validation | None,
        watcher: Watcher,
    ) -> tuple[Any, Any]:
        """Steps up to the plan's last, or until patience is at its end.

        Args:
          progress: changed as the run goes.
          batches: an iterator with `get_state`, already where `progress` says.

        Returns:
          (params, optimiser state) after the last step.

        Raises:
          Interrupted: the watcher said so; the run is saved.
          TrainingError: the loss is not finite.
        """
        options = self.options
        pending: list[tuple[Any, Any]] = []
        last_log, tokens_then = time.perf_counter(), progress.tokens
        while progress.step < self.plan.steps and not self._out_of_patience(progress):
            params, state, loss = self._one_step(params, state, progress, batches)
            pending.append(loss)
            progress.step += 1
            at_end = progress.step == self.plan.steps
            evaluating = progress.step % self.plan.evaluate_every == 0 or at_end
            saving = progress.step % options.save_every == 0
            stopping = watcher.should_stop()
            if progress.step % options.log_every == 0 or evaluating or saving or stopping:
                mean = self._mean_of(pending, progress.step)
                now = time.perf_counter()
                progress.seconds += now - last_log
                rate = (progress.tokens - tokens_then) / (now - last_log)
                progress.losses.append((progress.step, mean))
                watcher.logged(progress, {"loss": mean, "tokens_per_second": rate})
                pending, last_log, tokens_then = [], now, progress.tokens
            if evaluating and validation is not None:
                self._evaluate_and_keep(params, progress, validation, watcher)
                last_log = time.perf_counter()
            if saving or stopping:
                progress.data = batches.get_state()
                watcher.save(params, state, progress)
                last_log = time.perf_counter()
            if stopping:
                raise Interrupted(progress.step)
        return params, state

    def evaluate(self, params: Any, validation: Validation) -> tuple[dict[str, float], Arrays]:
        """(metrics, outputs of all rows in the rows' order)."""
        merged = outputs_of(self._outputs, params, validation, self._placed)
        merged = self.objective.by_document(merged, validation.prepared)
        return self.objective.score(merged, validation.prepared), merged

    def _one_step(
        self, params: Any, state: Any, progress: Progress, batches: Iterator[Arrays]
    ) -> tuple[Any, Any, tuple[Any, Any]]:
        """(params, state, (sum of losses, targets)), as values that may not be computed yet."""
        count = self.options.gradient_accumulation
        total: Any = None
        for number in range(count):
            batch = next(batches)
            progress.tokens += int(batch["attention_mask"].sum())
            key = jax.random.fold_in(self._key, progress.step * count + number)
            batch = self._placed(batch)
            if count == 1:
                params, state, loss = self._step(params, state, batch, key)
                return params, state, loss
            part = self._gradient(params, batch, key)
            total = part if total is None else self._add(total, part)
        return self._apply(params, state, total)

    def _gradient_of(self, params: Any, batch: Arrays, key: Any) -> tuple[Any, Any, Any]:
        """(gradient of the summed loss, summed loss, targets)."""

        def summed(params: Any) -> tuple[Any, Any]:
            loss = self.objective.loss(self.model, params, batch, train=True, dropout_rng=key)
            targets = jnp.asarray(loss.targets, jnp.float32)
            return loss.mean * targets, targets

        (value, targets), gradient = jax.value_and_grad(summed, has_aux=True)(params)
        return gradient, value, targets

    def _update(self, params: Any, state: Any, total: tuple[Any, Any, Any]):
        gradient, value, targets = total
        scale = 1 / jnp.maximum(targets, 1)
        gradient = jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), gradient)
        updates, state = self.optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, (value, targets)

    def _whole_step(self, params: Any, state: Any, batch: Arrays, key: Any):
        return self._update(params, state, self._gradient_of(params, batch, key))

    def _mean_of(self, pending: list[tuple[Any, Any]], step: int) -> float:
        """The mean loss a target; waits for the device."""
        sums = np.sum([[float(value), float(targets)] for value, targets in pending], axis=0)
        mean = float(sums[0] / max(1.0, sums[1]))
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss must be finite; it is {mean} in the {len(pending)} steps up to {step}: "
                "lower learning_rate, or lengthen the warm-up; what was saved before is kept"
            )
        return mean

    def _evaluate_and_keep(
        self,
        params: Any,
        progress: Progress,
        validation: Validation,
        watcher: Watcher,
    ) -> None:
        metrics, _ = self.evaluate(params, validation)
        name = best_metric(self.options, self.objective)
        if name not in metrics:
            raise TrainingError(
                f"best_metric must be one of {', '.join(metrics)}; got {name}: choose one"
            )
        value = metrics[name]
        lower = name in self.objective.lower_is_better
        better = progress.best is None or (
            value < progress.best if lower else value > progress.best
        )
        if better:
            progress.best, progress.best_step, progress.worse = value, progress.step, 0
            watcher.keep_best(params)
        else:
            progress.worse += 1
        progress.evaluations.append({"step": progress.step, **metrics})
        watcher.evaluated(progress, metrics, better)

    def _out_of_patience(self, progress: Progress) -> bool:
        patience = self.options.patience
        return patience is not None and progress.worse >= patience

    def _placed(self, batch: Arrays) -> Arrays:
        """On the devices: a row's worth to each where the rows divide, else whole to all."""
        if self._sharding is None:
            return batch
        rows, whole, count = self._sharding
        divides = all(len(value) % count == 0 for value in batch.values())
        return jax.device_put(batch, rows if divides else whole)


def outputs_of(
    compiled: Callable[[Any, Arrays], Arrays],
    params: Any,
    validation: Validation,
    placed: Callable[[Arrays], Arrays] = lambda batch: batch,
) -> Arrays:
    """The outputs of all rows, in the rows' order."""
    numbers, found = [], []
    for rows, batch in validation.batches():
        outputs = compiled(params, placed(batch))
        found.append({key: np.asarray(value)[: len(rows)] for key, value in outputs.items()})
        numbers.append(rows)
    order = np.argsort(np.concatenate(numbers))
    return {key: _joined([part[key] for part in found])[order] for key in found[0]}


def best_metric(options: TrainOptions, objective: Objective) -> str:
    """The metric by which the best model is kept."""
    return options.best_metric or objective.best_metric


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Parts under each other; rows of tokens, whose length is their bucket's, filled up."""
    if parts[0].ndim < 2:
        return np.concatenate(parts)
    width = max(part.shape[1] for part in parts)
    filler = IGNORED if parts[0].dtype.kind == "i" else 0
    rest = ((0, 0),) * (parts[0].ndim - 2)
    filled = [
        np.pad(part, ((0, 0), (0, width - part.shape[1]), *rest), constant_values=filler)
        for part in parts
    ]
    return np.concatenate(filled)


def _weighted_sum(total: Any, part: Any) -> Any:
    return jax.tree.map(jnp.add, total, part)


def _over_devices() -> tuple[Any, Any, int] | None:
    """Shardings of a batch over all devices: by rows, and whole; None for one device."""
    devices = jax.devices()
    if len(devices) == 1:
        return None
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    spec = jax.sharding.PartitionSpec
    rows = jax.sharding.NamedSharding(mesh, spec("data"))
    return rows, jax.sharding.NamedSharding(mesh, spec()), len(devices)
