"""`train` runs a training run, from its options to the saved model."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

import flax_bigbird
from flax_bigbird.checkpoint import CHECKSUM_FILE, find_damage
from flax_bigbird.data.errors import OptionError
from flax_bigbird.parallel.initialization import initialize_processes
from flax_bigbird.parallel.lost_processes import explain_lost_process
from flax_bigbird.parallel.mesh import create_mesh
from flax_bigbird.parallel.processes import (
    check_same_as_main,
    is_main_process,
    run_on_main,
    to_host,
)
from flax_bigbird.train.argument_checks import PROCESS_OPTIONS
from flax_bigbird.train.arguments import TrainingArguments
from flax_bigbird.train.callbacks import (
    CallbackList,
    MetricsFileCallback,
    TensorBoardCallback,
    TrainerCallback,
)
from flax_bigbird.train.errors import TrainingError
from flax_bigbird.train.model_setup import count_parameters
from flax_bigbird.train.report import write_report
from flax_bigbird.train.run_directory import (
    RunDirectory,
    explain_full_disk,
    open_run_directory,
)
from flax_bigbird.train.setup import PreparedRun, prepare_run
from flax_bigbird.train.trainer import Trainer


def train(options: TrainingArguments, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, Any]:
    """Trains a model and saves it in `options.output_dir`.

    If `output_dir` holds an interrupted run with the same options, training resumes from its last
    checkpoint; if that run is finished, its report is returned (see `open_run_directory`).

    Args:
      options: The options, from `train_options`.
      callbacks: The callbacks of the run.

    With several processes, each of them calls this function with the same options; every process
    returns the report, and the first one writes the files, except for its part of the checkpoints
    that each one writes. `output_dir` must be on a file system that all processes share.

    Returns:
      The content of `report.json`: the metrics of the best model, its step, and figures on the
      data, the model and the throughput.

    Raises:
      OptionError: if the options cannot be used, or if another run is in `output_dir`. Nothing was
        trained.
      DataError: if the data cannot be used. Nothing was trained.
      TrainingInterrupted: if a callback stopped the run, which is saved.
      TrainingError: if the loss is not finite, or if all checkpoints of the run are damaged.
      LostProcessError: if another process of the run was lost.
      OSError: if the disk is full. The last checkpoint is complete.
    """
    check_arguments(options, callbacks)
    initialize_processes(options)
    directory = RunDirectory(Path(options.output_dir).expanduser())
    with contextlib.ExitStack() as lock, explain_lost_process():

        def open_directory() -> None:
            open_run_directory(options)
            lock.enter_context(directory.lock())
            open_run_directory(options)  # another run may have ended here since

        check_same_as_main(_common_options(options), "options")
        mesh = create_mesh(options.mesh)
        run_on_main(open_directory)
        return _train_in(directory, options, callbacks, mesh)


def check_arguments(options: Any, callbacks: Any) -> None:
    """Checks the types of the arguments of `train`.

    Raises:
      OptionError: if the options do not come from `train_options`, or if the callbacks are not a
        list of instances; the `Trainer` of `transformers` takes classes, too.
    """
    if not isinstance(options, TrainingArguments):
        raise OptionError(
            f"must come from train_options; got {type(options).__name__}: write "
            "train(train_options(task, ...))",
            option="options",
        )
    is_list = isinstance(callbacks, Sequence)
    wrong = [x for x in callbacks if not isinstance(x, TrainerCallback)] if is_list else [callbacks]
    if wrong:
        got = wrong[0]
        kind = f"the class {got.__name__}" if isinstance(got, type) else type(got).__name__
        raise OptionError(
            f"must be a list of instances of TrainerCallback; got {kind}: write "
            "callbacks=[MyCallback()]",
            option="callbacks",
        )


def _common_options(options: TrainingArguments) -> dict[str, Any]:
    """Returns the options that all processes of a run must have in common."""
    return {
        name: value
        for name, value in options.as_dict().items()
        if name not in ("distributed", *PROCESS_OPTIONS)
    }


def _train_in(
    directory: RunDirectory,
    options: TrainingArguments,
    callbacks: Sequence[TrainerCallback],
    mesh: Mesh | None,
) -> dict[str, Any]:
    """Trains in a directory that is locked."""
    writers: list[TrainerCallback] = []
    if is_main_process():
        tensorboard = TensorBoardCallback(directory.tensorboard)
        writers = [MetricsFileCallback(directory.metrics), tensorboard]
    callback = CallbackList([*writers, *callbacks])
    if run_on_main(directory.is_finished) and not options.overwrite_output_dir:
        callback.on_message(f"{directory.root} already holds this run, which is finished.")
        # The process that finished it may have been killed.
        run_on_main(directory.remove_resume_files)
        return run_on_main(directory.load_report)

    run = prepare_run(options, directory, callback, mesh)
    trainer = Trainer(run, directory, callback, mesh)
    with explain_full_disk(directory, trainer.state):
        trainer.train()
    model, report = _evaluate_best_model(run, trainer, directory)
    run_on_main(lambda: _save_run(directory, run, model, report))
    return report


def _save_run(
    directory: RunDirectory, run: PreparedRun, model: Any, report: dict[str, Any]
) -> None:
    """Saves the model and the report, which finishes the run."""
    model.save_pretrained(directory.root)
    without = shutil.ignore_patterns(CHECKSUM_FILE)
    shutil.copytree(directory.tokenizer, directory.root, ignore=without, dirs_exist_ok=True)
    run.task.save_files(directory.root)
    write_report(directory, run, report)
    directory.remove_resume_files()


def _evaluate_best_model(
    run: PreparedRun, trainer: Trainer, directory: RunDirectory
) -> tuple[Any, dict[str, Any]]:
    """Returns the model to save, and its report.

    With validation data, this is the best model, loaded from the disk, so that the metrics are
    those of the model that users load.
    """
    state = trainer.state
    if run.validation_data is None:
        model, metrics, details = run.model, {}, {}
        model.params = to_host(trainer.params)
    else:
        damage = run_on_main(lambda: find_damage(directory.best))
        if damage is not None:
            raise TrainingError(
                f"the best model must be as it was saved; {damage}: run the same command again, "
                "which replaces it"
            )
        task = run.task
        fields = {"dtype": run.model.dtype, **task.model_fields}
        model = type(run.model).from_pretrained(directory.best, **fields)
        metrics, outputs = trainer.evaluate_model(model)
        encoded = run.validation_data.encoded
        if tuned := task.tuned_config(outputs, encoded):
            model.config.update(tuned)
            task = type(task)(task.options, task.tokenizer, model.config)
            metrics = run_on_main(lambda: task.compute_metrics(outputs, encoded))
        details = task.report_details(outputs, encoded)
    throughput = trainer.median_tokens_per_second
    report = {
        "task": run.options.task,
        "metrics": metrics,
        "best_metric": run.best_metric.name if run.best_metric else None,
        "best_step": state.global_step if state.best_step is None else state.best_step,
        "steps": state.global_step,
        "training": run.train_data.summary(),
        "validation": run.validation_data.summary() if run.validation_data else None,
        "parameters": count_parameters(model),
        "tokens": state.num_input_tokens_seen,
        "tokens_per_second": throughput,
        "mfu": trainer.mfu(throughput),
        "seconds": state.train_seconds,
        "losses": state.losses,
        "evaluations": state.evaluations,
        "versions": {"flax-bigbird": flax_bigbird.__version__, "jax": jax.__version__},
        **details,
    }
    return model, report
