"""`bigbird predict`: an answer for every row of files."""

from collections.abc import Callable
from typing import Any

from flax_bigbird.cli.errors import CommandError, InterruptedWork, require
from flax_bigbird.cli.flags import argument, flag, given, with_flags
from flax_bigbird.tasks.errors import DataError, OptionError
from flax_bigbird.tasks.options import AnswerOptions


def command(model: str, inputs: list[str], **flags: Any) -> None:
    """Answer every row of files, in order, into a JSONL or Parquet file.

    A prediction that was broken off goes on when the same command is given again. Columns and
    lengths are those the model was trained with here, unless flags say otherwise.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from flax_bigbird.cli.compilation import keep_compiled_programs
    from flax_bigbird.cli.interrupts import held_interrupt
    from flax_bigbird.tasks import load, predict
    from flax_bigbird.tasks.predicting import Stopped

    values = given(flags)
    output = values.pop("output", None)
    if output is None:
        raise CommandError("output must be given; got none: add --output FILE.jsonl")
    if any(name.endswith(".parquet") for name in (*inputs, output)):
        require("pyarrow", "train")
    keep_compiled_programs()
    keep, overwrite = values.pop("keep", []), values.pop("overwrite", False)
    columns = (TextColumn("rows"), MofNCompleteColumn(), TimeRemainingColumn())
    with held_interrupt() as pressed, Progress(*columns, console=Console()) as progress:
        bar = progress.add_task("", total=None)
        try:
            rows = predict(
                load(model, **values),
                model,
                inputs,
                output,
                keep=keep,
                overwrite=overwrite,
                began=lambda done, total: progress.update(bar, completed=done, total=total),
                advanced=lambda done: progress.update(bar, completed=done),
                should_stop=pressed,
            )
        except (OptionError, DataError) as error:
            raise CommandError(str(error)) from error
        except Stopped as stop:
            raise InterruptedWork(
                f"interrupted after {stop.rows:,} rows, which are kept; the same command goes on"
            ) from stop
    progress.console.print(f"{rows:,} rows: {output}", highlight=False)


def signature() -> Callable[..., None]:
    """The command as typer reads it."""
    arguments = [
        argument("model", str, "Folder or Hub id of the model.", "MODEL"),
        argument("inputs", list[str], "Files, or folders of text files.", "FILES..."),
        flag("output", str | None, "File to write, .jsonl or .parquet.", "Run"),
        flag("keep", list[str] | None, "Column of the input to repeat; may be given again.", "Run"),
        flag("overwrite", bool | None, "Replace the output.", "Run"),
        flag("task", str | None, "Default: the one the model was made for.", "Task"),
        flag("dtype", str | None, "Of the computation: float32 or bfloat16.", "Model"),
    ]
    return with_flags(command, "predict", arguments, AnswerOptions)
