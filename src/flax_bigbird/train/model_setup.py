"""Loads or creates the model that a run starts from."""

import copy
import warnings
from typing import Any, NamedTuple

import jax

import flax_bigbird
from flax_bigbird._transformers import bigbird_config_class
from flax_bigbird.checkpoint import CheckpointError, CheckpointWarning
from flax_bigbird.config import OWN_KEYS
from flax_bigbird.data.errors import OptionError
from flax_bigbird.data.tokenization import check_vocabulary_fits, num_token_ids
from flax_bigbird.data.types import Tokenizer
from flax_bigbird.pretrained import DEFAULT_MODEL
from flax_bigbird.tasks.base import Task
from flax_bigbird.tasks.loading import load_config, no_checkpoint_error
from flax_bigbird.tasks.option_names import nearest
from flax_bigbird.train.argument_checks import (
    check_random_attention,
    check_resize_vocabulary,
    check_vocab_size,
)
from flax_bigbird.train.arguments import TrainingArguments
from flax_bigbird.train.checkpoint_differences import summarize_differences
from flax_bigbird.train.head_setup import plan_head, renew_output_layer

DEFAULT_MAX_LENGTH = 4096  # of a new model

_GRADIENT_CHECKPOINTING = {"none": False, "full": True, "attention": "attention"}


class InitialModel(NamedTuple):
    """The model that a run starts from.

    Attributes:
      model: The model.
      messages: Sentences for the user about it.
      has_new_head: Whether the head, or at least its output layer, has random parameters.
    """

    model: Any
    messages: list[str]
    has_new_head: bool


def resolve_initial_model(options: TrainingArguments, task_class: type[Task]) -> str | None:
    """Returns the name of the model to start from; None for a new model.

    Raises:
      OptionError: if `vocab_size`, `resize_vocabulary` or `random_attention` would have no effect
        on that model, or its configuration cannot be loaded.
    """
    overrides = options.config_overrides
    wants_new = task_class.is_pretraining or options.tokenizer or overrides
    model = options.model or (None if wants_new else DEFAULT_MODEL)
    check_vocab_size(options, model)
    check_resize_vocabulary(options, model)
    if model is not None:
        default = load_config(model).attention_type
        check_random_attention(options, overrides.get("attention_type", default))
    return model


def resolve_max_length(options: TrainingArguments, initial_model: str | None) -> TrainingArguments:
    """Returns the options with a `max_length`, by default that of the position embeddings."""
    if options.max_length:
        return options
    positions = options.config_overrides.get("max_position_embeddings")
    if positions is None and initial_model is not None:
        positions = load_config(initial_model).max_position_embeddings
    return options.with_max_length(positions or DEFAULT_MAX_LENGTH)


def planned_config(
    options: TrainingArguments, initial_model: str | None, task_config: dict[str, Any]
) -> Any:
    """Returns the configuration of the layers and the head, before there is a model.

    Args:
      options: The options of the run.
      initial_model: The model to start from; None for a new one.
      task_config: The keys of the configuration that follow from the training data.
    """
    config = bigbird_config_class()() if initial_model is None else load_config(initial_model)
    config = copy.deepcopy(config)
    config.update({**options.config_overrides, **task_config})
    return config


def setup_model(
    options: TrainingArguments,
    initial_model: str | None,
    task_class: type[Task],
    task_config: dict[str, Any],
    tokenizer: Tokenizer,
) -> InitialModel:
    """Returns the model to train.

    Position embeddings are tiled to the `max_position_embeddings` of `config_overrides`, and token
    embeddings are added for a larger tokenizer if `resize_vocabulary` is set. `plan_head` says what
    is kept of a checkpoint's head.

    Args:
      options: The options of the run, with a `max_length`.
      initial_model: The model to start from; None for a new one.
      task_class: The class of the task, which names the class of the model.
      task_config: The keys of the configuration that follow from the training data.
      tokenizer: The tokenizer of the run.

    Raises:
      OptionError: if the model cannot be loaded or created, its position embeddings are shorter
        than `max_length`, or it has fewer tokens than the tokenizer.
    """
    head = plan_head(initial_model, task_class.model_class, task_config)
    task_config = head.task_config
    extra_keys = {key: task_config[key] for key in task_config.keys() - _known_config_keys()}
    config_keys = {
        "random_attention": options.random_attention,
        "padding_invariant": True,
        "is_decoder": False,  # a causal model continues as an encoder, which attends to both sides
        **_checked_overrides(options, task_config),
        **task_config,
    }
    for key in extra_keys:
        del config_keys[key]
    module_fields = {
        "dtype": options.dtype,
        "gradient_checkpointing": _GRADIENT_CHECKPOINTING[options.gradient_checkpointing],
        **task_class.model_fields,
    }
    create = getattr(flax_bigbird, task_class.model_class)
    if initial_model is None:
        config = _new_config(options, config_keys, tokenizer)
        try:
            model = create(config, seed=options.seed, **module_fields)
        except (ValueError, TypeError) as error:
            raise OptionError(
                f"must describe a BigBird: {error}", option="config_overrides"
            ) from error
        messages = [f"A new model with {count_parameters(model):,} parameters."]
    else:
        model, messages = _load_model(options, initial_model, create, config_keys, module_fields)
        if options.resize_vocabulary:
            model, message = _resize_vocabulary(model, tokenizer)
            messages.append(message)
        messages += head.messages
        if head.renew_output_layer:
            renew_output_layer(model)
    vars(model.config).pop("label_thresholds", None)  # those of earlier training
    model.config.update(extra_keys)
    _check_model(options, model, tokenizer)
    return InitialModel(model, messages, head.is_new)


