"""What a command cannot do, and says in one line."""

import importlib
from types import ModuleType


class CommandError(Exception):
    """The user's input or machine does not allow it: one line (rule, received, remedy), exit 2."""


class InterruptedWork(Exception):
    """Ctrl-C stopped work that can go on later: one line that says how, exit 130."""


def require(module: str, extra: str) -> ModuleType:
    """Imports `module`, which the optional dependencies named `extra` bring.

    Raises:
      CommandError: it is not installed; the message is the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and broken in itself
        raise CommandError(
            f'this command needs the package {error.name}: pip install "flax-bigbird[{extra}]"'
        ) from error
