"""Checks that the options of a training run belong together.

This module is imported without JAX.
"""

from typing import Any

from flax_bigbird.data.errors import OptionError
from flax_bigbird.train.best_metric import check_metric_for_best_model

PROCESS_OPTIONS = ("coordinator_address", "num_processes", "process_id")
"""The options that say how the processes of a run meet."""


def check_training_arguments(options: Any) -> None:
    """Checks the options of a run that are known before any data are read.

    Args:
      options: A `TrainingArguments`.

    Raises:
      OptionError: if options contradict each other, or one has no effect.
    """
    _check_data(options)
    _check_streaming(options)
    _check_evaluation(options)
    _check_schedule(options)
    _check_devices(options)
    _check_steps_and_model(options)


def _check_data(options: Any) -> None:
    if bool(options.train_files) == bool(options.dataset):
        given = "both" if options.dataset else "neither"
        raise OptionError(
            f"the training data must be train_files or a dataset; got {given}: give one"
        )
    for name in ("validation_split", "dataset_config", "train_split"):
        if not options.dataset and _is_changed(options, name):
            remedy = ": use validation_files" if name == "validation_split" else ": leave it out"
            raise OptionError(
                f"{name} belongs to a dataset; got {getattr(options, name)!r} without one{remedy}"
            )
    if options.validation_files and options.validation_split:
        raise OptionError(
            "the validation data must be validation_files or validation_split; got both: give one"
        )
    has_split = bool(options.validation_files or options.validation_split)
    if has_split and options.validation_fraction and _is_changed(options, "validation_fraction"):
        raise OptionError(
            "validation_fraction holds out training rows if no validation data are given; got "
            f"{options.validation_fraction:g} beside validation data: leave it out"
        )


def _check_streaming(options: Any) -> None:
    if not options.is_streaming:
        for name in ("shuffle_buffer_size", "preprocessing_num_workers"):
            if name in type(options).model_fields and _is_changed(options, name):
                raise OptionError(
                    f"{name} belongs to streaming; got {getattr(options, name)} without it: add "
                    "streaming, or leave it out"
                )
        return
    if not options.max_steps:
        raise OptionError(
            f"streaming needs max_steps, as it has no last row; got {options.max_steps}: give the "
            "number of steps"
        )
    for name in ("validation_fraction", "packing", "separator"):
        if _is_changed(options, name):
            remedy = "leave it out, or give validation_files" if "val" in name else "leave it out"
            raise OptionError(
                f"{name} needs all rows at once; got {getattr(options, name)} with streaming: "
                f"{remedy}"
            )


def _check_evaluation(options: Any) -> None:
    for name in ("eval_steps", "early_stopping_patience", "metric_for_best_model"):
        value = getattr(options, name)
        if value is not None and not options.has_validation_data:
            raise OptionError(
                f"{name} needs validation data; got {value!r} and none: give validation_files, "
                "or a validation_fraction above 0 without streaming"
            )
    if options.task is not None and options.metric_for_best_model is not None:
        check_metric_for_best_model(options.metric_for_best_model, options.task, options)


def _check_schedule(options: Any) -> None:
    if options.lr_scheduler_type != "warmup_stable_decay":
        if _is_changed(options, "decay_ratio"):
            raise OptionError(
                "decay_ratio belongs to lr_scheduler_type warmup_stable_decay; got "
                f"{options.decay_ratio:g} with {options.lr_scheduler_type}: leave it out"
            )
    elif options.warmup_ratio + options.decay_ratio > 1:
        raise OptionError(
            "warmup_ratio and decay_ratio must add up to at most 1; got "
            f"{options.warmup_ratio:g} and {options.decay_ratio:g}: lower one of them"
        )


def _check_devices(options: Any) -> None:
    for name in PROCESS_OPTIONS:
        value = getattr(options, name)
        if value is not None and options.distributed is False:
            raise OptionError(
                f"{name} belongs to several processes; got {value!r} with distributed off: "
                "leave one of them out"
            )
    count, index = options.num_processes, options.process_id
    if count is not None and index is not None and index >= count:
        raise OptionError(
            f"must be less than num_processes; got {index} and {count}: count processes from 0",
            option="process_id",
        )
    address = options.coordinator_address
    host, _, port = (address or "").rpartition(":")
    if address is not None and not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise OptionError(
            f"must be a host and a port in 1..65535; got {address!r}: write it as in node1:12345",
            option="coordinator_address",
        )


def _check_steps_and_model(options: Any) -> None:
    if options.max_steps is not None and _is_changed(options, "num_train_epochs"):
        raise OptionError(
            "the length of a run must be max_steps or num_train_epochs; got both: give one"
        )
    if options.max_steps == 0 and not getattr(options, "linear_probing", False):
        raise OptionError(
            "max_steps may be 0 if linear_probing fits the head; got 0 without it: give the "
            "number of steps"
        )
    check_vocab_size(options, options.model)
    check_random_attention(options, options.config_overrides.get("attention_type"))


def check_vocab_size(options: Any, initial_model: str | None) -> None:
    """Raises `OptionError` if `vocab_size` or `vocabulary` would have no effect.

    Args:
      options: The options of the run.
      initial_model: The model that the run starts from, if it is known.
    """
    owner = options.tokenizer or initial_model
    if owner is not None and _is_changed(options, "vocab_size"):
        raise OptionError(
            f"vocab_size is the size of a new tokenizer; got {options.vocab_size}, and the "
            f"tokenizer of {owner} is used: leave it out"
        )
    if owner is not None and _is_changed(options, "vocabulary"):
        raise OptionError(
            f"vocabulary is the kind of a new tokenizer; got {options.vocabulary}, and the "
            f"tokenizer of {owner} is used: leave it out"
        )


def check_resize_vocabulary(options: Any, initial_model: str | None) -> None:
    """Raises `OptionError` if `resize_vocabulary` would have no effect.

    Args:
      options: The options of the run.
      initial_model: The model that the run starts from.
    """
    if options.resize_vocabulary and initial_model is None:
        raise OptionError(
            "resize_vocabulary changes a model that training starts from; got none, and a new "
            "model has the tokens of its tokenizer: name a model, or leave it out"
        )


def check_random_attention(options: Any, attention_type: str | None) -> None:
    """Raises `OptionError` if `random_attention` would have no effect.

    Args:
      options: The options of the run.
      attention_type: The attention type of the model, if it is known.
    """
    if attention_type == "original_full" and _is_changed(options, "random_attention"):
        raise OptionError(
            "random_attention belongs to attention_type 'block_sparse'; got "
            f"{options.random_attention!r} for 'original_full': leave it out"
        )


def _is_changed(options: Any, name: str) -> bool:
    return getattr(options, name) != type(options).model_fields[name].default
