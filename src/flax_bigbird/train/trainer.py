"""The training loop: optimizer steps, logs, evaluations and checkpoints of one run."""

import itertools
import math
import statistics
import time
from typing import Any

import numpy as np
from jax.sharding import Mesh

from flax_bigbird._messages import pluralize
from flax_bigbird.data.batching import (
    BatchRows,
    Bucket,
    evaluation_batches,
)
from flax_bigbird.parallel.processes import AgreedFlag, run_on_main
from flax_bigbird.tasks.evaluation import EVALUATION_SEED, count_nan_examples, run_eval_step
from flax_bigbird.train.arguments import DEFAULT_LEARNING_RATE, TrainingArguments
from flax_bigbird.train.callbacks import TrainerCallback
from flax_bigbird.train.errors import TrainingError, TrainingInterrupted
from flax_bigbird.train.first_steps import NUM_BATCHES, limit_learning_rate
from flax_bigbird.train.full_memory import explain_full_memory
from flax_bigbird.train.optimizer import create_optimizer, learning_rate_schedule
from flax_bigbird.train.run_directory import RunDirectory
from flax_bigbird.train.saving import RunArrays, RunSaver
from flax_bigbird.train.setup import PreparedRun
from flax_bigbird.train.state import TrainerState
from flax_bigbird.train.steps import Part, Totals, TrainingSteps
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
    """

    def __init__(
        self,
        run: PreparedRun,
        directory: RunDirectory,
        callback: TrainerCallback,
        mesh: Mesh | None = None,
    ):
        """Loads the newest checkpoint.

        Args:
          run: Options, task, model and data.
          directory: The run directory, where checkpoints and the best model are saved.
          callback: The callback that the trainer calls.
          mesh: The mesh of the devices; None for a single device.
        """
        self.options, self.task = run.options, run.task
        self.validation_data = run.validation_data
        self._best_metric = run.best_metric
        self._max_gradient_tokens = run.max_gradient_tokens
        self.callback = callback
        self.state = TrainerState(
            run.max_steps, run.eval_steps, data_fingerprint=run.data_fingerprint
        )
        self._eval_on_start = run.eval_on_start
        self._steps = TrainingSteps(
            run.task, run.model, self._create_optimizer(), mesh, run.options.seed
        )
        largest = run.train_data.main_bucket
        advice = self._steps.batch_sharding.advice(largest.batch_size, largest.length)
        if advice is not None:
            callback.on_message(advice)
        self._saver = RunSaver(directory, run.model, self.state, callback)
        self.params = run.model.params = self._steps.place_params(run.model.params)
        arrays = RunArrays(self.params, self._steps.init_optimizer(self.params))
        arrays = self._saver.restore(arrays, has_best=run.validation_data is not None)
        self.params, self.optimizer_state = arrays
        if self.state.learning_rate is not None:
            self._steps.optimizer = self._create_optimizer()
        self._train_data = run.train_data
        self._batches = self._new_batches()
        if self.state.data_iterator:
            self._batches.set_state(self.state.data_iterator)
        self._flops_per_token = training_flops_per_token(
            run.model.config,
            self.params,
            run.train_data.mean_length,
            run.task.logits_per_token,
        )
        matmul_flops_per_second(run.options.dtype)  # before anything is timed
        self._throughputs: list[float] = []
        self._stop_flag = AgreedFlag(mesh)

    @property
    def median_tokens_per_second(self) -> float:
        """The median throughput of this process between two logs; 0.0 before the first log."""
        return statistics.median(self._throughputs) if self._throughputs else 0.0

    def mfu(self, tokens_per_second: float) -> float:
        """Returns the model FLOPs utilization, a fraction of the matmul rate of this machine."""
        used = tokens_per_second * self._flops_per_token
        return used / matmul_flops_per_second(self.options.dtype, at_least=used)

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
            self._saver.close()

    def _train(self) -> None:
        options, state = self.options, self.state
        totals: list[Totals] = []
        at_start = self._eval_on_start and state.global_step == 0
        if at_start and state.max_steps and options.learning_rate is None:
            self._limit_learning_rate()
        if at_start and self.validation_data is not None:
            self._evaluate_and_save_best()
        log_time = time.perf_counter()
        while not state.is_finished(options.early_stopping_patience):
            totals.append(self._train_step())
            state.global_step += 1
            at_end = state.global_step == state.max_steps
            logging = state.global_step % options.logging_steps == 0
            repeating = state.global_step == state.best_step
            evaluating = state.global_step % state.eval_steps == 0 or at_end or repeating
            saving = state.global_step % options.save_steps == 0
            stopping = self._stop_flag.poll(self.callback.should_stop())
            if logging or evaluating or saving or stopping:
                loss = self._mean_loss(totals)  # waits for the device
                seconds = time.perf_counter() - log_time
                self._log(loss, seconds, sum(int(total.num_tokens) for total in totals))
                totals, log_time = [], time.perf_counter()
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
          The metrics, and the outputs of all examples in the order of the rows. If some outputs
          are NaN, all metrics are, because that of the class with the highest logit, for example,
          would be a number.

        Raises:
          TrainingError: if outputs are NaN, and no earlier model of the run is better.
        """
        data = self.validation_data
        assert data is not None, "the run has no validation data"
        encoded = data.encoded
        batches = evaluation_batches(
            encoded.examples,
            data.buckets,
            self.task.collate,
            EVALUATION_SEED,
            self._steps.evaluation_sharding.batch_rows,
        )
        outputs = run_eval_step(self._steps.eval_step, params, batches)
        if count_nan_examples(outputs):
            return self.state.nan_metrics(), outputs
        outputs = self.task.merge_windows(outputs, encoded)
        # The main process decides, as others may round differently.
        return run_on_main(lambda: self.task.compute_metrics(outputs, encoded)), outputs

    def evaluate_model(self, model: Any) -> tuple[dict[str, float], Arrays]:
        """Evaluates a model with the parameters that it was loaded with, see `evaluate`."""
        return self.evaluate(self._steps.place_params(model.params))

    def _options_with_learning_rate(self) -> TrainingArguments:
        """Returns the options with the learning rate of the state, if it has one."""
        rate = self.state.learning_rate
        return self.options if rate is None else self.options.replace(learning_rate=rate)

    def _create_optimizer(self) -> Any:
        """Returns the optimizer, and sets the schedule of its learning rate."""
        options, max_steps = self._options_with_learning_rate(), self.state.max_steps
        self._learning_rate: Any = learning_rate_schedule(options, max_steps)
        return create_optimizer(options, max_steps)

    def _limit_learning_rate(self) -> None:
        """Lowers the default learning rate if the first steps would be too long."""
        batches = itertools.islice(self._new_batches(), NUM_BATCHES)

        def gradient(params: Any, part: Part) -> tuple[Any, Any, Any]:
            gradient, totals = self._steps.gradient(params, part)
            return gradient, totals.loss, totals.num_targets

        parts = (part for batch in batches for part in batch)
        rate = limit_learning_rate(gradient, self.params, parts, self.options.layerwise_lr_decay)
        if rate < DEFAULT_LEARNING_RATE:
            self.state.learning_rate = rate
            self._steps.optimizer = self._create_optimizer()
            self.callback.on_message(
                f"The learning rate is {rate:.1e} instead of {DEFAULT_LEARNING_RATE:.0e}: longer "
                "steps would do harm to the fitted head (learning_rate overrides this)."
            )

    def _new_batches(self) -> Any:
        """Returns an iterator of training batches that begins with the first.

        A batch is a list of parts whose gradients fit in memory: a single one, unless the run was
        resumed with smaller batches.
        """
        data, sharding = self._train_data, self._steps.batch_sharding

        def batch_rows(bucket: Bucket, num_readers: int = 1) -> BatchRows:
            tokens_per_row = bucket.length * data.inputs_per_example
            max_rows = self._max_gradient_tokens // tokens_per_row
            splits = self.task.splits_batches
            return sharding.batch_rows(bucket.batch_size, max_rows if splits else None, num_readers)

        return data.iterate_batches(self.task.collate, self.options.seed, batch_rows)

    def _save(self) -> None:
        """Writes a checkpoint of the current step."""
        self.state.data_iterator = self._batches.get_state()
        self._saver.save(RunArrays(self.params, self.optimizer_state))

    def _log(self, loss: float, seconds: float, tokens: int) -> None:
        """Records and reports the steps since the last log."""
        state = self.state
        state.num_input_tokens_seen += tokens
        throughput = tokens / seconds
        self._throughputs.append(throughput)
        state.train_seconds += seconds
        state.losses.append((state.global_step, loss))
        logs = {
            "loss": loss,
            "tokens_per_second": throughput,
            "learning_rate": float(self._learning_rate(state.global_step - 1)),
            "mfu": self.mfu(throughput),
            "tokens": state.num_input_tokens_seen,
        }
        self.callback.on_log(state, logs)

    def _evaluate_and_save_best(self) -> None:
        """Evaluates the current parameters, and saves them if they are the best so far."""
        metrics, _ = self.evaluate(self.params)
        best = self._best_metric
        assert best is not None, "a run with validation data has a metric"
        if best.name not in metrics:
            raise TrainingError(
                f"every evaluation must compute {best.name}, the metric for the best model; got "
                f"{', '.join(metrics)}: choose one of them with metric_for_best_model, or correct "
                f"evaluation_metrics of the task {self.options.task}"
            )
        is_best = self.state.record_evaluation(metrics, best.name, not best.greater_is_better)
        if is_best:
            self._saver.save_best(self.params)
        self.callback.on_evaluate(self.state, metrics, is_best)

    def _train_step(self) -> Totals:
        """Runs one optimizer step: `gradient_accumulation_steps` batches and one update.

        Returns:
          The totals of the batches, which may not be computed yet.
        """
        count = self.options.gradient_accumulation_steps
        steps = self._steps
        total: Any = None
        for index in range(count):
            parts = next(self._batches)
            number = self.state.global_step * count + index
            if count == 1 and len(parts) == 1:
                self.params, self.optimizer_state, totals = steps.step(
                    self.params, self.optimizer_state, parts[0], number
                )
                return totals
            for part_number, part in enumerate(parts):
                numbers = (number,) if len(parts) == 1 else (number, part_number)
                gradient = steps.gradient(self.params, part, *numbers)
                total = gradient if total is None else steps.add(total, gradient)
        self.params, self.optimizer_state, totals = steps.apply(
            self.params, self.optimizer_state, total
        )
        return totals

    def _mean_loss(self, totals: list[Totals]) -> float:
        """Returns the mean loss per target of several steps; waits for the device."""
        sums = np.sum([[float(t.loss), float(t.num_targets)] for t in totals], axis=0)
        mean = float(sums[0] / max(1.0, sums[1]))
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss must be finite; it is {mean} in the "
                f"{pluralize(len(totals), 'step')} up to {self.state.global_step}: lower "
                "learning_rate or raise warmup_ratio; the last checkpoint and the best model so "
                "far are not affected"
            )
        return mean
