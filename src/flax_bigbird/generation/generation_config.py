"""The options of `generate`: merges keywords and `GenerationConfig`s, and checks the result.

Nothing is silently ignored: an unsupported option of the caller is an error, unless its value is
the one that has no effect. One that comes from the files of a checkpoint is ignored with a warning.
"""

import difflib
import reprlib
import warnings
from typing import Any

import numpy as np

from flax_bigbird import _transformers

# The supported options and their defaults. None means that the option has no effect.
DEFAULTS: dict[str, Any] = {
    "max_length": None,
    "max_new_tokens": None,
    "min_length": None,
    "min_new_tokens": None,
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "early_stopping": False,
    "length_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "pad_token_id": None,
    "eos_token_id": None,
}
DEFAULT_NEW_TOKENS = 20

# Options without any effect here: a prompt is always given, an output object is always returned,
# and the version only describes the file.
_WITHOUT_EFFECT = {"bos_token_id", "return_dict_in_generate", "transformers_version"}

# Unsupported options of `GenerationConfig`, with the values that have no effect besides None and
# False.
_NEUTRAL_VALUES: dict[str, Any] = {
    "use_cache": True,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "diversity_penalty": 0.0,
    "num_beam_groups": 1,
    "guidance_scale": 1.0,
}

# Options that only one decoding strategy uses.
_SAMPLING_OPTIONS = ("temperature", "top_k", "top_p", "min_p")
_BEAM_OPTIONS = ("early_stopping", "length_penalty")
_EXCLUSIVE_PAIRS = (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))

_MINIMUM = {
    "max_length": 1,
    "max_new_tokens": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "top_k": 0,
    "no_repeat_ngram_size": 0,
}


_given_warnings: set[str] = set()


def merge_options(
    kwargs: dict[str, Any], call_config: Any = None, model_config: Any = None
) -> dict[str, Any]:
    """Returns the value of every supported option.

    Keywords take precedence over the configuration of the call, which takes precedence over that
    of the model, and all of them over the defaults. A keyword that is None restores the default; in
    a configuration, None means that the option is not set.

    Args:
      kwargs: The options that the caller of `generate` passes by name.
      call_config: The `GenerationConfig` that the caller passes, or None.
      model_config: The model's own `GenerationConfig`, which its files set, or None.

    Raises:
      ValueError: If an option is unknown, unsupported or invalid, or if two options exclude each
        other. Unknown and unsupported options of `model_config` are ignored.

    Warns:
      UserWarning: Once for options of `model_config` that are ignored.
    """
    layers = [dict(kwargs)]
    if call_config is not None:
        layers.append(_options_of(call_config))
    for i, layer in enumerate(layers):
        for key, value in layer.items():
            if not _has_no_effect(key, value):
                raise ValueError(_describe_unsupported(key, value, from_config=i > 0))
    if model_config is not None:
        layers.append(_without_unsupported(_options_of(model_config)))
    for pair in _EXCLUSIVE_PAIRS:
        if all(kwargs.get(name) is not None for name in pair):
            given = ", ".join(f"{name}={kwargs[name]}" for name in pair)
            raise ValueError(
                f"pass only one of {' and '.join(pair)}; got {given}: leave one of them out"
            )
    options: dict[str, Any] = {}
    for key in DEFAULTS:
        values = (layer[key] for layer in layers if layer.get(key) is not None)
        options[key] = DEFAULTS[key] if key in kwargs else next(values, DEFAULTS[key])
        if kwargs.get(key) is not None:
            options[key] = kwargs[key]
        if isinstance(options[key], np.generic):  # NumPy's numbers are numbers, too
            options[key] = options[key].item()
    _resolve_exclusive_pairs(options, layers)
    _check_values(options)
    _check_combinations(options, kwargs)
    return options


def _options_of(config: Any) -> dict[str, Any]:
    if not hasattr(config, "to_dict"):
        raise ValueError(
            "generation_config must be a transformers.GenerationConfig; got "
            f"{type(config).__name__}: pass single options by name"
        )
    return {key: x for key, x in config.to_dict().items() if not key.startswith("_")}


def _resolve_exclusive_pairs(options: dict[str, Any], layers: list[dict[str, Any]]) -> None:
    """Unsets one option of each pair.

    The first layer that sets an option of the pair decides; within a layer, the number of new
    tokens takes precedence.
    """
    for length, new_tokens in _EXCLUSIVE_PAIRS:
        for layer in layers:
            if layer.get(new_tokens) is not None:
                options[length] = None
                break
            if layer.get(length) is not None:
                options[new_tokens] = None
                break


