"""`bigbird serve`: answers requests over HTTP with one or several models."""

from collections.abc import Callable
from typing import Any

from flax_bigbird.cli.errors import CommandError, require
from flax_bigbird.cli.flags import (
    argument,
    command_from_parameters,
    field_flag,
    parse_flags,
)
from flax_bigbird.data.errors import OptionError
from flax_bigbird.server.settings import ServerSettings, with_environment
from flax_bigbird.tasks.options import option_fields

MODELS_HELP = (
    "Directories, shipped names or Hub ids of models, each served for the task that it was "
    "trained for. TASK=MODEL serves one for another task, as in embedding=MODEL."
)


def serve_command() -> Callable[..., None]:
    """Returns the function of `bigbird serve`, with its flags."""
    fields = option_fields(ServerSettings)
    flags = [field_flag(name, field) for name, field in fields.items()]
    return command_from_parameters(run_server, [argument("models", list[str], MODELS_HELP), *flags])


def run_server(models: list[str], **flags: Any) -> None:
    """Serves models until Ctrl-C or SIGTERM.

    Raises:
      CommandError: if the extra is missing, or if options or a model cannot be used.
    """
    try:
        given = parse_flags(flags, option_fields(ServerSettings))
        settings = ServerSettings(**with_environment(given))
    except OptionError as error:
        raise CommandError(str(error)) from error
    for module in ("starlette", "uvicorn", "prometheus_client"):
        require(module, "serve")
    from flax_bigbird.cli.compilation import enable_compilation_cache
    from flax_bigbird.server.lifecycle import serve

    enable_compilation_cache()
    try:
        serve(models, settings)
    except OptionError as error:
        raise CommandError(str(error)) from error
