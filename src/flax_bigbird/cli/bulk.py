"""What the commands that answer every row of files share: flags, progress bar, and signals."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from flax_bigbird.cli.errors import CommandError, InterruptedWork, require
from flax_bigbird.cli.flags import flag
from flax_bigbird.cli.terminal import print_plainly
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.tasks.options import DATA, DATA_FILES, RUN

MODEL_HELP = "The directory, shipped name or Hub id of the model."
FILES_HELP = f"{DATA_FILES}; - is standard input."
ENGINES = ("local", "ray")
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
    help = (
        "What answers the rows: this process (local), or the workers of a Ray cluster, which write "
        "a directory of Parquet files (ray, of the extra ray)."
    )
    return [
        flag("engine", str, help, RUN, metavar=f"[{'|'.join(ENGINES)}]"),
        flag(
            "address",
            str,
            "The address of a Ray cluster, or auto for that of this machine. By default, one is "
            "started on this machine.",
            RUN,
            metavar="HOST:PORT",
        ),
        flag(
            "concurrency",
            str,
            "The number of workers on Ray. By default, there is one for each GPU, or for each node "
            "without GPUs.",
            RUN,
            metavar="INTEGER",
        ),
    ]


def ray_options(
    engine: str | None, address: str | None, concurrency: str | None
) -> dict[str, Any] | None:
    """Returns the options of the engine ray; None for the engine local.

    Raises:
      CommandError: if an engine does not exist or is not installed, or if an option is invalid.
    """
    if engine not in (None, *ENGINES):
        raise CommandError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}")
    if engine != "ray":
        for name, value in {"address": address, "concurrency": concurrency}.items():
            if value is not None:
                raise CommandError(
                    f"{name} belongs to the engine ray; got {value!r} for the engine local: add "
                    "--engine ray, or leave it out"
                )
        return None
    require("ray", "ray")
    if concurrency is not None and not (concurrency.isdecimal() and int(concurrency)):
        raise CommandError(
            f"concurrency must be an integer of at least 1; got {concurrency!r}: change it"
        )
    return {"address": address, "concurrency": int(concurrency) if concurrency else None}


def run_on_files(
    work: Callable[..., int],
    files: Sequence[str],
    output: str | None,
    example: str,
    name: str,
    unit: str = "rows",
) -> None:
    """Runs the work of a command with a progress bar, and stops it after a signal.

    Args:
      work: A function that writes the output, whose path is its argument, and returns the number of
        `unit`. It takes the keywords `on_start`, `on_progress`, `on_message` and `should_stop` of
        `flax_bigbird.inference.predict_files`.
      files: The data files.
      output: The output, if it is given.
      example: The name of a possible output.
      name: What the work is called in messages.
      unit: What the work counts.

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
    columns = (TextColumn(unit), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        deferred_signals(SAVING_MESSAGE) as is_stopped,
        Progress(*columns, console=Console()) as progress,
    ):
        bar = progress.add_task("", total=None)
        try:
            rows = work(
                output,
                on_start=lambda done, total: progress.update(bar, completed=done, total=total),
                on_progress=lambda done: progress.update(bar, completed=done),
                on_message=messages.append,
                should_stop=is_stopped,
            )
        except (OptionError, DataError, PredictionError) as error:
            raise CommandError(str(error)) from error
        except PredictionInterrupted as error:
            raise InterruptedWork(
                f"{is_stopped.reason} after {error.rows:,} {unit}, which are saved; the same "
                f"command resumes {name}",
                is_stopped.exit_code,
            ) from error
    for message in [*(f"{message}." for message in messages), f"{rows:,} {unit}: {output}"]:
        print_plainly(progress.console, message)
