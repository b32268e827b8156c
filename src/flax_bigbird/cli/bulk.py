"""What the commands that answer every row of files share: flags, progress bar, and signals."""

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax_bigbird._messages import pluralize
from flax_bigbird.cli.errors import CommandError, InterruptedWork, require
from flax_bigbird.cli.flags import field_flag, flag, parse_flags
from flax_bigbird.cli.terminal import print_plainly
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.inference.options import EngineArguments
from flax_bigbird.tasks.options import DATA, DATA_FILES, RUN

MODEL_HELP = "The directory, shipped name or Hub id of the model."
FILES_HELP = f"{DATA_FILES}; - is standard input."
SAVING_MESSAGE = "the answers are saved after this chunk of rows; a second signal ends it at once"


def output_flags(help: str, metavar: str) -> list[inspect.Parameter]:
    """Returns the flags `--output` and `--overwrite`.

    Args:
      help: The help of the output.
      metavar: The placeholder of the output in the help.
    """
    return [
        flag("output", str, f"{help} It is required.", RUN, metavar=metavar),
        flag("overwrite", bool, "Replace an existing output, and start over.", RUN),
    ]


def file_flags(suffixes: str) -> list[inspect.Parameter]:
    """Returns the flags of the output.

    Args:
      suffixes: The ends of the names of possible outputs, for the help.
    """
    return [
        *output_flags(f"The file to write, which ends in {suffixes}.", "FILE"),
        flag(
            "keep",
            list[str],
            "A column of the input to repeat in the output. The flag may be given more than once.",
            DATA,
            metavar="COLUMN",
        ),
    ]


def engine_flags() -> list[inspect.Parameter]:
    """Returns the flags that say which engine answers the rows."""
    return [field_flag(name, field) for name, field in EngineArguments.model_fields.items()]


def ray_options(flags: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the options of the engine ray; None for the engine local.

    Args:
      flags: The flags of `engine_flags`.

    Raises:
      CommandError: if an option is invalid, or if Ray is not installed.
    """
    try:
        arguments = EngineArguments(**parse_flags(flags, EngineArguments.model_fields))
    except OptionError as error:
        raise CommandError(str(error)) from error
    if arguments.engine == "local":
        return None
    require("ray", "ray")
    return arguments.model_dump(exclude={"engine"})


def run_on_files(
    work: Callable[..., int],
    files: Sequence[str],
    output: str | None,
    example: str,
    name: str,
    unit: str = "row",
) -> None:
    """Runs the work of a command with a progress bar, and stops it after a signal.

    Args:
      work: A function that writes the output, whose path is its argument, and returns the number of
        units. It takes the keywords `on_start`, `on_progress`, `on_message` and `should_stop` of
        `flax_bigbird.inference.predict_files`.
      files: The data files.
      output: The output, if it is given.
      example: The name of a possible output.
      name: What the work is called in messages.
      unit: What the work counts, in the singular.

    Raises:
      CommandError: if an extra is missing, or if options, model or data cannot be used.
      InterruptedWork: if Ctrl-C, SIGTERM or SIGUSR1 stopped it; the answers so far are saved.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from flax_bigbird._signals import deferred_signals
    from flax_bigbird.cli.compilation import enable_compilation_cache
    from flax_bigbird.inference import PredictionError, PredictionInterrupted

    if output is None:
        raise CommandError(f"output must be given; got none: add --output {example}")
    if any(file.endswith(".parquet") for file in (*files, output)):
        require("pyarrow", "train")
    enable_compilation_cache()
    messages: list[str] = []
    columns = (TextColumn(f"{unit}s"), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console())
    bar = progress.add_task("", total=None)
    with deferred_signals(SAVING_MESSAGE) as is_stopped, contextlib.ExitStack() as shown:

        def show(done: int, total: int) -> None:
            """Shows the bar, once everything that can be checked before the work is checked."""
            progress.update(bar, completed=done, total=total)
            shown.enter_context(progress)

        try:
            rows = work(
                output,
                on_start=show,
                on_progress=lambda done: progress.update(bar, completed=done),
                on_message=messages.append,
                should_stop=is_stopped,
            )
        except (OptionError, DataError, PredictionError) as error:
            raise CommandError(str(error)) from error
        except PredictionInterrupted as error:
            raise InterruptedWork(
                f"{is_stopped.reason} after "
                f"{pluralize(error.rows, f'{unit}, which is saved', f'{unit}s, which are saved')}; "
                f"the same command resumes {name}",
                is_stopped.exit_code,
            ) from error
    for message in [*(f"{message}." for message in messages), f"{pluralize(rows, unit)}: {output}"]:
        print_plainly(progress.console, message)
