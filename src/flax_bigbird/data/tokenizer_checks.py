"""Checks that the files of a tokenizer are well formed and agree with each other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flax_bigbird._messages import first_line
from flax_bigbird.data.types import Tokenizer

_MAX_SCORE_DIFFERENCE = 1e-3  # of a token; the files hold rounded decimals and float32
_MAX_PROBES = 256
_SPECIAL_TOKENS = ("pad", "cls", "sep", "mask")
_WORD_MARK = "\u2581"  # of SentencePiece, before the first token of a word


def _is_token(value: Any) -> bool:
    content = value.get("content") if isinstance(value, dict) else value
    return value is None or isinstance(content, str)


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_tokens(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return value is None or (isinstance(value, list | dict) and all(map(_is_token, items)))


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (is_number and value > 0)


# What the keys of tokenizer_config.json and special_tokens_map.json must be.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{f"{kind}_token": (_is_token, "a token") for kind in (*_SPECIAL_TOKENS, "unk", "bos", "eos")},
    "additional_special_tokens": (_is_tokens, "a list of tokens"),
    "extra_special_tokens": (_is_tokens, "tokens"),
    "model_max_length": (_is_positive, "a positive number"),
    "tokenizer_class": (lambda value: value is None or isinstance(value, str), "a text"),
    "add_prefix_space": (_is_flag, "true or false"),
    "clean_up_tokenization_spaces": (_is_flag, "true or false"),
    "do_lower_case": (_is_flag, "true or false"),
}


def find_malformed_file(folder: Path) -> str | None:
    """Returns which file of a tokenizer is malformed, and how; None if none is.

    Args:
      folder: The folder of the tokenizer.
    """
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    for path in (folder / name for name in (*names, "added_tokens.json")):
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            return f"{path} is not JSON ({str(error)[:200]})"
        if not isinstance(content, dict):
            return f"{path} must hold a JSON object; it holds {type(content).__name__}"
        if path.name in names[1:]:
            for key, (is_valid, what) in _RULES.items():
                if key in content and not is_valid(content[key]):
                    return f"{path}: {key} must be {what}; got {str(content[key])[:80]!r}"
    return _find_malformed_backend(folder / names[0])


def _find_malformed_backend(path: Path) -> str | None:
    if not path.is_file():
        return None
    from tokenizers import Tokenizer as Backend

    try:
        Backend.from_str(path.read_text(encoding="utf-8"))
    except BaseException as error:  # panics of Rust are no `Exception`
        if not is_tokenizer_error(error):
            raise
        return f"{path} cannot be read by `tokenizers` ({first_line(error)})"
    return None


def is_tokenizer_error(error: BaseException) -> bool:
    """Returns whether an exception comes from malformed files: any error, or a panic of Rust."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def find_contradiction(tokenizer: Tokenizer) -> str | None:
    """Returns why a tokenizer cannot be used: tokens that share an id; None if it can be.

    Raises:
      BaseException: whatever `tokenizers` raises if it cannot encode a text.
    """
    tokenizer("A text with a character that it does not know: \U0010fffd.")
    ids: dict[int, str] = {}
    for token, index in tokenizer.get_vocab().items():
        if index < 0 or ids.setdefault(index, token) != token:
            return f"{token!r} and {ids.get(index)!r} have the id {index}"
    special: dict[int, str] = {}
    for kind in ("cls", "sep", "pad", "mask"):  # one token may be both of the first two
        index = getattr(tokenizer, f"{kind}_token_id")
        other = kind if index is None else special.setdefault(index, kind)
        if other != kind and kind in ("pad", "mask"):
            return f"the {other} token and the {kind} token have the id {index}"
    return None


def find_disagreement(tokenizer: Tokenizer, sentencepiece_model: Path) -> str | None:
    """Returns how a tokenizer differs from its `spiece.model`; None if it does not.

    Args:
      tokenizer: The tokenizer, which `transformers` creates from `tokenizer.json`.
      sentencepiece_model: The `spiece.model` beside it.
    """
    from sentencepiece import sentencepiece_model_pb2

    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str())["model"] if backend is not None else {}
    if content.get("type") != "Unigram":
        return None
    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(sentencepiece_model.read_bytes())
    if len(content["vocab"]) < len(model.pieces):
        return f"it has {len(content['vocab'])} tokens of {len(model.pieces)}"
    for index, (piece, (token, score)) in enumerate(
        zip(model.pieces, content["vocab"], strict=False)
    ):
        if piece.piece != token:
            return f"token {index} is {token!r} and {piece.piece!r}"
        if abs(piece.score - score) > _MAX_SCORE_DIFFERENCE * max(1.0, abs(piece.score)):
            return f"the score of {token!r} is {score:.6g} and {piece.score:.6g}"
    return _find_lossy_word(tokenizer, [token for token, _ in content["vocab"]])


def _find_lossy_word(tokenizer: Tokenizer, tokens: list[str]) -> str | None:
    """Returns the first word of the vocabulary that is not encoded into its own characters."""
    special = set(tokenizer.all_special_tokens)
    words = [t for t in tokens if len(t) > 1 and t.startswith(_WORD_MARK) and t not in special]
    words = [word for word in words if word.count(_WORD_MARK) == 1 and word[1:].isalpha()]
    words = words[:: max(1, len(words) // _MAX_PROBES)]
    if not words:
        return None
    texts = [word[1:] for word in words]
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    for word, ids in zip(words, encoded, strict=True):
        if "".join(tokenizer.convert_ids_to_tokens(ids)) != word:
            return f"the word {word[1:]!r}, which it knows, is encoded as {ids}"
    return None
