"""`DecodingOptions`, the static options of a decoding program, and the option values it traces."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Array

from flax_bigbird._messages import pluralize
from flax_bigbird.generation.generation_config import DEFAULT_NEW_TOKENS

Scalars = dict[str, Array]
"""The values of options that are arguments of the compiled program, by the option's name."""

_ID_OPTIONS = (
    "eos_token_id",
    "pad_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


@dataclasses.dataclass(frozen=True)
class DecodingOptions:
    """The static options of a program, under the names that `GenerationConfig` uses.

    Attributes:
      begin_index: The index of the first generated token that is not forced.
      active: The names of the options whose values are traced.
      max_slots: The number of slots after the prompt, at least `max_new_tokens`.
    """

    do_sample: bool
    num_beams: int
    num_return_sequences: int
    early_stopping: bool | str
    top_k: int
    no_repeat_ngram_size: int
    bad_words_ids: tuple[tuple[int, ...], ...]
    suppress_tokens: tuple[int, ...]
    begin_suppress_tokens: tuple[int, ...]
    begin_index: int
    forced_bos_token_id: int | None
    forced_eos_token_id: int | None
    pad_token_id: int
    eos_token_ids: tuple[int, ...]
    active: tuple[str, ...]
    max_slots: int


def compile_options(
    values: dict[str, Any],
    *,
    prompt_length: int,
    max_new_tokens: int,
    max_slots: int,
    vocab_size: int,
) -> tuple[DecodingOptions, dict[str, float]]:
    """Returns the static options, and the values that are arguments of the program.

    Args:
      values: The result of `merge_options`.
      prompt_length: The number of tokens of the prompts, padding included.
      max_new_tokens: The number of tokens to generate.
      max_slots: See `DecodingOptions`.
      vocab_size: V.

    Raises:
      ValueError: If an id lies outside the vocabulary, or if more tokens are required than allowed.
    """
    ids = {name: _token_ids(name, values[name], vocab_size) for name in _ID_OPTIONS}
    eos_token_ids = ids["eos_token_id"]
    scalars = _traced_values(values, prompt_length, max_new_tokens, has_end=bool(eos_token_ids))
    forced_bos = None
    if prompt_length == 1:
        forced_bos = _single_id("forced_bos_token_id", ids["forced_bos_token_id"])
    options = DecodingOptions(
        do_sample=values["do_sample"],
        num_beams=values["num_beams"],
        num_return_sequences=values["num_return_sequences"],
        early_stopping=values["early_stopping"],
        top_k=min(values["top_k"], vocab_size) if values["do_sample"] else 0,
        no_repeat_ngram_size=values["no_repeat_ngram_size"],
        bad_words_ids=_bad_words(values["bad_words_ids"], eos_token_ids, vocab_size),
        suppress_tokens=ids["suppress_tokens"],
        begin_suppress_tokens=ids["begin_suppress_tokens"],
        begin_index=0 if forced_bos is None else 1,
        forced_bos_token_id=forced_bos,
        forced_eos_token_id=_single_id("forced_eos_token_id", ids["forced_eos_token_id"]),
        pad_token_id=(*ids["pad_token_id"], *eos_token_ids, 0)[0],
        eos_token_ids=eos_token_ids,
        active=tuple(scalars),
        max_slots=max_slots,
    )
    if values["num_beams"] > 1:
        scalars["length_penalty"] = float(values["length_penalty"])
    return options, scalars


def _traced_values(
    values: dict[str, Any], prompt_length: int, max_new_tokens: int, *, has_end: bool
) -> dict[str, float]:
    """Returns the values of the active options that are traced."""
    min_new_tokens = values["min_new_tokens"]
    if min_new_tokens is None:
        min_new_tokens = max(0, (values["min_length"] or 0) - prompt_length)
    if min_new_tokens > max_new_tokens:
        raise ValueError(
            f"no more tokens can be required than allowed; got at least {min_new_tokens} new "
            f"tokens and at most {max_new_tokens}: lower min_new_tokens (min_length), or raise "
            "max_new_tokens"
        )
    scalars: dict[str, float] = {}
    if min_new_tokens and has_end:
        scalars["min_new_tokens"] = float(min_new_tokens)
    if values["repetition_penalty"] != 1:
        scalars["repetition_penalty"] = float(values["repetition_penalty"])
    if values["do_sample"]:
        inactive = {"temperature": 1, "top_p": 1, "min_p": None}
        scalars |= {key: float(values[key]) for key, x in inactive.items() if values[key] != x}
    return scalars


def _bad_words(
    words: Any, eos_token_ids: tuple[int, ...], vocab_size: int
) -> tuple[tuple[int, ...], ...]:
    bad_words = tuple(_token_ids("bad_words_ids", word, vocab_size) for word in words or ())
    if not all(bad_words):
        raise ValueError("bad_words_ids must be lists of at least one id; got an empty one")
    # A word that consists of an end token would forbid that the text ends, which is not intended.
    return tuple(word for word in bad_words if len(word) != 1 or word[0] not in eos_token_ids)


def resolve_max_new_tokens(
    values: dict[str, Any], prompt_length: int, num_prompt_tokens: int, num_positions: int
) -> int:
    """Returns the number of tokens to generate.

    Args:
      values: The result of `merge_options`.
      prompt_length: The number of tokens of the prompts, padding included.
      num_prompt_tokens: The number of real tokens of the longest prompt.
      num_positions: `config.max_position_embeddings`.

    Raises:
      ValueError: If the position table is too short, or if the prompts have `max_length` already.
    """
    if values["max_new_tokens"] is not None:
        max_new_tokens = values["max_new_tokens"]
    elif values["max_length"] is not None:
        max_new_tokens = values["max_length"] - prompt_length
        if max_new_tokens < 1:
            raise ValueError(
                "max_length counts the prompt and must be above its "
                f"{pluralize(prompt_length, 'token')}; got {values['max_length']}: raise it, or "
                "pass max_new_tokens"
            )
    else:
        max_new_tokens = max(1, min(DEFAULT_NEW_TOKENS, num_positions - num_prompt_tokens))
    if num_prompt_tokens + max_new_tokens > num_positions:
        raise ValueError(
            f"prompt and continuation may have at most {num_positions} tokens "
            f"(config.max_position_embeddings); got a prompt of {num_prompt_tokens} and "
            f"{max_new_tokens} new ones: ask for at most "
            f"{max(0, num_positions - num_prompt_tokens)}, or shorten the prompt"
        )
    return max_new_tokens


def _token_ids(name: str, value: Any, vocab_size: int) -> tuple[int, ...]:
    """Returns an id, or a list of ids, as a tuple."""
    if value is None:
        return ()
    is_list = isinstance(value, list | tuple | set) or np.ndim(value) == 1
    ids: tuple[Any, ...] = tuple(value) if is_list else (value,)
    for x in ids:
        if not hasattr(x, "__index__") or isinstance(x, bool) or not 0 <= int(x) < vocab_size:
            raise ValueError(
                f"{name} must be ids in 0..{vocab_size - 1} (config.vocab_size={vocab_size}); got "
                f"{x!r}: take them from the checkpoint's tokenizer"
            )
    return tuple(int(x) for x in ids)


def _single_id(name: str, ids: tuple[int, ...]) -> int | None:
    if len(ids) > 1:
        raise ValueError(f"{name} must be one id; got {list(ids)}: choose one")
    return ids[0] if ids else None
