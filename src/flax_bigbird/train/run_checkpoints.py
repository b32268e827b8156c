"""Checkpoints of a run, by orbax: all that the next step depends on, whole or not at all."""

from pathlib import Path
from typing import Any, NamedTuple

import jax


class Saved(NamedTuple):
    """Arrays (parameters and the optimiser's state) and plain values of a run after a step."""

    arrays: Any
    values: dict[str, Any]


class RunCheckpoints:
    """The newest state of a run in a folder; a save that is cut short leaves the one before."""

    def __init__(self, folder: Path):
        import orbax.checkpoint as ocp

        self._ocp: Any = ocp
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=1,
                # Arrays of a CPU are not copied: the next step would write where the save reads.
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, step: int, saved: Saved) -> None:
        args = self._ocp.args
        self._manager.save(
            step,
            args=args.Composite(
                arrays=args.StandardSave(saved.arrays), progress=args.JsonSave(saved.values)
            ),
        )

    def restore(self, like: Any) -> Saved | None:
        """The newest state, its arrays shaped as `like`; None before the first save."""
        step = self._manager.latest_step()
        if step is None:
            return None
        args = self._ocp.args
        shapes = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like)
        found: Any = self._manager.restore(
            step,
            args=args.Composite(arrays=args.StandardRestore(shapes), progress=args.JsonRestore()),
        )
        return Saved(found.arrays, found.progress)

    def close(self) -> None:
        self._manager.close()
