"""The callback interface of a training run, and the callbacks that come with the package."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path

from flax_bigbird._signals import deferred_signals
from flax_bigbird.checkpoint import atomic_write_text
from flax_bigbird.data.json_output import to_json
from flax_bigbird.train.state import TrainerState
from flax_bigbird.train.tensorboard import TensorBoardWriter


class TrainerCallback:
    """The base class of callbacks; its methods do nothing, and subclasses override them."""

    def on_message(self, text: str) -> None:
        """Called with a sentence for the user, such as how many texts are empty."""
        del text

    def on_train_begin(self, state: TrainerState) -> None:
        """Called before the first step of this process."""
        del state

    def on_log(self, state: TrainerState, logs: Mapping[str, int | float]) -> None:
        """Called every `logging_steps` steps.

        Args:
          state: The state after the step.
          logs: `loss`, the mean since the last call; `tokens_per_second`; `learning_rate` of the
            last step; `mfu`, the fraction of the machine's matmul rate; `tokens` so far.
        """
        del state, logs

    def on_evaluate(
        self, state: TrainerState, metrics: Mapping[str, int | float], is_best: bool
    ) -> None:
        """Called after every evaluation; `is_best` is True if the metrics are the best so far."""
        del state, metrics, is_best

    def on_save(self, state: TrainerState) -> None:
        """Called after a checkpoint has been written."""
        del state

    def on_train_end(self, state: TrainerState) -> None:
        """Called when training ends in this process, even if by an exception."""
        del state

    def should_stop(self) -> bool:
        """Called after every step.

        If it returns True, the run is saved and `TrainingInterrupted` is raised.
        """
        return False


class StopOnSignal(TrainerCallback):
    """Saves and stops the run when the process receives Ctrl-C, SIGTERM or SIGUSR1.

        train(options, callbacks=[StopOnSignal()])

    SIGTERM is what schedulers, containers and `kill` send; SIGUSR1 is what SLURM sends with
    `--signal=USR1@60`. The run is saved after the current step, and `train` raises
    `TrainingInterrupted`. A second signal ends the process at once. The former handlers are
    restored when training ends. Signals can be handled in the main thread only; in another one,
    this callback has no effect. `bigbird train` does the same.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._is_stopped: Callable[[], bool] = lambda: False

    def on_train_begin(self, state: TrainerState) -> None:
        del state
        self._is_stopped = self._stack.enter_context(deferred_signals())

    def on_train_end(self, state: TrainerState) -> None:
        del state
        self._stack.close()

    def should_stop(self) -> bool:
        return self._is_stopped()


class CallbackList(TrainerCallback):
    """Calls several callbacks in order; the run stops if `should_stop` of one of them is True."""

    def __init__(self, callbacks: Sequence[TrainerCallback]):
        self.callbacks = list(callbacks)

    def on_message(self, text: str) -> None:
        for callback in self.callbacks:
            callback.on_message(text)

    def on_train_begin(self, state: TrainerState) -> None:
        for callback in self.callbacks:
            callback.on_train_begin(state)

    def on_log(self, state: TrainerState, logs: Mapping[str, int | float]) -> None:
        for callback in self.callbacks:
            callback.on_log(state, logs)

    def on_evaluate(
        self, state: TrainerState, metrics: Mapping[str, int | float], is_best: bool
    ) -> None:
        for callback in self.callbacks:
            callback.on_evaluate(state, metrics, is_best)

    def on_save(self, state: TrainerState) -> None:
        for callback in self.callbacks:
            callback.on_save(state)

    def on_train_end(self, state: TrainerState) -> None:
        for callback in self.callbacks:
            callback.on_train_end(state)

    def should_stop(self) -> bool:
        return any(callback.should_stop() for callback in self.callbacks)


class MetricsFileCallback(TrainerCallback):
    """Appends a JSON object per log and per evaluation to metrics.jsonl; null stands for NaN.

    When a run is resumed, the lines of the steps that will be repeated are removed first.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file: FileIO | None = None

    def on_train_begin(self, state: TrainerState) -> None:
        _remove_later_steps(self._path, state.global_step)
        # Unbuffered, so that a full disk raises here and not at close.
        self._file = self._path.open("ab", buffering=0)

    def on_log(self, state: TrainerState, logs: Mapping[str, int | float]) -> None:
        self._write("training", state.global_step, logs)

    def on_evaluate(
        self, state: TrainerState, metrics: Mapping[str, int | float], is_best: bool
    ) -> None:
        self._write("validation", state.global_step, metrics)

    def on_train_end(self, state: TrainerState) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, kind: str, step: int, values: Mapping[str, int | float]) -> None:
        assert self._file is not None, "on_train_begin opens the file"
        line = to_json({"step": step, "kind": kind, **values}) + "\n"
        self._file.write(line.encode())


class TensorBoardCallback(TrainerCallback):
    """Writes every log and every evaluation to a TensorBoard event file."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._writer: TensorBoardWriter | None = None

    def on_train_begin(self, state: TrainerState) -> None:
        self._writer = TensorBoardWriter(self._directory, state.global_step)

    def on_log(self, state: TrainerState, logs: Mapping[str, int | float]) -> None:
        self._write("training", state.global_step, logs)

    def on_evaluate(
        self, state: TrainerState, metrics: Mapping[str, int | float], is_best: bool
    ) -> None:
        self._write("validation", state.global_step, metrics)

    def on_train_end(self, state: TrainerState) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, kind: str, step: int, values: Mapping[str, int | float]) -> None:
        assert self._writer is not None, "on_train_begin opens the file"
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)


def _remove_later_steps(path: Path, step: int) -> None:
    """Removes the lines of steps after `step` from a metrics.jsonl file, if it exists."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    earlier = [line for line in lines if _step_of_line(line) <= step]
    atomic_write_text(path, "".join(f"{line}\n" for line in earlier))


def _step_of_line(line: str) -> int | float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # an incomplete line of a process that was killed
