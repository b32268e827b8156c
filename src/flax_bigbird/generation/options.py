"""What `generate` was asked for: options of every source merged, checked, and made hashable.

Nothing is ignored in silence: an option that is not supported raises unless its value is the one
that asks for nothing.
"""

import dataclasses
import difflib
import reprlib
from typing import Any

from flax_bigbird import _transformers

# Option -> value when nobody sets it. `None` asks for nothing.
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

# Read by nobody here, whatever the value: a prompt is always given, an output object is always
# returned, and the rest is bookkeeping of the file.
_NO_EFFECT = {"bos_token_id", "return_dict_in_generate", "transformers_version"}

# Options of transformers' GenerationConfig that are not supported, with values that ask for nothing
# besides None and False.
_NEUTRAL: dict[str, Any] = {
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

# Options that mean something in one way of decoding only.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
_BEAMS = ("early_stopping", "length_penalty")
_RIVALS = (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))


@dataclasses.dataclass(frozen=True)
class Options:
    """What a program is compiled for.

    Attributes:
      active: names of the rules whose number is an argument of the program.
      room: tokens there is room for behind the prompt; at least the number that is asked for.
    """

    do_sample: bool
    num_beams: int
    num_return_sequences: int
    early_stopping: bool | str
    top_k: int
    no_repeat_ngram_size: int
    bad_words: tuple[tuple[int, ...], ...]
    suppressed: tuple[int, ...]
    begin_suppressed: tuple[int, ...]
    begin_at: int
    forced_bos: int | None
    forced_eos: int | None
    pad: int
    eos: tuple[int, ...]
    active: tuple[str, ...]
    room: int


def merge(kwargs: dict[str, Any], *configs: Any) -> dict[str, Any]:
    """Every supported option's value: keywords first, then configurations in order, then defaults.

    A keyword that is None takes back what the configurations say; there, None is "unset".

    Args:
      kwargs: what the caller of `generate` passed by name.
      configs: `GenerationConfig`s or None, the most important first; unset fields are None.

    Raises:
      ValueError: unknown options, unsupported ones, or rivals in one call.
    """
    layers = [dict(kwargs)]
    for config in configs:
        if config is not None:
            if not hasattr(config, "to_dict"):
                raise ValueError(
                    "generation_config must be a transformers.GenerationConfig; got "
                    f"{type(config).__name__}: pass single options by name"
                )
            fields = config.to_dict()
            layers.append({key: x for key, x in fields.items() if not key.startswith("_")})
    for i, layer in enumerate(layers):
        for key, value in layer.items():
            if key not in DEFAULTS:
                _check_unsupported(key, value, of_config=i > 0)
    for pair in _RIVALS:
        if all(kwargs.get(name) is not None for name in pair):
            given = ", ".join(f"{name}={kwargs[name]}" for name in pair)
            raise ValueError(
                f"give one of {' and '.join(pair)}; got {given}: leave one of them out"
            )
    out: dict[str, Any] = {}
    for key in DEFAULTS:
        values = (layer[key] for layer in layers if layer.get(key) is not None)
        out[key] = DEFAULTS[key] if key in kwargs else next(values, DEFAULTS[key])
        if kwargs.get(key) is not None:
            out[key] = kwargs[key]
    for pair in _RIVALS:  # the more important layer decides; within one, the count of new tokens
        for layer in layers:
            if layer.get(pair[1]) is not None:
                out[pair[0]] = None
            elif layer.get(pair[0]) is not None:
                out[pair[1]] = None
            else:
                continue
            break
    _check_kinds(out)
    _check_meaning(out, kwargs)
    return out


def _check_unsupported(key: str, value: Any, *, of_config: bool) -> None:
    if key in _NO_EFFECT or value is None or value is False:
        return
    if key in _NEUTRAL and value == _NEUTRAL[key]:
        return
    given = f"{key}={reprlib.repr(value)}"
    where = "generation_config" if of_config else "generate"
    if hasattr(_transformers.generation_config_class()(), key):
        raise ValueError(
            f"{where} does not support {key}; got {given}: leave it out (supported: "
            f"{', '.join(DEFAULTS)})"
        )
    near = difflib.get_close_matches(key, [*DEFAULTS, "attention_mask", "streamer"], 1)
    hint = f"did you mean {near[0]}?" if near else f"the options are {', '.join(DEFAULTS)}"
    raise ValueError(f"{where} has no option {key!r}; got {given}: {hint}")


