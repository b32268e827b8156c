"""The error and the warning that loading and saving checkpoints can raise."""


class CheckpointError(OSError, ValueError):
    """A checkpoint cannot be loaded or saved; the message names the file and a remedy."""


class CheckpointWarning(UserWarning):
    """The parameters of a checkpoint and those of the model differ."""
