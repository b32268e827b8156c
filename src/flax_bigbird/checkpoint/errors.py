"""The error and the warning that loading and saving checkpoints can raise, and who is warned."""

import inspect
import warnings
from collections.abc import Iterable


class CheckpointError(OSError, ValueError):
    """A checkpoint cannot be loaded or saved; the message names the file and a remedy."""


class CheckpointWarning(UserWarning):
    """The parameters of a checkpoint and those of the model differ.

    Attributes:
      new_parameters: The paths of parameters that the checkpoint lacks, or has in another shape.
      unread_parameters: The paths of parameters of the checkpoint that the model lacks.
    """

    def __init__(
        self,
        message: str,
        *,
        new_parameters: Iterable[tuple[str, ...]] = (),
        unread_parameters: Iterable[tuple[str, ...]] = (),
    ):
        super().__init__(message)
        self.new_parameters = tuple(new_parameters)
        self.unread_parameters = tuple(unread_parameters)


def warn_about_checkpoint(message: str, **parameters: Iterable[tuple[str, ...]]) -> None:
    """Gives a warning that points to the caller of this package, such as of `from_pretrained`.

    Args:
      message: The message.
      **parameters: The attributes of the `CheckpointWarning`.
    """
    # Runtime type checkers wrap functions, which adds frames in between.
    skipped = {"flax_bigbird", "jaxtyping", "beartype"}
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in skipped:
        frame, level = frame.f_back, level + 1
    warnings.warn(CheckpointWarning(message, **parameters), stacklevel=level)
