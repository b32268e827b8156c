"""`train` runs a training run, from its options to the saved model."""

import shutil
from collections.abc import Sequence
from typing import Any

import jax

import flax_bigbird
from flax_bigbird.checkpoint import CHECKSUM_FILE, find_damage
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

    Returns:
      The content of `report.json`: the metrics of the best model, its step, and figures on the
      data, the model and the throughput.

    Raises:
      OptionError: if the options cannot be used, or if another run is in `output_dir`. Nothing was
        trained.
      DataError: if the data cannot be used. Nothing was trained.
      TrainingInterrupted: if a callback stopped the run, which is saved.
      TrainingError: if the loss is not finite, or if all checkpoints of the run are damaged.
      OSError: if the disk is full. The last checkpoint is complete.
    """
    directory = open_run_directory(options)
    with directory.lock():
        open_run_directory(options)  # another run may have ended here since
        return _train_in(directory, options, callbacks)


def _train_in(
    directory: RunDirectory, options: TrainingArguments, callbacks: Sequence[TrainerCallback]
) -> dict[str, Any]:
    """Trains in a directory that is locked."""
    writers = [MetricsFileCallback(directory.metrics), TensorBoardCallback(directory.tensorboard)]
    callback = CallbackList([*writers, *callbacks])
    if directory.is_finished() and not options.overwrite_output_dir:
        callback.on_message(f"{directory.root} already holds this run, which is finished.")
        directory.remove_resume_files()  # the process that finished it may have been killed
        return directory.load_report()

    run = prepare_run(options, directory, callback)
    trainer = Trainer(run, directory, callback)
    with explain_full_disk(directory, trainer.state):
        trainer.train()
    model, report = _evaluate_best_model(run, trainer, directory)
    model.save_pretrained(directory.root)
    without = shutil.ignore_patterns(CHECKSUM_FILE)
    shutil.copytree(directory.tokenizer, directory.root, ignore=without, dirs_exist_ok=True)
    run.task.save_files(directory.root)
    write_report(directory, run, report)
    directory.remove_resume_files()
    return report


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
        model.params = trainer.params
    else:
        damage = find_damage(directory.best)
        if damage is not None:
            raise TrainingError(
                f"the best model must be as it was saved; {damage}: run the same command again, "
                "which replaces it"
            )
        task = run.task
        fields = {"dtype": run.model.dtype, **task.model_fields}
        model = type(run.model).from_pretrained(directory.best, **fields)
        metrics, outputs = trainer.evaluate(model.params)
        encoded = run.validation_data.encoded
        if tuned := task.tuned_config(outputs, encoded):
            model.config.update(tuned)
            task = type(task)(task.options, task.tokenizer, model.config)
            metrics = task.compute_metrics(outputs, encoded)
        details = task.report_details(outputs, encoded)
    throughput = trainer.median_tokens_per_second
    report = {
        "task": run.options.task,
        "metrics": metrics,
        "best_metric": trainer.metric_for_best_model if run.validation_data else None,
        "best_step": state.global_step if state.best_step is None else state.best_step,
        "steps": state.global_step,
        "training": run.train_data.summary(),
        "validation": run.validation_data.summary() if run.validation_data else None,
        "parameters": count_parameters(model),
        "tokens": state.num_input_tokens_seen,
        "tokens_per_second": throughput,
        "mfu": throughput / trainer.tokens_per_second_at_peak,
        "seconds": state.train_seconds,
        "losses": state.losses,
        "evaluations": state.evaluations,
        "versions": {"flax-bigbird": flax_bigbird.__version__, "jax": jax.__version__},
        **details,
    }
    return model, report
