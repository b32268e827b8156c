"""The one error of reading and writing checkpoints."""


class CheckpointError(OSError, ValueError):
    """A checkpoint cannot be read or written: which file, what is wrong with it, what to do."""
