"""`bigbird predict`: writes an answer for every row of data files."""

from collections.abc import Callable
from typing import Any

from flax_bigbird.cli.errors import CommandError, InterruptedWork, require
from flax_bigbird.cli.flags import argument, command_from_parameters, flag, parse_flags
from flax_bigbird.cli.inference_flags import inference_flags, task_fields
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.tasks.options import DATA, RUN, TASK

SAVING_MESSAGE = "the answers are saved after this chunk of rows; a second signal ends it at once"


def predict_command() -> Callable[..., None]:
    """Returns the function of `bigbird predict`, with its flags."""
    flags = [
        flag(
            "output",
            str,
            "The file to write, which ends in .jsonl or .parquet. It is required.",
            RUN,
            metavar="FILE",
        ),
        flag("overwrite", bool, "Replace an existing output, and start over.", RUN),
        flag(
            "keep",
            list[str],
            "A column of the input to repeat in the output. The flag may be given more than once.",
            DATA,
            metavar="COLUMN",
        ),
        flag(
            "task",
            str,
            "The task to predict for. By default, it is the task that the model was trained for.",
            TASK,
            metavar="TASK",
        ),
    ]
    parameters = [
        argument("model", str, "The directory, shipped name or Hub id of the model."),
        argument(
            "files",
            list[str],
            "JSONL, CSV, TSV or Parquet files, or directories of text files; - is standard input.",
        ),
        *inference_flags("predict", {}, flags),
    ]
    return command_from_parameters(run_prediction, parameters)


def run_prediction(
    model: str,
    files: list[str],
    output: str | None,
    overwrite: bool | None,
    keep: list[str] | None,
    task: str | None,
    **flags: Any,
) -> None:
    """Writes the answers to `output`, with a progress bar.

    Raises:
      CommandError: if an extra is missing, or if options, model or data cannot be used.
      InterruptedWork: if Ctrl-C, SIGTERM or SIGUSR1 stopped it; the answers so far are saved.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from flax_bigbird._signals import deferred_signals
    from flax_bigbird.cli.compilation import enable_compilation_cache
    from flax_bigbird.inference import (
        PredictionError,
        PredictionInterrupted,
        load_predictor,
        predict_files,
    )

    if output is None:
        raise CommandError("output must be given; got none: add --output FILE.jsonl")
    if any(name.endswith(".parquet") for name in (*files, output)):
        require("pyarrow", "train")
    enable_compilation_cache()
    messages: list[str] = []
    columns = (TextColumn("rows"), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        deferred_signals(SAVING_MESSAGE) as is_stopped,
        Progress(*columns, console=Console()) as progress,
    ):
        bar = progress.add_task("", total=None)
        try:
            fields = {name: field for name, (field, _) in task_fields("predict").items()}
            rows = predict_files(
                load_predictor(model, task=task, **parse_flags(flags, fields)),
                files,
                output,
                keep=keep or (),
                overwrite=bool(overwrite),
                on_start=lambda done, total: progress.update(bar, completed=done, total=total),
                on_progress=lambda done: progress.update(bar, completed=done),
                on_message=messages.append,
                should_stop=is_stopped,
            )
        except (OptionError, DataError, PredictionError) as error:
            raise CommandError(str(error)) from error
        except PredictionInterrupted as error:
            raise InterruptedWork(
                f"{is_stopped.reason} after {error.rows:,} rows, which are saved; the same command "
                "resumes the prediction",
                is_stopped.exit_code,
            ) from error
    for message in messages:
        progress.console.print(f"{message}.", highlight=False)
    progress.console.print(f"{rows:,} rows: {output}", highlight=False)
