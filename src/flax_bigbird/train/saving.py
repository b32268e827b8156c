"""What a run saves while it trains, and resumes from: its checkpoints and the best model so far."""

import json
from typing import Any, NamedTuple

from flax_bigbird.checkpoint import (
    CheckpointError,
    atomic_directory,
    atomic_write_text,
    find_damage,
    recover_directory,
    write_checksums,
)
from flax_bigbird.parallel.processes import run_on_main, to_host
from flax_bigbird.train.callbacks import TrainerCallback
from flax_bigbird.train.checkpoints import RunCheckpoint, RunCheckpointManager
from flax_bigbird.train.errors import TrainingError
from flax_bigbird.train.run_directory import RunDirectory
from flax_bigbird.train.state import TrainerState

EVALUATION_FILE = "evaluation.json"
"""The file beside the best model that holds its step and its value of `metric_for_best_model`."""


class RunArrays(NamedTuple):
    """The parameters and the optimizer's state, which a checkpoint holds under these names."""

    params: Any
    optimizer: Any


class RunSaver:
    """Saves and restores a run. All of its methods are called by every process of the run.

    Each process writes its own part of a checkpoint; the main process writes everything else.
    """

    def __init__(
        self, directory: RunDirectory, model: Any, state: TrainerState, callback: TrainerCallback
    ):
        self._directory, self._model = directory, model
        self._state, self._callback = state, callback
        self._checkpoints = RunCheckpointManager(directory.checkpoints)

    def restore(self, arrays: RunArrays, *, has_best: bool) -> RunArrays:
        """Loads the newest checkpoint that is intact, if there is one.

        If the best model so far is damaged, this is a checkpoint from which the run computes it
        again, if there is one.

        Args:
          arrays: The arrays of a new run, whose shardings those of the checkpoint get.
          has_best: Whether the run evaluates, and therefore saves the best model.

        Returns:
          The arrays of the checkpoint, or those of the new run.

        Raises:
          TrainingError: if all checkpoints are damaged.
        """
        damage = run_on_main(self._check_best) if has_best else None
        try:
            checkpoint, messages = self._checkpoints.restore_latest(
                arrays._asdict(),
                lambda state, newest: damage is None or _recomputes_best(state, newest),
            )
        except CheckpointError as error:
            raise TrainingError(
                f"{error}: copy them again from a backup, or start again with overwrite_output_dir"
            ) from error
        for message in messages:
            self._callback.on_message(message)
        if checkpoint is None:
            return arrays
        restored = RunArrays(**checkpoint.arrays)
        self._state.restore(checkpoint.state)
        if damage is not None:
            self._replace_damaged_best(damage, restored.params)
        elif has_best and (saved := run_on_main(self._load_best_evaluation)) is not None:
            self._state.restore_best(saved["step"], saved["value"])
        self._callback.on_message(f"Resuming from step {self._state.global_step:,}.")
        return restored

    def save(self, arrays: RunArrays) -> None:
        """Writes a checkpoint of the current step."""
        checkpoint = RunCheckpoint(arrays._asdict(), self._state.to_dict())
        self._checkpoints.save(self._state.global_step, checkpoint)
        self._callback.on_save(self._state)

    def save_best(self, params: Any) -> None:
        """Saves parameters as the best model, with checksums."""
        whole = to_host(params)
        evaluation = {"step": self._state.best_step, "value": self._state.best_metric}

        def write() -> None:
            with atomic_directory(self._directory.best, replace=True) as folder:
                self._model.save_pretrained(folder, params=whole)
                atomic_write_text(folder / EVALUATION_FILE, json.dumps(evaluation))
                write_checksums(folder)

        run_on_main(write)

    def close(self) -> None:
        self._checkpoints.close()

    def _load_best_evaluation(self) -> dict[str, Any] | None:
        """Returns the step and the value of the best model on the disk.

        None stands for a best model that an earlier version saved, or none at all.
        """
        path = self._directory.best / EVALUATION_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def _check_best(self) -> str | None:
        recover_directory(self._directory.best)
        return find_damage(self._directory.best)

    def _replace_damaged_best(self, damage: str, params: Any) -> None:
        """Saves the best model again if these are its parameters, and otherwise forgets it."""
        state = self._state
        if state.best_step is None:
            return
        if state.best_step == state.global_step:
            self.save_best(params)
            done = "it is saved again from the checkpoint"
        else:
            forgotten = state.best_step
            state.best_metric = state.best_step = None
            state.evaluations_since_best = 0
            done = (
                f"it is chosen from the evaluations that follow, without that of step {forgotten:,}"
            )
        self._callback.on_message(f"The best model is damaged ({damage}): {done}.")


def _recomputes_best(state: dict[str, Any], newest: dict[str, Any]) -> bool:
    """Returns whether a run that resumes from a checkpoint has the best model, or computes it anew.

    Args:
      state: The state of the checkpoint.
      newest: The state of the newest checkpoint.
    """
    step, best_step = state["global_step"], state["best_step"]
    return best_step in (None, step) or step < newest["best_step"]