def _has_no_effect(key: str, value: Any) -> bool:
    """Returns whether an option is supported, or has a value that changes nothing."""
    if key in DEFAULTS or key in _WITHOUT_EFFECT or value is None or value is False:
        return True
    return key in _NEUTRAL_VALUES and value == _NEUTRAL_VALUES[key]


def _without_unsupported(options: dict[str, Any]) -> dict[str, Any]:
    """Leaves out the options that `generate` does not support, with one warning per set of them."""
    ignored = {key: value for key, value in options.items() if not _has_no_effect(key, value)}
    if ignored:
        listed = ", ".join(f"{key}={reprlib.repr(value)}" for key, value in ignored.items())
        message = (
            "the generation options of the checkpoint include some that generate does not support "
            f"and ignores: {listed}. Set them to None in model.generation_config to silence this"
        )
        if message not in _given_warnings:
            _given_warnings.add(message)
            warnings.warn(message, UserWarning, stacklevel=2)
    return {key: value for key, value in options.items() if key not in ignored}


def _describe_unsupported(key: str, value: Any, *, from_config: bool) -> str:
    """Returns the message about an option that is unsupported or unknown."""
    given = f"{key}={reprlib.repr(value)}"
    where = "generation_config" if from_config else "generate"
    if hasattr(_transformers.generation_config_class()(), key):
        return (
            f"{where} does not support {key}; got {given}: leave it out (supported: "
            f"{', '.join(DEFAULTS)})"
        )
    similar = difflib.get_close_matches(key, [*DEFAULTS, "attention_mask", "streamer"], 1)
    hint = f"did you mean {similar[0]}?" if similar else f"the options are {', '.join(DEFAULTS)}"
    return f"{where} has no option {key!r}; got {given}: {hint}"


def _check_values(options: dict[str, Any]) -> None:
    """Checks the types and ranges of single options."""

    def check(name: str, fits: bool, rule: str) -> None:
        if not fits:
            raise ValueError(f"{name} must be {rule}; got {options[name]!r}")

    def is_integer(x: Any) -> bool:
        return isinstance(x, int) and not isinstance(x, bool)

    for name, minimum in _MINIMUM.items():
        value = options[name]
        if value is not None:
            fits = is_integer(value) and value >= minimum
            check(name, fits, f"an integer of at least {minimum}")
    check("repetition_penalty", _is_above_zero(options["repetition_penalty"]), "a number above 0")
    check("length_penalty", _is_number(options["length_penalty"]), "a number")
    if options["do_sample"]:  # the files of a checkpoint may set the others without sampling
        top_p, min_p = options["top_p"], options["min_p"]
        check("temperature", _is_above_zero(options["temperature"]), "a number above 0")
        check("top_p", _is_number(top_p) and 0 < top_p <= 1, "a number above 0, at most 1")
        if min_p is not None:
            check("min_p", _is_number(min_p) and 0 <= min_p <= 1, "a number in 0..1")
    check("do_sample", isinstance(options["do_sample"], bool), "True or False")
    early_stopping = options["early_stopping"]
    check(
        "early_stopping",
        isinstance(early_stopping, bool) or early_stopping == "never",
        "True, False or 'never'",
    )


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _is_above_zero(x: Any) -> bool:
    return _is_number(x) and x > 0


def _check_combinations(options: dict[str, Any], kwargs: dict[str, Any]) -> None:
    """Checks for options that contradict each other, or that the decoding strategy does not use."""
    num_beams, do_sample = options["num_beams"], options["do_sample"]
    num_return_sequences = options["num_return_sequences"]
    if num_beams > 1 and do_sample:
        raise ValueError(
            f"beam search cannot be combined with sampling; got num_beams={num_beams} with "
            "do_sample=True: choose num_beams=1 or do_sample=False"
        )
    if not do_sample and num_return_sequences > num_beams:
        raise ValueError(
            "num_return_sequences can be at most num_beams without sampling; got "
            f"{num_return_sequences} and {num_beams}: raise num_beams, or set do_sample=True"
        )
    for names, is_used, remedy in (
        (_SAMPLING_OPTIONS, do_sample, "do_sample=True"),
        (_BEAM_OPTIONS, num_beams > 1, "num_beams above 1"),
    ):
        for name in names:
            value = kwargs.get(name)
            is_neutral = value in (None, DEFAULTS[name]) or (name == "top_k" and value == 0)
            if not (is_used or is_neutral):
                raise ValueError(
                    f"{name} needs {remedy}; got {name}={value!r} without it: set it, or leave "
                    f"{name} out"
                )
