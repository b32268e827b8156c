"""The counters and the history of a training run, which a checkpoint stores as JSON."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from flax_bigbird.data.errors import DataError
from flax_bigbird.train.errors import TrainingError

# Former field names in the checkpoints of older runs.
_RENAMED = {
    "step": "global_step",
    "data": "data_iterator",
    "tokens": "num_input_tokens_seen",
    "seconds": "train_seconds",
    "best": "best_metric",
    "worse": "evaluations_since_best",
}


def current_names(saved: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of a checkpoint under the present names of the fields."""
    return {_RENAMED.get(name, name): value for name, value in saved.items()}


@dataclass
class TrainerState:
    """Counters and history of a run, changed in place as the run proceeds.

    Attributes:
      max_steps: The optimizer step at which the run ends.
      eval_steps: The number of optimizer steps between two evaluations.
      global_step: Completed optimizer steps, including those of earlier processes.
      data_iterator: The state of the batch iterator at the last checkpoint.
      num_input_tokens_seen: Tokens trained on, without padding.
      train_seconds: Seconds spent in training steps, including those of earlier processes.
      losses: One (step, mean training loss since the previous entry) per log.
      evaluations: One dictionary per evaluation: its step and its metrics.
      best_metric: The best value of `metric_for_best_model`; None before the first evaluation.
      best_step: The step of that value. It is later than `global_step` if the run was killed after
        that evaluation and resumes from a checkpoint before it; the evaluation is then repeated.
      evaluations_since_best: Evaluations after `best_step`.
      data_fingerprint: A hash of the content of the data files; "" if it is unknown.
      learning_rate: The learning rate after the warmup, if the options leave it to the run.
    """

    max_steps: int
    eval_steps: int
    global_step: int = 0
    data_iterator: dict[str, Any] = field(default_factory=dict)
    num_input_tokens_seen: int = 0
    train_seconds: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)
    evaluations: list[dict[str, int | float]] = field(default_factory=list)
    best_metric: float | None = None
    best_step: int | None = None
    evaluations_since_best: int = 0
    data_fingerprint: str = ""
    learning_rate: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the state as plain values for JSON."""
        return dataclasses.asdict(self)

    def restore(self, saved: dict[str, Any]) -> None:
        """Restores the history of a checkpoint, but not what options and data define.

        Raises:
          DataError: if the run was started with other data.
        """
        before, now = saved.get("data_fingerprint"), self.data_fingerprint
        if before and now and before != now:
            raise DataError(
                "a run resumes with the data that it was started with; the content of train_files "
                "or validation_files has changed since then: restore the files, choose another "
                "output_dir, or start again with overwrite_output_dir"
            )
        for name, value in current_names(saved).items():
            if name not in ("max_steps", "eval_steps", "data_fingerprint"):
                setattr(self, name, value)

    def restore_best(self, step: int, value: float) -> None:
        """Takes over the best model on the disk if it is not the one of the checkpoint.

        A run that was killed may have saved a better one after its last checkpoint. That of the
        checkpoint is then lost.

        Args:
          step: The step of the best model on the disk.
          value: Its value of the metric.
        """
        if step != self.best_step:
            self.best_metric, self.best_step, self.evaluations_since_best = value, step, 0

    def is_finished(self, early_stopping_patience: int | None) -> bool:
        """Returns whether the last step is done, or the early-stopping patience is exhausted."""
        patience = early_stopping_patience
        is_exhausted = patience is not None and self.evaluations_since_best >= patience
        return self.global_step >= self.max_steps or is_exhausted

    def nan_metrics(self) -> dict[str, float]:
        """Returns the metrics of the last evaluation as NaN, for outputs of which some are NaN.

        Raises:
          TrainingError: if there is no best model yet, so that one of NaN would be saved as such.
        """
        if self.best_step is None or not self.evaluations:
            raise TrainingError(
                "the outputs of the model must be numbers to be evaluated; some are NaN after step "
                f"{self.global_step}: lower learning_rate or raise warmup_ratio; the last "
                "checkpoint is not affected"
            )
        return {name: math.nan for name in self.evaluations[-1] if name != "step"}

    def record_evaluation(
        self, metrics: dict[str, float], metric_name: str, lower_is_better: bool
    ) -> bool:
        """Adds the metrics of the current step to the history.

        Args:
          metrics: All metrics of the evaluation.
          metric_name: The metric that decides which model is the best.
          lower_is_better: Whether a lower value of it is better.

        Returns:
          Whether these are the best so far.
        """
        value, best = metrics[metric_name], self.best_metric
        if self.global_step == self.best_step and not math.isnan(value):
            # Repeated after a resume, perhaps with another rounding; the caller saves this one.
            is_best = True
        elif best is None or math.isnan(best):
            is_best = best is None or not math.isnan(value)
        else:
            is_best = value < best if lower_is_better else value > best
        if is_best:
            self.best_metric, self.best_step = value, self.global_step
            self.evaluations_since_best = 0
        elif self.best_step is None or self.global_step > self.best_step:
            self.evaluations_since_best += 1
        self.evaluations.append({"step": self.global_step, **metrics})
        return is_best
