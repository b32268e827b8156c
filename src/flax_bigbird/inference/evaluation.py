"""Evaluation: the metrics of a trained model on labeled data."""

from pathlib import Path
from typing import Any

import jax

from flax_bigbird.data.batching import evaluation_batches, padding_fraction
from flax_bigbird.data.loading import file_columns, load_dataset_split, load_files
from flax_bigbird.data.tokenization import load_tokenizer
from flax_bigbird.inference.options import evaluate_options
from flax_bigbird.inference.resolve import resolve_name, resolve_options, resolve_task
from flax_bigbird.inference.rows import (
    is_path,
    is_single_row,
    iterate_items,
    iterate_rows,
    rows_as_dataset,
)
from flax_bigbird.tasks.evaluation import (
    EVALUATION_SEED,
    assign_example_buckets,
    run_eval_step,
    unknown_tokens_messages,
)
from flax_bigbird.tasks.loading import load_config, load_model


def evaluate(
    model: str | Path,
    files: Any = (),
    *,
    task: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Computes the metrics of a model, as a training run computes them on its validation data.

        evaluate("classifier", ["labeled.jsonl"])["metrics"]["accuracy"]

    Args:
      model: A directory, the name of a shipped model, or a Hub id.
      files: A JSON, CSV, TSV, Parquet, CoNLL, FASTA or text file, which may be compressed, a
        directory of text files, or several of them. Rows in memory may be given instead:
        dictionaries, records, a `datasets.Dataset`, or a table of pandas or pyarrow.
      task: The name of the task. By default it is the task that the checkpoint was trained for.
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
    if rows_are_given:
        text_column = getattr(resolved, "text_column", "text")
        items = list(iterate_rows(items, text_column))
        resolved = task_class.resolve_columns(resolved, items[0] if items else ())
        rows = rows_as_dataset(items, text_column, task_class.columns(resolved))
    elif resolved.dataset:
        rows = load_dataset_split(resolved.dataset, resolved.dataset_config, resolved.split)
        resolved = task_class.resolve_columns(resolved, rows.column_names)
    else:
        reading = {"separator": resolved.separator, "file_format": resolved.file_format}
        resolved = task_class.resolve_columns(resolved, file_columns(resolved.files, **reading))
        rows = load_files(resolved.files, task_class.columns(resolved), "test", **reading)
    tokenizer = load_tokenizer(name)
    config_changes = {**task_class.model_fields, **resolved.config_overrides}
    loaded = load_model(name, task_class.model_class, dtype=resolved.dtype, **config_changes)
    evaluated: Any = task_class.for_model(resolved, tokenizer, loaded.config, name)
    encoded = evaluated.encode_dataset(rows, "test")
    lengths, buckets = assign_example_buckets(resolved, encoded)
    step = jax.jit(lambda params, batch: evaluated.eval_step(loaded, params, batch))
    batches = evaluation_batches(encoded.examples, buckets, evaluated.collate, EVALUATION_SEED)
    outputs = evaluated.merge_windows(run_eval_step(step, loaded.params, batches), encoded)
    return {
        "task": task_class.name,
        "metrics": evaluated.compute_metrics(outputs, encoded),
        "rows": len(rows),
        "tokens": int(lengths.sum()),
        "padding": padding_fraction(lengths, buckets),
        "messages": encoded.messages + unknown_tokens_messages(evaluated, encoded, "test"),
    }
