"""Saves and restores the checkpoints of a training run with Orbax."""

from pathlib import Path
from typing import Any, NamedTuple

import jax


class RunCheckpoint(NamedTuple):
    """Everything that a run resumes from.

    Attributes:
      arrays: The pytree of the parameters and the optimizer state.
      state: The plain values of `TrainerState.to_dict`.
    """

    arrays: Any
    state: dict[str, Any]


class RunCheckpointManager:
    """Keeps the newest checkpoint of a run in a directory.

    A checkpoint replaces the previous one only when it is complete: a save that is interrupted
    leaves the previous one.
    """

    def __init__(self, directory: Path):
        import orbax.checkpoint as ocp

        self._ocp: Any = ocp
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=1,
                # CPU arrays are not copied: the next step would overwrite what the save reads.
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, step: int, checkpoint: RunCheckpoint) -> None:
        """Writes a checkpoint and waits until it is complete."""
        args = self._ocp.args
        self._manager.save(
            step,
            args=args.Composite(
                arrays=args.StandardSave(checkpoint.arrays),
                progress=args.JsonSave(checkpoint.state),
            ),
        )

    def restore_latest(self, like: Any) -> RunCheckpoint | None:
        """Returns the newest checkpoint, or None if there is none.

        Args:
          like: A pytree with the shapes, dtypes and shardings of the arrays.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        args = self._ocp.args
        shapes = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like)
        restored: Any = self._manager.restore(
            step,
            args=args.Composite(arrays=args.StandardRestore(shapes), progress=args.JsonRestore()),
        )
        return RunCheckpoint(restored.arrays, restored.progress)

    def close(self) -> None:
        self._manager.close()
