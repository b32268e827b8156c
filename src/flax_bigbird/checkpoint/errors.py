"""The error and the warning that loading and saving checkpoints can raise."""

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