def _check_kinds(out: dict[str, Any]) -> None:
    """Types and ranges of single options."""

    def check(name: str, fits: bool, rule: str) -> None:
        if not fits:
            raise ValueError(f"{name} must be {rule}; got {out[name]!r}")

    def whole(x: Any) -> bool:
        return isinstance(x, int) and not isinstance(x, bool)

    def number(x: Any) -> bool:
        return isinstance(x, int | float) and not isinstance(x, bool)

    least = {"max_length": 1, "max_new_tokens": 1, "min_length": 0, "min_new_tokens": 0}
    least |= {"num_beams": 1, "num_return_sequences": 1, "top_k": 0, "no_repeat_ngram_size": 0}
    for name, low in least.items():
        if out[name] is not None:
            check(name, whole(out[name]) and out[name] >= low, f"an integer of at least {low}")
    for name in ("temperature", "repetition_penalty"):
        check(name, number(out[name]) and out[name] > 0, "a number above 0")
    check("length_penalty", number(out["length_penalty"]), "a number")
    check("top_p", number(out["top_p"]) and 0 < out["top_p"] <= 1, "a number above 0, at most 1")
    if out["min_p"] is not None:
        check("min_p", number(out["min_p"]) and 0 <= out["min_p"] <= 1, "a number in 0..1")
    check("do_sample", isinstance(out["do_sample"], bool), "True or False")
    check(
        "early_stopping",
        isinstance(out["early_stopping"], bool) or out["early_stopping"] == "never",
        "True, False or 'never'",
    )


def _check_meaning(out: dict[str, Any], kwargs: dict[str, Any]) -> None:
    """Options that contradict each other, or that this way of decoding has no use for."""
    beams, sampling, wanted = out["num_beams"], out["do_sample"], out["num_return_sequences"]
    if beams > 1 and sampling:
        raise ValueError(
            f"beams are searched, not sampled; got num_beams={beams} with do_sample=True: choose "
            "num_beams=1 or do_sample=False"
        )
    if not sampling and wanted > beams:
        raise ValueError(
            f"num_return_sequences can be at most num_beams without sampling; got {wanted} and "
            f"{beams}: raise num_beams, or set do_sample=True"
        )
    for names, fits, remedy in (
        (_SAMPLING, sampling, "do_sample=True"),
        (_BEAMS, beams > 1, "num_beams above 1"),
    ):
        for name in names:
            value = kwargs.get(name)
            idle = value is None or value == DEFAULTS[name] or (name == "top_k" and value == 0)
            if not (fits or idle):
                raise ValueError(
                    f"{name} needs {remedy}; got {name}={value!r} without it: set it, or leave "
                    f"{name} out"
                )


