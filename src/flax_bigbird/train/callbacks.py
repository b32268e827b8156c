"""Callbacks of a training run: the interface, and those that write metrics.jsonl and TensorBoard."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from flax_bigbird.train.state import TrainerState
from flax_bigbird.train.tensorboard import TensorBoardWriter


class TrainerCallback:
    """What a run calls as it proceeds; every method does nothing until a subclass overrides it."""

    def on_message(self, text: str) -> None:
        """Called with a sentence for the user, such as how many texts are empty."""
        del text

    def on_train_begin(self, state: TrainerState) -> None:
        """Called before the first step of this process."""
        del state

    def on_log(self, state: TrainerState, logs: Mapping[str, float]) -> None:
        """Called every `logging_steps` steps.

        Args:
          state: The state after the step.
          logs: `loss`, the mean since the last call; `tokens_per_second`; `learning_rate` of the
            last step; `mfu`, the fraction of the machine's matmul rate; `tokens` so far.
        """
        del state, logs

    def on_evaluate(
        self, state: TrainerState, metrics: Mapping[str, float], is_best: bool
    ) -> None:
        """Called after every evaluation; `is_best` says whether the metrics are the best so far."""
        del state, metrics, is_best

    def on_save(self, state: TrainerState) -> None:
        """Called after a checkpoint has been written."""
        del state

    def should_stop(self) -> bool:
        """Asked after every step; True saves the run and raises `Interrupted`."""
        return False


class CallbackList(TrainerCallback):
    """Calls several callbacks in order; the run stops if one of them asks for it."""

    def __init__(self, callbacks: Sequence[TrainerCallback]):
        self.callbacks = list(callbacks)

    def on_message(self, text: str) -> None:
        for callback in self.callbacks:
            callback.on_message(text)

    def on_train_begin(self, state: TrainerState) -> None:
        for callback in self.callbacks:
            callback.on_train_begin(state)

    def on_log(self, state: TrainerState, logs: Mapping[str, float]) -> None:
        for callback in self.callbacks:
            callback.on_log(state, logs)

    def on_evaluate(
        self, state: TrainerState, metrics: Mapping[str, float], is_best: bool
    ) -> None:
        for callback in self.callbacks:
            callback.on_evaluate(state, metrics, is_best)

    def on_save(self, state: TrainerState) -> None:
        for callback in self.callbacks:
            callback.on_save(state)

    def should_stop(self) -> bool:
        return any([callback.should_stop() for callback in self.callbacks])


class MetricsFileCallback(TrainerCallback):
    """Appends a JSON object per log and per evaluation to metrics.jsonl."""

    def __init__(self, path: Path):
        # Without a buffer nothing is left to be written when the disk is full.
        self._file = path.open("ab", buffering=0)

    def on_log(self, state: TrainerState, logs: Mapping[str, float]) -> None:
        self._write("training", state.global_step, logs)

    def on_evaluate(
        self, state: TrainerState, metrics: Mapping[str, float], is_best: bool
    ) -> None:
        self._write("validation", state.global_step, metrics)

    def close(self) -> None:
        self._file.close()

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        line = json.dumps({"step": step, "kind": kind, **values}) + "\n"
        self._file.write(line.encode())


class TensorBoardCallback(TrainerCallback):
    """Writes every log and every evaluation to a TensorBoard event file."""

    def __init__(self, directory: Path, first_step: int):
        """See `TensorBoardWriter`."""
        self._writer = TensorBoardWriter(directory, first_step)

    def on_log(self, state: TrainerState, logs: Mapping[str, float]) -> None:
        self._write("training", state.global_step, logs)

    def on_evaluate(
        self, state: TrainerState, metrics: Mapping[str, float], is_best: bool
    ) -> None:
        self._write("validation", state.global_step, metrics)

    def close(self) -> None:
        self._writer.close()

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
