"""The types and limits of the keys of a `BigBirdConfig`, for files and for objects alike.

`transformers` checks some types when it creates a configuration, in exceptions of several kinds
that do not name the file, and no limits: a `num_labels` of 10**12 would fill the memory before
anything is checked.
"""

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flax_bigbird.config import MAX_INT32, MAX_LABELS, MAX_VALUES

MAX_NESTING = 50  # levels of lists and objects in a file

# Returns what a value must be, as the end of a sentence, or None if it is that.
_Rule = Callable[[Any], str | None]


def _integer(minimum: int, maximum: int) -> _Rule:
    def rule(value: Any) -> str | None:
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            return "must be an integer"
        if value < minimum:
            return f"must be at least {minimum}"
        return f"must be at most {maximum:,}" if value > maximum else None

    return rule


def _size(key: str, minimum: int) -> _Rule:
    return _integer(minimum, MAX_VALUES[key])


def _number(minimum: float, maximum: float, meaning: str = "") -> _Rule:
    def rule(value: Any) -> str | None:
        if not isinstance(value, int | float | np.number) or isinstance(value, bool):
            return "must be a number"
        is_inside = minimum <= value <= maximum  # False for NaN
        return None if is_inside else f"must lie in {minimum:g}..{maximum:g}{meaning}"

    return rule


def _boolean(value: Any) -> str | None:
    return None if isinstance(value, bool | np.bool_) else "must be true or false"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else "must be a text"


def _one_of(*choices: str) -> _Rule:
    names = " or ".join(map(repr, choices))
    return lambda value: None if value in choices else f"must be {names}"


def _list_of(item: _Rule, what: str) -> _Rule:
    def rule(value: Any) -> str | None:
        is_valid = isinstance(value, list | tuple) and not any(map(item, value))
        return None if is_valid else f"must be a list of {what}"

    return rule


