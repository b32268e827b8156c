"""`bigbird evaluate`: computes the metrics of a model on labeled data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flax_bigbird._messages import pluralize
from flax_bigbird.cli.errors import CommandError, require
from flax_bigbird.cli.flags import argument, command_from_parameters, flag, parse_flags
from flax_bigbird.cli.inference_flags import inference_flags, task_fields
from flax_bigbird.cli.terminal import print_plainly
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.json_output import to_json
from flax_bigbird.inference.options import EvaluationArguments
from flax_bigbird.tasks.options import DATA_FILES, RUN, TASK


def evaluate_command() -> Callable[..., None]:
    """Returns the function of `bigbird evaluate`, with its flags."""
    flags = [
        flag(
            "task",
            str,
            "The task to evaluate. By default, it is the task that the model was trained for.",
            TASK,
            metavar="TASK",
        ),
        flag("output", str, "The JSON file to write the metrics to.", RUN, metavar="FILE"),
    ]
    parameters = [
        argument("model", str, "The directory, shipped name or Hub id of the model."),
        argument(
            "files",
            list[str] | None,
            f"{DATA_FILES}.",
            required=False,
        ),
        *inference_flags("evaluate", EvaluationArguments.model_fields, flags, without={"files"}),
    ]
    return command_from_parameters(run_evaluation, parameters)


def run_evaluation(
    model: str, files: list[str] | None, task: str | None, output: str | None, **flags: Any
) -> None:
    """Evaluates a model, prints the metrics, and writes them to `output` if it is given.

    Raises:
      CommandError: if an extra is missing, or if options, model or data cannot be used.
    """
    from rich.console import Console

    from flax_bigbird.checkpoint import atomic_write_text
    from flax_bigbird.cli.compilation import enable_compilation_cache
    from flax_bigbird.data.files import check_output_directory, check_output_is_no_input
    from flax_bigbird.inference import evaluate

    for module in ("datasets", "sklearn"):
        require(module, "train")
    enable_compilation_cache()
    console = Console()
    try:
        fields = {name: field for name, (field, _) in task_fields("evaluate").items()}
        options = parse_flags(flags, EvaluationArguments.model_fields | fields)
        target = Path(output).expanduser() if output else None
        if target:
            check_output_directory(target)
            check_output_is_no_input(target, files or ())
        result = evaluate(model, files or (), task=task, **options)
    except (OptionError, DataError) as error:
        raise CommandError(str(error)) from error
    for message in result["messages"]:
        print_plainly(console, f"{message.rstrip('.')}.")
    rows, tokens = pluralize(result["rows"], "row"), pluralize(result["tokens"], "token")
    print_plainly(console, f"{result['task']}: {rows}, {tokens}")
    for name, value in result["metrics"].items():
        print_plainly(console, f"{name}: {value:.4f}")
    if target:
        atomic_write_text(target, to_json(result, indent=2) + "\n")