def count_parameters(model: Any) -> int:
    """Returns the number of parameters of a model."""
    return sum(leaf.size for leaf in jax.tree.leaves(model.params))


def _checked_overrides(options: TrainingArguments, task_config: dict[str, Any]) -> dict[str, Any]:
    """Returns `config_overrides`, none of which may contradict the task."""
    for key, value in options.config_overrides.items():
        if key in task_config and task_config[key] != value:
            raise OptionError(
                f"must not change what the task sets; got {key}={value!r}, and "
                f"{options.task} sets {task_config[key]!r}: leave it out",
                option="config_overrides",
            )
    return options.config_overrides


def _new_config(
    options: TrainingArguments, config_keys: dict[str, Any], tokenizer: Tokenizer
) -> Any:
    """Returns the configuration of a new model for a tokenizer."""
    known = _known_config_keys()
    for key in options.config_overrides:
        if key not in known:
            own = sorted(known - _keys_of_every_config())
            remedy = nearest(key, own) or f"they are {', '.join(own)}"
            raise OptionError(
                f"must hold keys of BigBirdConfig; got {key!r}: {remedy}",
                option="config_overrides",
            )
    token_ids = {
        f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id")
        for kind in ("pad", "sep", "bos", "eos")
        if getattr(tokenizer, f"{kind}_token_id") is not None
    }
    defaults = {
        "vocab_size": _round_up_vocab_size(num_token_ids(tokenizer)),
        "max_position_embeddings": options.length,
    }
    return bigbird_config_class()(**{**defaults, **token_ids, **config_keys})


def _known_config_keys() -> set[str]:
    """Returns the keys that the configuration of a BigBird may have."""
    return set(bigbird_config_class()().to_dict()) | set(OWN_KEYS)


def _keys_of_every_config() -> set[str]:
    """Returns the keys that every configuration of `transformers` has."""
    from transformers import PretrainedConfig

    return set(PretrainedConfig().to_dict())


def _load_model(
    options: TrainingArguments,
    initial_model: str,
    model_class: Any,
    config_keys: dict[str, Any],
    module_fields: dict[str, Any],
) -> tuple[Any, list[str]]:
    """Returns a checkpoint as a model of `model_class`, and messages about it."""
    max_positions = config_keys.pop("max_position_embeddings", None)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CheckpointWarning)
            model = model_class.from_pretrained(
                initial_model,
                seed=options.seed,
                ignore_mismatched_sizes=True,
                **module_fields,
                **config_keys,
            )
    except (CheckpointError, OSError, ValueError) as error:
        raise no_checkpoint_error(initial_model, error) from error
    model.params = model.to_fp32(model.params)  # small updates would be lost in a shorter dtype
    messages = [f"A model with {count_parameters(model):,} parameters from {initial_model}."]
    prefix = model_class.base_model_prefix
    messages += summarize_differences(
        [w.message for w in caught if isinstance(w.message, CheckpointWarning)], prefix
    )
    before = model.config.max_position_embeddings
    if max_positions and max_positions != before:
        model = flax_bigbird.resize_position_embeddings(model, max_positions)
        done = "tiled" if max_positions > before else "truncated"
        messages.append(f"Its position embeddings are {done} from {before:,} to {max_positions:,}.")
    return model, messages


def _resize_vocabulary(model: Any, tokenizer: Tokenizer) -> tuple[Any, str]:
    """Returns the model with a row for every token of the tokenizer, and a message about it."""
    before, wanted = model.config.vocab_size, num_token_ids(tokenizer)
    if wanted <= before:
        return model, f"The model's {before:,} tokens hold the tokenizer's {wanted:,}: none is new."
    model = flax_bigbird.resize_token_embeddings(model, _round_up_vocab_size(wanted))
    return model, (
        f"The model's vocabulary grows from {before:,} to {model.config.vocab_size:,} tokens; the "
        "new ones start from the mean of the old."
    )


def _round_up_vocab_size(count: int) -> int:
    """Returns a multiple of 8: matmuls with an odd vocabulary are slower on accelerators."""
    return -(-count // 8) * 8


def _check_model(options: TrainingArguments, model: Any, tokenizer: Tokenizer) -> None:
    """Raises `OptionError` if the model is too small for `max_length` or the tokenizer."""
    positions = model.config.max_position_embeddings
    if options.length > positions:
        raise OptionError(
            "must be at most the length of the model's position embeddings, "
            f"{positions}; got {options.length}: lower it, or lengthen them with config_overrides "
            f"max_position_embeddings={options.length}",
            option="max_length",
        )
    check_vocabulary_fits(
        tokenizer,
        model.config.vocab_size,
        "use the tokenizer that belongs to the model, or set resize_vocabulary to give the model "
        "more tokens",
    )
