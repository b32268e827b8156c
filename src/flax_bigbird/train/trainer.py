"""The training loop: optimizer steps, logs, evaluations and checkpoints of one run."""

import itertools
import math
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_bigbird.checkpoint import (
    CheckpointError,
    atomic_directory,
    find_damage,
    recover_directory,
    write_checksums,
)
from flax_bigbird.data.batching import evaluation_batches, training_batches
from flax_bigbird.tasks.base import Loss
from flax_bigbird.tasks.evaluation import EVALUATION_SEED, run_eval_step
from flax_bigbird.train.arguments import DEFAULT_LEARNING_RATE
from flax_bigbird.train.callbacks import TrainerCallback
from flax_bigbird.train.checkpoints import RunCheckpoint, RunCheckpointManager
from flax_bigbird.train.errors import TrainingError, TrainingInterrupted
from flax_bigbird.train.first_steps import NUM_BATCHES, limit_learning_rate
from flax_bigbird.train.full_memory import explain_full_memory
from flax_bigbird.train.optimizer import create_optimizer, learning_rate_schedule
from flax_bigbird.train.run_directory import RunDirectory
from flax_bigbird.train.setup import PreparedRun
from flax_bigbird.train.sharding import BatchSharding
from flax_bigbird.train.state import TrainerState
from flax_bigbird.train.throughput import matmul_flops_per_second, training_flops_per_token

Arrays = dict[str, Any]


