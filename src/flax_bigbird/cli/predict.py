"""`bigbird predict`: writes an answer for every row of data files."""

from collections.abc import Callable
from typing import Any

from flax_bigbird.cli.bulk import (
    FILES_HELP,
    MODEL_HELP,
    engine_flags,
    file_flags,
    ray_options,
    run_on_files,
)
from flax_bigbird.cli.flags import argument, command_from_parameters, flag, parse_flags
from flax_bigbird.cli.inference_flags import inference_flags, task_fields
from flax_bigbird.tasks.options import TASK


def predict_command() -> Callable[..., None]:
    """Returns the function of `bigbird predict`, with its flags."""
    flags = [
        *file_flags(".jsonl or .parquet"),
        *engine_flags(),
        flag(
            "task",
            str,
            "The task to predict for. By default, it is the task that the model was trained for.",
            TASK,
            metavar="TASK",
        ),
    ]
    parameters = [
        argument("model", str, MODEL_HELP),
        argument("files", list[str], FILES_HELP),
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
    engine: str | None,
    address: str | None,
    concurrency: str | None,
    **flags: Any,
) -> None:
    """Writes the answers to `output`, with a progress bar.

    Raises:
      CommandError: if an extra is missing, or if options, model or data cannot be used.
      InterruptedWork: if Ctrl-C, SIGTERM or SIGUSR1 stopped it; the answers so far are saved.
    """

    on_ray = ray_options({"engine": engine, "address": address, "concurrency": concurrency})

    def work(target: str, **events: Any) -> int:
        from flax_bigbird import inference

        fields = {name: field for name, (field, _) in task_fields("predict").items()}
        options = parse_flags(flags, fields)
        common = {"keep": keep or (), "overwrite": bool(overwrite), **events}
        if on_ray is not None:
            from flax_bigbird.inference import ray

            return ray.predict_files(model, files, target, task=task, **on_ray, **common, **options)
        predictor = inference.load_predictor(model, task=task, **options)
        return inference.predict_files(predictor, files, target, **common)

    run_on_files(work, files, output, "FILE.jsonl", "the prediction")
