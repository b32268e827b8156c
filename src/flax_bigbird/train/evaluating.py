"""Metrics of a model on labelled files."""

import dataclasses
from typing import Any

import jax

from flax_bigbird.tasks import loading
from flax_bigbird.tasks.errors import OptionError
from flax_bigbird.tasks.options import check_names
from flax_bigbird.tasks.text import load_tokenizer
from flax_bigbird.train import reading, tokens
from flax_bigbird.train.loop import Validation, outputs_of
from flax_bigbird.train.objectives import OBJECTIVES
from flax_bigbird.train.options import EvaluateOptions, LabelledOptions
from flax_bigbird.train.pipeline import evaluation_batches, into_buckets, padding_share

EVALUATION_SEED = 20_07_14062  # of the masked pieces: the same in every run


def evaluate_options(model: str, **given: Any) -> EvaluateOptions:
    """Options for a model; what it was trained with here is the default."""
    names = {spec.name for spec in dataclasses.fields(EvaluateOptions)}
    rule = "options must be those of an evaluation"
    check_names(given, names, rule, "see bigbird evaluate --help")
    shared = {spec.name for spec in dataclasses.fields(LabelledOptions)} | {"task"}
    return EvaluateOptions(model=model, **loading.with_run_options(model, shared, given))


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Metrics, as training computes them, and facts of the rows.

    Returns:
      `task`, `metrics`, `rows`, `tokens`, `padding` and `notes`.

    Raises:
      OptionError, DataError: something is wrong with options, model or data.
    """
    config = loading.read_config(options.model)
    task = options.task or loading.task_of(config, options.model)
    if task not in OBJECTIVES:
        raise OptionError(f"task must be one of {', '.join(OBJECTIVES)}; got {task!r}: give one")
    options = options.with_length(config.max_position_embeddings)
    objective = OBJECTIVES[task](options)
    if options.dataset:
        rows = reading.read_dataset(options.dataset, options.dataset_name, options.split)
    else:
        rows = reading.read_files(options.files)
    tokenizer = load_tokenizer(options.model)
    model = loading.load_model(
        options.model, objective.model_class, dtype=options.dtype, **options.model_config
    )
    objective.know(model.config)
    objective.tokenizer_is(tokenizer, model.config.vocab_size)
    objective.model_is(model.config)
    prepared = objective.prepare(rows, "data")
    lengths = tokens.numbers(prepared.rows, "length")
    buckets = into_buckets(
        lengths, options.buckets, options.tokens_per_batch // objective.inputs_per_row
    )
    compiled = jax.jit(lambda params, batch: objective.outputs(model, params, batch))

    def batches():
        return evaluation_batches(prepared.rows, buckets, objective.collate, EVALUATION_SEED)

    outputs = outputs_of(compiled, model.params, Validation(prepared, batches))
    outputs = objective.by_document(outputs, prepared)
    return {
        "task": task,
        "metrics": objective.score(outputs, prepared),
        "rows": len(rows),
        "tokens": int(lengths.sum()),
        "padding": padding_share(lengths, buckets),
        "notes": prepared.notes,
    }
