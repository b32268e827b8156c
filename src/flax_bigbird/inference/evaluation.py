"""Evaluation: the metrics of a trained model on labeled data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax_bigbird.data.batching import evaluation_batches, padding_fraction
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.loading import file_columns, load_dataset_split, load_files
from flax_bigbird.data.tokenization import load_tokenizer
from flax_bigbird.data.types import Dataset
from flax_bigbird.inference.devices import InferenceDevices
from flax_bigbird.inference.options import evaluate_options
from flax_bigbird.inference.resolve import resolve_name, resolve_options, resolve_task
from flax_bigbird.inference.rows import (
    is_path,
    is_single_row,
    iterate_items,
    iterate_rows,
    rows_as_dataset,
)
from flax_bigbird.tasks.base import EncodedDataset, Task
from flax_bigbird.tasks.evaluation import (
    EVALUATION_SEED,
    assign_example_buckets,
    count_nan_examples,
    run_eval_step,
    unknown_tokens_messages,
)
from flax_bigbird.tasks.loading import load_config, load_model
from flax_bigbird.tasks.option_names import column_errors


def evaluate(
    model: str | Path,
    files: Any = (),
    *,
    task: str | None = None,
    devices: Sequence[Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Computes the metrics of a model, as a training run computes them on its validation data.

        evaluate("classifier", ["labeled.jsonl"])["metrics"]["accuracy"]

    Args:
      model: A directory, the name of a shipped model, or a Hub id.
      files: A JSON, CSV, TSV, Parquet, CoNLL, FASTA or text file, which may be compressed, a
        directory of text files, or several of them. Rows in memory may be given instead:
        dictionaries, records, a `datasets.Dataset`, or a table of pandas or pyarrow.
      task: The name of the task. By default, it is the task that the checkpoint was trained for.
      devices: Devices of JAX, which share the work as the option `mesh` says. By default, they
        are all devices of this process.
      options: The options of `bigbird evaluate`, such as `dataset`, `split`, `label_column` or
        `max_length`. Options that are left out have the values of the training run in the
        directory, if it holds one.

    Returns:
      A dictionary with these entries:

      * `task`: the name of the task,
      * `metrics`: the metrics by name,
      * `rows` and `tokens`: the number of rows and of tokens of the data,
      * `padding`: the fraction of the computed positions that are padding,
      * `messages`: sentences about the data, such as how many texts are empty.

    Raises:
      OptionError, DataError: if the options, the model or the data cannot be used.
    """
    name = resolve_name(model)
    config = load_config(name)
    task_class = resolve_task(task, config, name, "evaluate")
    items = list(iterate_items([files] if is_path(files) or is_single_row(files) else files))
    rows_are_given = not all(map(is_path, items))
    if items and not rows_are_given:
        options["files"] = [str(path) for path in items]
    resolved = evaluate_options(
        task_class.name,
        rows_are_given=rows_are_given,
        **resolve_options(task_class.name, "evaluate", name, options),
    ).with_max_length(config.max_position_embeddings)
    shared = InferenceDevices.resolve(resolved.mesh, devices, config)
    with column_errors(resolved):
        resolved, rows = _load_rows(task_class, resolved, items if rows_are_given else None)
    tokenizer = load_tokenizer(name)
    config_changes = {**task_class.model_fields, **resolved.config_overrides}
    loaded = load_model(name, task_class.model_class, dtype=resolved.dtype, **config_changes)
    evaluated: Any = task_class.for_model(resolved, tokenizer, loaded.config, name)
    with column_errors(resolved):
        encoded = evaluated.encode_dataset(rows, "test")
    measured = _evaluate_examples(evaluated, loaded, encoded, shared)
    metrics = measured.pop("metrics")
    return {"task": task_class.name, "metrics": metrics, "rows": len(rows), **measured}


def _load_rows(
    task_class: type[Task], options: Any, items: list[Any] | None
) -> tuple[Any, Dataset]:
    """Returns the options with the columns of the data, and the rows.

    Args:
      task_class: The class of the task.
      options: The options.
      items: The rows; None if the options say where they are.

    Raises:
      OptionError, DataError: if the rows cannot be used.
    """
    if items is not None:
        text_column = getattr(options, "text_column", "text")
        items = list(iterate_rows(items, text_column))
        options = task_class.resolve_columns(options, items[0] if items else ())
        return options, rows_as_dataset(items, text_column, task_class.columns(options))
    if options.dataset:
        rows = load_dataset_split(options.dataset, options.dataset_config, options.split)
        return task_class.resolve_columns(options, rows.column_names), rows
    reading = {"separator": options.separator, "file_format": options.file_format}
    options = task_class.resolve_columns(options, file_columns(options.files, **reading))
    return options, load_files(options.files, task_class.columns(options), "test", **reading)


def _evaluate_examples(
    task: Task, model: Any, encoded: EncodedDataset, devices: InferenceDevices
) -> dict[str, Any]:
    """Returns the metrics of a model, and what is known about the examples."""
    lengths, buckets = assign_example_buckets(task.options, encoded, devices.num_row_shards)
    devices.place_model(model)
    step = devices.compile(lambda params, batch: task.eval_step(model, params, batch))
    batches = evaluation_batches(encoded.examples, buckets, task.collate, EVALUATION_SEED)
    outputs = run_eval_step(step, model.params, batches)
    if num_nan := count_nan_examples(outputs):
        raise DataError(
            f"the outputs of a model must be numbers to be evaluated; {num_nan:,} of "
            f"{len(lengths):,} are NaN: its parameters are damaged, or numbers overflow in "
            f"{task.options.dtype}; give dtype=float32, or another checkpoint"
        )
    outputs = task.merge_windows(outputs, encoded)
    return {
        "metrics": task.compute_metrics(outputs, encoded),
        "tokens": int(lengths.sum()),
        "padding": padding_fraction(lengths, buckets),
        "messages": encoded.messages + unknown_tokens_messages(task, encoded, "test"),
    }
