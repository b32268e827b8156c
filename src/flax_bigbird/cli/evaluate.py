"""`bigbird evaluate`: metrics of a model on labelled files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flax_bigbird.cli.errors import CommandError, require
from flax_bigbird.cli.flags import argument, given, with_flags
from flax_bigbird.tasks.errors import DataError, OptionError
from flax_bigbird.train.options import EvaluateOptions


def command(model: str, files: list[str] | None, **flags: Any) -> None:
    """Measure a model on labelled files: accuracy, F1, perplexity, whatever its task has.

    Columns, labels and lengths are those the model was trained with here, unless flags say
    otherwise.
    """
    from rich.console import Console

    from flax_bigbird.cli.compilation import keep_compiled_programs
    from flax_bigbird.tasks.files import write_whole
    from flax_bigbird.train.evaluating import evaluate, evaluate_options
    from flax_bigbird.train.outputs import as_json

    for module in ("datasets", "sklearn"):
        require(module, "train")
    keep_compiled_programs()
    console = Console()
    try:
        values = given(flags) | ({"files": files} if files else {})
        options = evaluate_options(model, **values)
        target = Path(options.output).expanduser() if options.output else None
        if target and not target.absolute().parent.is_dir():
            raise OptionError(f"output must lie in a folder that exists; got {target}: make it")
        found = evaluate(options)
    except (OptionError, DataError) as error:
        raise CommandError(str(error)) from error
    for note in found["notes"]:
        console.print(f"{note}.", highlight=False)
    console.print(
        f"{found['task']}: {found['rows']:,} rows, {found['tokens']:,} tokens", highlight=False
    )
    for name, value in found["metrics"].items():
        console.print(f"{name}: {value:.4f}", highlight=False)
    if target:
        write_whole(target, as_json(found))


def signature() -> Callable[..., None]:
    """The command as typer reads it."""
    arguments = [
        argument("model", str, "Folder or Hub id of the model.", "MODEL"),
        argument(
            "files",
            list[str] | None,
            "JSONL, CSV or Parquet files, or folders of text files.",
            "[FILES]...",
        ),
    ]
    return with_flags(command, "evaluate", arguments, EvaluateOptions, without={"model", "files"})