def compile_options(
    values: dict[str, Any], *, prompt: int, limit: int, room: int, vocabulary: int
) -> tuple[Options, dict[str, float]]:
    """What is compiled for, and the numbers that are arguments of the program.

    Args:
      values: of `merge`, with `max_new_tokens` set.
      prompt: tokens of the prompt as given, padding included: lengths count from it.
      limit: tokens to generate at most.
      room: `Options.room`.
      vocabulary: V.

    Raises:
      ValueError: ids outside the vocabulary, or more tokens wanted than there is room for.
    """
    ids = {
        name: _ids(name, values[name], vocabulary)
        for name in (
            *("eos_token_id", "pad_token_id", "suppress_tokens", "begin_suppress_tokens"),
            *("forced_bos_token_id", "forced_eos_token_id"),
        )
    }
    least = values["min_new_tokens"]
    if least is None:
        least = max(0, (values["min_length"] or 0) - prompt)
    if least > limit:
        raise ValueError(
            f"no more tokens can be required than allowed; got {least} new tokens at least and "
            f"{limit} at most: lower min_new_tokens (min_length), or raise max_new_tokens"
        )
    numbers: dict[str, float] = {}
    numbers |= {"min_new_tokens": least} if least and ids["eos_token_id"] else {}
    if values["repetition_penalty"] != 1:
        numbers["repetition_penalty"] = float(values["repetition_penalty"])
    if values["do_sample"]:
        idle = {"temperature": 1, "top_p": 1, "min_p": None}
        numbers |= {key: float(values[key]) for key, x in idle.items() if values[key] != x}
    bad_words = tuple(
        _ids("bad_words_ids", word, vocabulary) for word in values["bad_words_ids"] or ()
    )
    if not all(bad_words):
        raise ValueError("bad_words_ids must be lists of at least one id; got an empty one")
    eos = ids["eos_token_id"]
    # A word that is an end of text by itself would forbid to end, which nobody means by it.
    bad_words = tuple(word for word in bad_words if not (len(word) == 1 and word[0] in eos))
    forced_bos = _one("forced_bos_token_id", ids["forced_bos_token_id"]) if prompt == 1 else None
    forced_eos = _one("forced_eos_token_id", ids["forced_eos_token_id"])
    options = Options(
        do_sample=values["do_sample"],
        num_beams=values["num_beams"],
        num_return_sequences=values["num_return_sequences"],
        early_stopping=values["early_stopping"],
        top_k=min(values["top_k"], vocabulary) if values["do_sample"] else 0,
        no_repeat_ngram_size=values["no_repeat_ngram_size"],
        bad_words=bad_words,
        suppressed=ids["suppress_tokens"],
        begin_suppressed=ids["begin_suppress_tokens"],
        begin_at=0 if forced_bos is None else 1,
        forced_bos=forced_bos,
        forced_eos=forced_eos,
        pad=(*ids["pad_token_id"], *eos, 0)[0],
        eos=eos,
        active=tuple(numbers),
        room=room,
    )
    if values["num_beams"] > 1:
        numbers["length_penalty"] = float(values["length_penalty"])
    return options, numbers


def new_tokens(values: dict[str, Any], prompt: int, longest: int, table: int) -> int:
    """How many tokens to generate at most.

    Args:
      prompt: tokens of the prompt as given, padding included.
      longest: real tokens of the longest prompt.
      table: `max_position_embeddings`.

    Raises:
      ValueError: no room for them in the position table, or a length that the prompt has already.
    """
    if values["max_new_tokens"] is not None:
        wanted = values["max_new_tokens"]
    elif values["max_length"] is not None:
        wanted = values["max_length"] - prompt
        if wanted < 1:
            raise ValueError(
                f"max_length counts the prompt and must be above its {prompt} tokens; got "
                f"{values['max_length']}: raise it, or give max_new_tokens"
            )
    else:
        wanted = max(1, min(DEFAULT_NEW_TOKENS, table - longest))
    if longest + wanted > table:
        raise ValueError(
            f"prompt and continuation may have at most {table} tokens "
            f"(config.max_position_embeddings); got a prompt of {longest} and {wanted} new ones: "
            f"ask for at most {max(0, table - longest)}, or shorten the prompt"
        )
    return wanted


def _ids(name: str, value: Any, vocabulary: int) -> tuple[int, ...]:
    """An id, or a list of them, as a tuple."""
    if value is None:
        return ()
    ids = tuple(value) if isinstance(value, list | tuple | set) else (value,)
    for x in ids:
        if not hasattr(x, "__index__") or isinstance(x, bool) or not 0 <= int(x) < vocabulary:
            raise ValueError(
                f"{name} must be ids in 0..{vocabulary - 1} (config.vocab_size={vocabulary}); got "
                f"{x!r}: take them from the checkpoint's tokenizer"
            )
    return tuple(int(x) for x in ids)


def _one(name: str, ids: tuple[int, ...]) -> int | None:
    if len(ids) > 1:
        raise ValueError(f"{name} must be one id; got {list(ids)}: choose one")
    return ids[0] if ids else None