class Trainer:
    """Trains a model for a task, from the newest checkpoint in the run directory if there is one.

    Every random choice of step n follows from the seed and n, so that a run that was resumed ends
    with the same parameters as one that was never interrupted. One program is compiled per bucket
    length.

    Attributes:
      state: The `TrainerState`; it changes as the run proceeds.
      params: The parameters after the last step.
      tokens_per_second_at_peak: The throughput at the peak matmul rate, the denominator of `mfu`.
    """

    def __init__(self, run: PreparedRun, directory: RunDirectory, callback: TrainerCallback):
        """Loads the newest checkpoint.

        Args:
          run: Options, task, model and data.
          directory: The run directory, where checkpoints and the best model are saved.
          callback: The callback that the trainer calls.
        """
        self.options, self.task, self.model = run.options, run.task, run.model
        self.validation_data = run.validation_data
        self._max_gradient_tokens = run.max_gradient_tokens
        self.directory, self.callback = directory, callback
        self.state = TrainerState(
            run.max_steps, run.eval_steps, data_fingerprint=run.data_fingerprint
        )
        self._eval_on_start = run.eval_on_start
        self._set_learning_rate()
        self.params = run.model.params
        self.optimizer_state: Any = self.optimizer.init(self.params)
        self._checkpoints = RunCheckpointManager(directory.checkpoints)
        self._restore()
        if self.state.learning_rate is not None:
            self._set_learning_rate()
        self._train_data = run.train_data
        self._batches = self._new_batches()
        if self.state.data_iterator:
            self._batches.set_state(self.state.data_iterator)
        flops = training_flops_per_token(
            run.model.config,
            self.params,
            int(run.train_data.lengths.mean()),
            run.task.logits_per_token,
        )
        self.tokens_per_second_at_peak = matmul_flops_per_second(run.options.dtype) / flops
        self._throughputs: list[float] = []
        self._key = jax.random.key(run.options.seed)
        self._sharding = BatchSharding()
        self._gradient = jax.jit(self._compute_gradient)
        self._step = jax.jit(self._compute_step, donate_argnums=(0, 1))
        self._add = jax.jit(_add_trees, donate_argnums=(0,))
        self._apply = jax.jit(self._apply_gradient, donate_argnums=(0, 1))
        self._eval_step = jax.jit(
            lambda params, batch: run.task.eval_step(run.model, params, batch)
        )

    @property
    def metric_for_best_model(self) -> str:
        """The metric that decides which model is saved."""
        return self.options.metric_for_best_model or self.task.metric_for_best_model

    @property
    def median_tokens_per_second(self) -> float:
        """The median throughput of this process between two logs; 0.0 before the first log."""
        return statistics.median(self._throughputs) if self._throughputs else 0.0

    def train(self) -> None:
        """Trains up to the last step, or until early stopping.

        Raises:
          TrainingInterrupted: if a callback stopped the run, which is saved.
          TrainingError: if the loss is not finite, or the memory of the device is full.
        """
        try:
            self.callback.on_train_begin(self.state)
            with explain_full_memory(self.options, self._max_gradient_tokens, self.state):
                self._train()
        finally:
            self.callback.on_train_end(self.state)
            self._checkpoints.close()

    def _train(self) -> None:
        options, state = self.options, self.state
        losses: list[tuple[Any, Any]] = []
        at_start = self._eval_on_start and state.global_step == 0
        if at_start and state.max_steps and options.learning_rate is None:
            self._limit_learning_rate()
        if at_start and self.validation_data is not None:
            self._evaluate_and_save_best()
        log_time, log_tokens = time.perf_counter(), state.num_input_tokens_seen
        while not state.is_finished(options.early_stopping_patience):
            losses.append(self._train_step())
            state.global_step += 1
            at_end = state.global_step == state.max_steps
            logging = state.global_step % options.logging_steps == 0
            evaluating = state.global_step % state.eval_steps == 0 or at_end
            saving = state.global_step % options.save_steps == 0
            stopping = self.callback.should_stop()
            if logging or evaluating or saving or stopping:
                loss = self._mean_loss(losses)  # waits for the device
                now = time.perf_counter()
                self._log(loss, now - log_time, state.num_input_tokens_seen - log_tokens)
                losses, log_time, log_tokens = [], now, state.num_input_tokens_seen
            if evaluating and self.validation_data is not None:
                self._evaluate_and_save_best()
                log_time = time.perf_counter()
            if saving or stopping:
                self._save()
                log_time = time.perf_counter()
            if stopping:
                raise TrainingInterrupted(state.global_step)
        if self.validation_data is not None and state.best_step is None:
            self._evaluate_and_save_best()  # a damaged best model of a run that was at its end

    def evaluate(self, params: Any) -> tuple[dict[str, float], Arrays]:
        """Evaluates on the validation data.

        Args:
          params: The parameters to evaluate.

        Returns:
          The metrics, and the outputs of all examples in the order of the rows.
        """
        data = self.validation_data
        assert data is not None, "the run has no validation data"
        encoded = data.encoded
        batches = evaluation_batches(
            encoded.examples, data.buckets, self.task.collate, EVALUATION_SEED
        )
        outputs = run_eval_step(self._eval_step, params, batches, self._sharding.place)
        outputs = self.task.merge_windows(outputs, encoded)
        return self.task.compute_metrics(outputs, encoded), outputs

    def _set_learning_rate(self) -> None:
        """Builds the optimizer with the learning rate of the state, if it has one."""
        options, max_steps = self.options, self.state.max_steps
        if self.state.learning_rate is not None:
            options = options.replace(learning_rate=self.state.learning_rate)
        self.optimizer = create_optimizer(options, max_steps)
        self._learning_rate: Any = learning_rate_schedule(options, max_steps)

    def _limit_learning_rate(self) -> None:
        """Lowers the default learning rate if the first steps would be too long."""
        batches = itertools.islice(self._new_batches(), NUM_BATCHES)
        rate = limit_learning_rate(
            self._gradient,
            self.params,
            (self._sharding.place(batch) for batch in batches),
            self._key,
            self.options.layerwise_lr_decay,
        )
        if rate < DEFAULT_LEARNING_RATE:
            self.state.learning_rate = rate
            self._set_learning_rate()
            self.callback.on_message(
                f"The learning rate is {rate:.1e} instead of {DEFAULT_LEARNING_RATE:.0e}: longer "
                "steps would do harm to the fitted head (learning_rate overrides this)."
            )

    def _new_batches(self) -> Any:
        """Returns an iterator of training batches that begins with the first."""
        data = self._train_data
        return iter(training_batches(data.rows, data.buckets, self.task.collate, self.options.seed))

    def _restore(self) -> None:
        """Loads the newest checkpoint that is intact, if there is one.

        If the best model so far is damaged, this is a checkpoint from which the run computes it
        again, if there is one.
        """
        damage = None
        if self.validation_data is not None:
            recover_directory(self.directory.best)
            damage = find_damage(self.directory.best)
        like = {"params": self.params, "optimizer": self.optimizer_state}
        try:
            checkpoint, messages = self._checkpoints.restore_latest(
                like, lambda state, newest: damage is None or _recomputes_best(state, newest)
            )
        except CheckpointError as error:
            raise TrainingError(
                f"{error}: copy them again from a backup, or start again with overwrite_output_dir"
            ) from error
        for message in messages:
            self.callback.on_message(message)
        if checkpoint is None:
            return
        self.params = checkpoint.arrays["params"]
        self.optimizer_state = checkpoint.arrays["optimizer"]
        self.state.restore(checkpoint.state)
        if damage is not None:
            self._replace_damaged_best(damage)
        self.callback.on_message(f"Resuming from step {self.state.global_step:,}.")

    def _replace_damaged_best(self, damage: str) -> None:
        """Saves the best model again if these are its parameters, and otherwise forgets it."""
        state = self.state
        if state.best_step is None:
            return
        if state.best_step == state.global_step:
            self._save_best()
            done = "it is saved again from the checkpoint"
        else:
            forgotten = state.best_step
            state.best_metric = state.best_step = None
            state.evaluations_since_best = 0
            done = (
                f"it is chosen from the evaluations that follow, without that of step {forgotten:,}"
            )
        self.callback.on_message(f"The best model is damaged ({damage}): {done}.")

    def _save(self) -> None:
        """Writes a checkpoint of the current step."""
        self.state.data_iterator = self._batches.get_state()
        arrays = {"params": self.params, "optimizer": self.optimizer_state}
        checkpoint = RunCheckpoint(arrays, self.state.to_dict())
        self._checkpoints.save(self.state.global_step, checkpoint)
        self.callback.on_save(self.state)

    def _log(self, loss: float, seconds: float, tokens: int) -> None:
        """Records and reports the steps since the last log."""
        state = self.state
        throughput = tokens / seconds
        self._throughputs.append(throughput)
        state.train_seconds += seconds
        state.losses.append((state.global_step, loss))
        logs = {
            "loss": loss,
            "tokens_per_second": throughput,
            "learning_rate": float(self._learning_rate(state.global_step - 1)),
            "mfu": throughput / self.tokens_per_second_at_peak,
            "tokens": state.num_input_tokens_seen,
        }
        self.callback.on_log(state, logs)

    def _evaluate_and_save_best(self) -> None:
        """Evaluates the current parameters, and saves them if they are the best so far."""
        metrics, _ = self.evaluate(self.params)
        name = self.metric_for_best_model
        if name not in metrics:
            raise TrainingError(
                f"metric_for_best_model must be one of {', '.join(metrics)}; got {name}: choose "
                "one of them"
            )
        lower_is_better = name in self.task.lower_is_better
        is_best = self.state.record_evaluation(metrics, name, lower_is_better)
        if is_best:
            self._save_best()
        self.callback.on_evaluate(self.state, metrics, is_best)

    def _save_best(self) -> None:
        """Saves the current parameters as the best model, with checksums."""
        with atomic_directory(self.directory.best, replace=True) as folder:
            self.model.save_pretrained(folder, params=self.params)
            write_checksums(folder)

    def _train_step(self) -> tuple[Any, Any]:
        """Runs one optimizer step: `gradient_accumulation_steps` batches and one update.

        Returns:
          The sum of the losses and the number of targets, which may not be computed yet.
        """
        count = self.options.gradient_accumulation_steps
        total: Any = None
        for index in range(count):
            parts = self._next_batch()
            key = jax.random.fold_in(self._key, self.state.global_step * count + index)
            if count == 1 and len(parts) == 1:
                self.params, self.optimizer_state, loss = self._step(
                    self.params, self.optimizer_state, self._sharding.place(parts[0]), key
                )
                return loss
            for number, part in enumerate(parts):
                part_key = key if len(parts) == 1 else jax.random.fold_in(key, number)
                gradient = self._gradient(self.params, self._sharding.place(part), part_key)
                total = gradient if total is None else self._add(total, gradient)
        self.params, self.optimizer_state, loss = self._apply(
            self.params, self.optimizer_state, total
        )
        return loss

    def _next_batch(self) -> list[Arrays]:
        """Returns the next batch in parts whose gradients fit in memory, and counts its tokens.

        It is a single part, unless the run was resumed with smaller batches.
        """
        batch = next(self._batches)
        masks = [mask for name, mask in batch.items() if name.endswith("attention_mask")]
        self.state.num_input_tokens_seen += sum(int(mask.sum()) for mask in masks)
        if not self.task.splits_batches:
            return [batch]
        mask = batch["attention_mask"]
        max_rows = max(1, self._max_gradient_tokens // mask[0].size)
        num_parts = -(-len(mask) // max_rows)
        split = {name: np.array_split(values, num_parts) for name, values in batch.items()}
        return [{name: parts[i] for name, parts in split.items()} for i in range(num_parts)]

    def _compute_gradient(self, params: Any, batch: Arrays, key: Any) -> tuple[Any, Any, Any]:
        """Returns the gradient of the summed loss, the summed loss and the number of targets."""

        def summed_loss(params: Any) -> tuple[Any, Any]:
            loss: Loss = self.task.loss(self.model, params, batch, train=True, dropout_rng=key)
            num_targets = jnp.asarray(loss.num_targets, jnp.float32)
            return loss.mean * num_targets, num_targets

        (value, num_targets), gradient = jax.value_and_grad(summed_loss, has_aux=True)(params)
        return gradient, value, num_targets

    def _apply_gradient(self, params: Any, optimizer_state: Any, total: tuple[Any, Any, Any]):
        """Updates the parameters by the gradient of the mean loss per target."""
        gradient, value, num_targets = total
        scale = 1 / jnp.maximum(num_targets, 1)
        gradient = jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), gradient)
        updates, optimizer_state = self.optimizer.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state, (value, num_targets)

    def _compute_step(self, params: Any, optimizer_state: Any, batch: Arrays, key: Any):
        """Computes one optimizer step from one batch."""
        return self._apply_gradient(
            params, optimizer_state, self._compute_gradient(params, batch, key)
        )

    def _mean_loss(self, losses: list[tuple[Any, Any]]) -> float:
        """Returns the mean loss per target of several steps; waits for the device."""
        sums = np.sum([[float(value), float(targets)] for value, targets in losses], axis=0)
        mean = float(sums[0] / max(1.0, sums[1]))
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss must be finite; it is {mean} in the {len(losses)} steps up to "
                f"{self.state.global_step}: lower learning_rate or raise warmup_ratio; the last "
                "checkpoint and the best model so far are not affected"
            )
        return mean


def _recomputes_best(state: dict[str, Any], newest: dict[str, Any]) -> bool:
    """Returns whether a run that resumes from a checkpoint has the best model, or computes it anew.

    Args:
      state: The state of the checkpoint.
      newest: The state of the newest checkpoint.
    """
    step, best_step = state["global_step"], state["best_step"]
    return best_step in (None, step) or step < newest["best_step"]


def _add_trees(total: Any, gradient: Any) -> Any:
    return jax.tree.map(jnp.add, total, gradient)
