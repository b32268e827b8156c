"""Exceptions that a command reports in one line, and the check for optional dependencies."""

import importlib
from types import ModuleType


class CommandError(Exception):
    """Raised when a command has invalid arguments or cannot be run; the exit code is 2.

    The message is one line: the rule, the received value, and the remedy.
    """


class InterruptedWork(Exception):
    """Raised when a signal, such as that of Ctrl-C, stopped work that can be resumed.

    The message is one line that says how to resume it.

    Attributes:
      exit_code: 130 after Ctrl-C, and 128 plus the number of the signal in general.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def require(module: str, extra: str) -> ModuleType:
    """Imports a module that belongs to the optional dependencies.

    Args:
      module: The module to import.
      extra: The name of the optional dependencies that contain it.

    Raises:
      CommandError: if the module is not installed; the message is the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # The module is installed; something that it imports is not.
        raise CommandError(
            f'this command needs the package {error.name}: pip install "flax-bigbird[{extra}]"'
        ) from error