def _token_ids(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return _list_of(_TOKEN_ID, "token ids")(value)
    return _TOKEN_ID(value)


def _labels(is_key: Callable[[Any], bool], is_value: Callable[[Any], bool], what: str) -> _Rule:
    def rule(value: Any) -> str | None:
        if not isinstance(value, dict):
            return f"must map {what}"
        if len(value) > MAX_LABELS:
            return f"must have at most {MAX_LABELS:,} entries"
        is_valid = all(is_key(key) and is_value(item) for key, item in value.items())
        return None if is_valid else f"must map {what}"

    return rule


def _is_index(value: Any) -> bool:
    """Returns whether a value is an integer, or a text that is one, as the keys in JSON are."""
    if isinstance(value, str):
        return value.isdecimal() and value.isascii() and len(value) < 10
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _optional(rule: _Rule) -> _Rule:
    def optional(value: Any) -> str | None:
        reason = None if value is None else rule(value)
        return reason and f"{reason} or null"

    return optional


_TOKEN_ID = _integer(-1, MAX_INT32)
_PROBABILITY = _number(0.0, 1.0, ", a probability")
_COUNT = _optional(_integer(0, MAX_INT32))

# Keys that a file may hold and that are checked on objects, too.
RULES: dict[str, _Rule] = {
    "vocab_size": _size("vocab_size", 1),
    "type_vocab_size": _size("type_vocab_size", 1),
    "max_position_embeddings": _size("max_position_embeddings", 1),
    "hidden_size": _size("hidden_size", 1),
    "intermediate_size": _size("intermediate_size", 1),
    "num_attention_heads": _size("num_attention_heads", 1),
    "num_hidden_layers": _size("num_hidden_layers", 0),
    "block_size": _size("block_size", 1),
    "num_random_blocks": _size("num_random_blocks", 0),
    "hidden_dropout_prob": _PROBABILITY,
    "attention_probs_dropout_prob": _PROBABILITY,
    "classifier_dropout": _optional(_PROBABILITY),
    "initializer_range": _number(0.0, 1000.0),
    "layer_norm_eps": _number(0.0, 1.0),
    "hidden_act": _text,
    "attention_type": _one_of("block_sparse", "original_full"),
    "use_bias": _boolean,
    "rescale_embeddings": _boolean,
    "is_decoder": _boolean,
    "add_cross_attention": _boolean,
    "tie_word_embeddings": _boolean,
    "use_cache": _optional(_boolean),
    "is_encoder_decoder": _optional(_boolean),
    "output_attentions": _optional(_boolean),
    "output_hidden_states": _optional(_boolean),
    "return_dict": _optional(_boolean),
    "pad_token_id": _optional(_TOKEN_ID),
    "bos_token_id": _optional(_TOKEN_ID),
    "sep_token_id": _optional(_TOKEN_ID),
    "decoder_start_token_id": _optional(_TOKEN_ID),
    "eos_token_id": _optional(_token_ids),
    "problem_type": _optional(
        _one_of("regression", "single_label_classification", "multi_label_classification")
    ),
    "architectures": _optional(_list_of(_text, "texts")),
    "id2label": _optional(_labels(_is_index, _is_text, "integers to texts")),
    "label2id": _optional(_labels(_is_text, _is_index, "texts to integers")),
}
# Keys that only a file holds, or that `transformers` converts.
_FILE_RULES: dict[str, _Rule] = RULES | {
    "num_labels": _optional(_integer(0, MAX_LABELS)),
    "chunk_size_feed_forward": _COUNT,
    "dtype": _optional(_text),
    "torch_dtype": _optional(_text),
    "transformers_version": _optional(_text),
    "model_type": _text,
    "attention_implementation": _optional(_text),
    "random_attention": _optional(_text),
    "random_attention_seed": _optional(_integer(0, 2**63 - 1)),
    "padding_invariant": _optional(_boolean),
    "num_window_blocks": _optional(_size("num_window_blocks", 0)),
    "num_leading_global_blocks": _optional(_size("num_leading_global_blocks", 0)),
    "num_trailing_global_blocks": _optional(_size("num_trailing_global_blocks", 0)),
    "max_user_global_blocks": _optional(_size("max_user_global_blocks", 0)),
    "max_chosen_global_blocks": _optional(_size("max_chosen_global_blocks", 0)),
    "per_layer_config": lambda value: None if value is None else "must be null",
}


def find_invalid_value(config: Any) -> str | None:
    """Returns which value of a `BigBirdConfig` has another type, or exceeds a limit; or None."""
    return _first_invalid({key: getattr(config, key, None) for key in RULES}, RULES)


def find_invalid_key(content: Mapping[str, Any], config_class: type) -> str | None:
    """Returns which key of a `config.json` cannot be used, and why; None if all can be.

    Args:
      content: The content of the file. Other keys than those of a configuration may hold anything.
      config_class: The class of the configuration, whose methods must not be replaced.
    """
    for key, value in content.items():
        if key.startswith("__") or callable(getattr(config_class, key, None)):
            return f"config.{_shorten(key)} is no key of a configuration; leave it out"
        if _exceeds_nesting(value):
            return f"config.{_shorten(key)} must be nested at most {MAX_NESTING} levels deep"
    return _first_invalid(content, _FILE_RULES)


def _first_invalid(values: Mapping[str, Any], rules: Mapping[str, _Rule]) -> str | None:
    for key in rules:
        if key in values:
            reason = rules[key](values[key])
            if reason is not None:
                return f"config.{key} {reason}; got {_shorten(values[key])}"
    return None


def _exceeds_nesting(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_NESTING):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return False
        level = [
            item
            for container in containers
            for item in (container.values() if isinstance(container, dict) else container)
        ]
    return True


def _shorten(value: Any) -> str:
    """Returns a value for a message, however large it is."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        digits = math.log10(abs(int(value)) or 1)
        return str(value) if digits < 40 else f"an integer of {int(digits) + 1:,} digits"
    return value if isinstance(value, str) and not value else reprlib.repr(value)
