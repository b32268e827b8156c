"""Saves and restores the checkpoints of a training run with Orbax, and detects damaged ones."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from flax_bigbird._messages import first_line
from flax_bigbird.checkpoint import (
    CheckpointError,
    find_damage,
    has_checksums,
    write_checksums,
)
from flax_bigbird.parallel.processes import run_on_main
from flax_bigbird.train.state import current_names

State = dict[str, Any]


class RunCheckpoint(NamedTuple):
    """Everything that a run resumes from.

    Attributes:
      arrays: The pytree of the parameters and the optimizer state.
      state: The plain values of `TrainerState.to_dict`.
    """

    arrays: Any
    state: State


class RunCheckpointManager:
    """Keeps the two newest checkpoints of a run in a directory, with checksums.

    A save that is interrupted leaves the previous checkpoint. The second newest is removed when the
    next save starts, so that there are never more than two.

    Every process of a run calls every method. Each of them writes the parts of the arrays that its
    devices hold; the main process alone reads and writes checksums, and decides what is damaged. A
    checkpoint can be restored with other shardings than it was saved with.
    """

    def __init__(self, directory: Path):
        import orbax.checkpoint as ocp

        self._ocp: Any = ocp
        self._directory = directory.absolute()
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                # CPU arrays are not copied: the next step would overwrite what the save reads.
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, step: int, checkpoint: RunCheckpoint) -> None:
        """Writes a checkpoint and waits until it is complete."""
        for older in self._steps()[1:]:
            self._manager.delete(older)
        args = self._ocp.args
        self._manager.save(
            step,
            args=args.Composite(
                arrays=args.StandardSave(checkpoint.arrays),
                progress=args.JsonSave(checkpoint.state),
            ),
        )
        run_on_main(lambda: write_checksums(self._directory / str(step)))

    def restore_latest(
        self, like: Any, can_resume: Callable[[State, State], bool] = lambda state, newest: True
    ) -> tuple[RunCheckpoint | None, list[str]]:
        """Returns the newest checkpoint that is intact, and removes those after it.

        Args:
          like: A pytree with the shapes, dtypes and shardings of the arrays.
          can_resume: Takes the state of a checkpoint and that of the newest intact one, and returns
            whether the run may resume from the former. If it may resume from none, it resumes from
            the newest.

        Returns:
          The checkpoint, or None if there is none at all, and sentences about damaged checkpoints.

        Raises:
          CheckpointError: if all checkpoints are damaged.
        """
        damaged: dict[int, str] = {}
        newest: tuple[int, RunCheckpoint | State] | None = None
        chosen: tuple[int, RunCheckpoint | State] | None = None
        for step in self._steps():
            loaded = self._load_if_intact(step, like)
            if isinstance(loaded, str):
                damaged[step] = loaded
                continue
            newest = newest or (step, loaded)
            if can_resume(_state(loaded), _state(newest[1])):
                chosen = (step, loaded)
                break
        chosen = chosen or newest
        if chosen is None:
            if damaged:
                raise CheckpointError(
                    "a run resumes from a checkpoint that is as it was saved; all of them are "
                    f"damaged: {'; '.join(damaged.values())}"
                )
            return None, []
        step, loaded = chosen
        messages = [
            f"The checkpoint of step {other:,} is damaged: {reason}."
            for other, reason in damaged.items()
            if other > step
        ]
        checkpoint = loaded if isinstance(loaded, RunCheckpoint) else self._load(step, like)
        later = [other for other in self._steps() if other > step]

        def remove_later() -> None:  # Orbax saves no step before one that exists
            for other in later:
                shutil.rmtree(self._directory / str(other))

        run_on_main(remove_later)
        self._manager.reload()
        return checkpoint, messages

    def close(self) -> None:
        self._manager.close()

    def _steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, newest first."""
        names = run_on_main(lambda: [path.name for path in self._directory.iterdir()])
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)

    def _load_if_intact(self, step: int, like: Any) -> RunCheckpoint | State | str:
        """Returns the state of a checkpoint, or what is damaged.

        A checkpoint without checksums is loaded in full, as nothing else shows its damage: an
        earlier version wrote it, or the process was killed before it wrote the checksums.
        """
        folder = self._directory / str(step)
        reason, is_checked = run_on_main(lambda: (find_damage(folder), has_checksums(folder)))
        if reason is not None:
            return reason
        if is_checked:
            args = self._ocp.args
            args = args.Composite(progress=args.JsonRestore())
            state: Any = self._manager.restore(step, args=args)
            return state.progress
        try:
            return self._load(step, like)
        except Exception as error:  # damaged files can raise anything
            return f"{folder} cannot be read ({type(error).__name__}: {first_line(error)})"

    def _load(self, step: int, like: Any) -> RunCheckpoint:
        args = self._ocp.args
        shapes = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like)
        restored: Any = self._manager.restore(
            step,
            args=args.Composite(arrays=args.StandardRestore(shapes), progress=args.JsonRestore()),
        )
        return RunCheckpoint(restored.arrays, restored.progress)


def _state(loaded: RunCheckpoint | State) -> State:
    """Returns the state of a checkpoint under the present names of its values."""
    return current_names(loaded.state if isinstance(loaded, RunCheckpoint) else loaded)
