"""Determines which tokens of a vocabulary start a word, and the text that a token stands for."""

from typing import Any, Literal

import numpy as np

from flax_bigbird.data.errors import OptionError
from flax_bigbird.data.types import Tokenizer

WORD_START = "▁"  # SentencePiece's mark of a space before a token
BYTE_LEVEL_WORD_START = "Ġ"  # the same of byte-level BPE

WordMarks = Literal["sentencepiece", "byte-level", "wordpiece", "word-level"]
"""How tokens show where words start.

* "sentencepiece": a token that starts a word has the prefix `▁`.
* "byte-level": a token that starts a word has the prefix `Ġ`. Each character stands for a byte.
* "wordpiece": a token that continues a word has a prefix, `##` as a rule.
* "word-level": every token is a word.
"""


def word_marks(tokenizer: Tokenizer) -> WordMarks | None:
    """Returns how the tokens of a tokenizer show where words start; None if they do not."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        tokens = tokenizer.get_vocab()
        if any(token.startswith(WORD_START) for token in tokens):
            return "sentencepiece"
        return "wordpiece" if any(token.startswith("##") for token in tokens) else None
    kind = type(backend.model).__name__
    if kind == "WordPiece":
        return "wordpiece"
    if kind == "WordLevel":
        return "word-level"
    parts = (backend.normalizer, backend.pre_tokenizer, backend.decoder)
    if any("ByteLevel" in str(part) for part in parts):
        return "byte-level"
    # A Unigram model, or a BPE model of SentencePiece.
    has_marks = any(token.startswith(WORD_START) for token in tokenizer.get_vocab())
    return "sentencepiece" if has_marks else None


def starts_word(tokenizer: Tokenizer, vocab_size: int) -> np.ndarray:
    """Returns whether each token starts a word, `[V]`.

    Args:
      tokenizer: The tokenizer.
      vocab_size: V, the vocabulary size of the model, which may exceed that of the tokenizer.

    Raises:
      OptionError: if the tokens do not show where words start.
    """
    marks = word_marks(tokenizer)
    if marks is None:
        raise OptionError(
            "whole_word_mask needs a tokenizer whose tokens show where words start (SentencePiece, "
            "WordPiece, byte-level BPE or whole words); the tokens of this one do not: set "
            "whole_word_mask=False"
        )
    result = np.zeros(vocab_size, bool)
    tokens = _tokens(tokenizer, vocab_size)
    if marks == "word-level":
        result[: len(tokens)] = True
    elif marks == "wordpiece":
        prefix = _continuation_prefix(tokenizer)
        result[: len(tokens)] = [not token.startswith(prefix) for token in tokens]
    else:
        mark = WORD_START if marks == "sentencepiece" else BYTE_LEVEL_WORD_START
        result[: len(tokens)] = [token.startswith(mark) for token in tokens]
    return result


def token_lengths(tokenizer: Tokenizer, vocab_size: int) -> np.ndarray:
    """Returns the number of characters that each token stands for, `[V]`.

    The space before a word counts, an unknown token counts as one character, and other special
    tokens count as none.
    """
    lengths = np.zeros(vocab_size, np.int32)
    special = set(tokenizer.all_special_ids)
    marks = word_marks(tokenizer)
    prefix = _continuation_prefix(tokenizer) if marks == "wordpiece" else ""
    is_start = _byte_level_character_starts() if marks == "byte-level" else {}
    for index, token in enumerate(_tokens(tokenizer, vocab_size)):
        if index == tokenizer.unk_token_id:
            lengths[index] = 1
        elif index in special:
            continue
        elif marks == "byte-level":
            lengths[index] = sum(is_start.get(character, True) for character in token)
        elif marks == "wordpiece":
            continues = token.startswith(prefix)
            lengths[index] = len(token) - len(prefix) if continues else len(token) + 1
        elif marks == "word-level":
            lengths[index] = len(token) + 1
        else:
            lengths[index] = len(token)
    return lengths


def token_text(token: str, marks: WordMarks | None) -> str:
    """Returns a token as text, with a space for the mark of the start of a word."""
    if marks == "byte-level":
        byte_of = _bytes_of_characters()
        if all(character in byte_of for character in token):
            return bytes(byte_of[character] for character in token).decode("utf-8", "replace")
        return token
    return token.replace(WORD_START, " ")


def _tokens(tokenizer: Tokenizer, vocab_size: int) -> list[str]:
    """Returns the tokens that both the tokenizer and the model have, by id."""
    tokens: Any = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), vocab_size))))
    return [token or "" for token in tokens]


def _continuation_prefix(tokenizer: Tokenizer) -> str:
    """Returns the prefix of tokens that continue a word in a WordPiece vocabulary."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    return getattr(model, "continuing_subword_prefix", None) or "##"


def _bytes_of_characters() -> dict[str, int]:
    """Returns the byte that each character of a byte-level vocabulary stands for.

    Printable characters of Latin-1 stand for their own code; the other bytes follow from U+0100 on
    (Radford et al., 2019).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    byte_of = {chr(byte): byte for byte in printable}
    return byte_of | {chr(0x100 + index): byte for index, byte in enumerate(others)}


def _byte_level_character_starts() -> dict[str, bool]:
    """Returns whether each character of a byte-level vocabulary is the first byte of a letter."""
    return {character: byte & 0xC0 != 0x80 for character, byte in _bytes_of_characters().items()}
