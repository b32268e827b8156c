"""The errors of a training run that has started."""


class TrainingError(RuntimeError):
    """Raised when a run cannot continue; the message states problem, step and remedy."""


class TrainingInterrupted(Exception):
    """Raised when a callback stops the run, after it is saved.

    Attributes:
      step: The last optimizer step that is saved.
    """

    def __init__(self, step: int):
        super().__init__(f"the run was stopped after step {step}")
        self.step = step
