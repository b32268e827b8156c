"""Loads tokenizers, and turns texts into token ids."""

import hashlib
import re
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird._messages import first_line
from flax_bigbird._transformers import quiet
from flax_bigbird.checkpoint.hub import is_hub_id
from flax_bigbird.data.character_vocabulary import encode_characters
from flax_bigbird.data.errors import OptionError, TokenizerWarning
from flax_bigbird.data.normalization import normalize_as_trained
from flax_bigbird.data.tokenizer_checks import (
    find_contradiction,
    find_disagreement,
    find_malformed_file,
    is_tokenizer_error,
)
from flax_bigbird.data.types import Tokenizer
from flax_bigbird.pretrained import local_path

MAX_UNKNOWN_FRACTION = 0.05
"""The fraction of unknown tokens above which the user is warned.

With BigBird's published vocabulary, which lacks typographic quotes and dashes, books have 0.1% and
news articles from the web 2%. A text in a script that the vocabulary lacks has 30% or more.
"""

_WORD = re.compile(r"\S+")

SENTENCEPIECE_FILE = "spiece.model"
TOKENIZER_FILES = (
    "tokenizer.json",
    SENTENCEPIECE_FILE,
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
)


def load_tokenizer(name: str | Path) -> Tokenizer:
    """Loads the tokenizer of a directory, a model inside the package, or a Hub id.

    It normalizes Unicode as the texts that its vocabulary was trained on, see
    `flax_bigbird.data.normalization`.

    Raises:
      OptionError: if there is none, if a file is malformed, or if it lacks a `[CLS]`, `[SEP]`,
        `[MASK]`, or padding token.

    Warns:
      TokenizerWarning: if `tokenizer.json` and `spiece.model` are not of the same tokenizer.
    """
    with quiet():
        from transformers import AutoTokenizer
    path = Path(local_path(str(name))).expanduser()
    path_or_name = str(path) if path.is_dir() else str(name)
    if not path.is_dir() and not is_hub_id(path_or_name):
        what = "is a file" if path.exists() else "does not exist"
        raise OptionError(
            f"must be a directory or Hub id that holds one; {name} {what}: check the path",
            option="tokenizer",
        )
    if path.is_dir() and not any((path / file).is_file() for file in TOKENIZER_FILES):
        raise OptionError(
            f"must be a directory with the files of one ({', '.join(TOKENIZER_FILES)}); "
            f"{path} has none of them: save the model's tokenizer there with "
            "tokenizer.save_pretrained, or copy its files",
            option="tokenizer",
        )
    try:
        # Code of a repository is never run; by default, `transformers` would wait for an answer.
        tokenizer = AutoTokenizer.from_pretrained(path_or_name, trust_remote_code=False)
        contradiction = find_contradiction(tokenizer)
    except BaseException as error:  # malformed files can raise anything, panics of Rust included
        if not is_tokenizer_error(error):
            raise
        reason = find_malformed_file(path) if path.is_dir() else None
        raise OptionError(
            f"must be a directory or Hub id that holds one; {name} does not "
            f"({reason or first_line(error)}): name one, or train a vocabulary with a new model",
            option="tokenizer",
        ) from error
    if contradiction is not None:
        raise OptionError(
            f"every token of a tokenizer must have an id of its own; in {name}, {contradiction}: "
            "copy or download its files again"
        )
    for kind in ("pad", "cls", "sep", "mask"):
        if getattr(tokenizer, f"{kind}_token_id") is None:
            raise OptionError(
                f"the tokenizer must have a {kind} token; that of {name} has none: use BigBird's"
            )
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        # `transformers` makes a tokenizer of special tokens alone if it finds no vocabulary.
        raise OptionError(
            f"the tokenizer must have tokens for texts; that of {name} has only special tokens: "
            "name a tokenizer with a vocabulary"
        )
    sentencepiece_model = _sentencepiece_file(path_or_name)
    try:
        if sentencepiece_model is not None:
            difference = find_disagreement(tokenizer, sentencepiece_model)
            if difference is not None:
                warnings.warn(
                    f"the tokenizer of {name} differs from the {SENTENCEPIECE_FILE} beside it: "
                    f"{difference}. Its texts may be encoded otherwise than those that the model "
                    f"was trained on: copy its files again, or remove {SENTENCEPIECE_FILE} if it "
                    "is out of date",
                    TokenizerWarning,
                    stacklevel=2,
                )
        normalize_as_trained(tokenizer, sentencepiece_model)
    except BaseException as error:
        if not is_tokenizer_error(error) or isinstance(error, TokenizerWarning):
            raise
        raise OptionError(
            f"the files of a tokenizer must be intact; {sentencepiece_model or name} is not "
            f"({first_line(error)}): copy or download them again"
        ) from error
    return tokenizer


def _sentencepiece_file(name: str) -> Path | None:
    """Returns the path of a tokenizer's SentencePiece model, if it has one."""
    path = Path(local_path(name))
    if path.is_dir():
        return path / SENTENCEPIECE_FILE if (path / SENTENCEPIECE_FILE).is_file() else None
    with quiet():
        from transformers.utils.hub import cached_file
    file = cached_file(
        name,
        SENTENCEPIECE_FILE,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(file) if file else None


def num_token_ids(tokenizer: Tokenizer) -> int:
    """Returns the number of rows that a model needs: the highest token id plus one."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def check_vocabulary_fits(
    tokenizer: Tokenizer, vocab_size: int, remedy: str = "use the tokenizer of the model"
) -> None:
    """Checks that a model has a row for every token of a tokenizer.

    JAX does not check indices: the embedding of a token that the model lacks would be NaN.

    Args:
      tokenizer: The tokenizer.
      vocab_size: The vocabulary size of the model, which may exceed that of the tokenizer.
      remedy: What the user can do.

    Raises:
      OptionError: if the tokenizer has a token that the model lacks.
    """
    count = num_token_ids(tokenizer)
    if count > vocab_size:
        raise OptionError(
            f"the tokenizer must have at most the {vocab_size:,} tokens of the model; it has "
            f"{count:,}: {remedy}"
        )


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of whole texts, without `[CLS]` and `[SEP]`.

    White space becomes single spaces, as in SentencePiece's own normalization. The tokenizers of
    `transformers` keep line breaks, which are not in BigBird's vocabularies.
    """
    if not texts:
        return []
    spaced = [" ".join(text.split()) for text in texts]
    encoded = encode_characters(tokenizer, spaced)
    if encoded is not None:
        return encoded
    return tokenizer(spaced, add_special_tokens=False, verbose=False)["input_ids"]


def tokenize_with_offsets(
    tokenizer: Tokenizer, text: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns the token ids of a text and the characters `[start, end)` of each token.

    The ids are those of `tokenize`. Of several white-space characters, which are one space to the
    tokenizer, the last one belongs to a token, and the others to none.
    """
    words = [match.span() for match in _WORD.finditer(text)]
    spaced = " ".join(text[start:end] for start, end in words)
    encoding = tokenizer(
        spaced, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    offsets = [(int(start), int(end)) for start, end in encoding["offset_mapping"]]
    offsets = _include_marks(spaced, offsets)
    return encoding["input_ids"], offsets if spaced == text else _original_offsets(offsets, words)


def _original_offsets(
    offsets: list[tuple[int, int]], words: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Converts offsets into words with single spaces between them to those into the text.

    Args:
      offsets: The characters `[start, end)` of each token in the joined words.
      words: The characters `[start, end)` of each word in the text.
    """
    if not words:
        return [(0, 0)] * len(offsets)
    starts, ends = np.array(words).T
    sizes = ends - starts + 1  # with the space after each word
    joined_starts = np.cumsum(sizes) - sizes
    positions = np.arange(sizes.sum()) + np.repeat(starts - joined_starts, sizes)
    positions[joined_starts[1:] - 1] = starts[1:] - 1  # of the spaces
    return [
        (
            int(positions[start]),
            int(positions[end - 1]) + 1 if start < end else int(positions[start]),
        )
        for start, end in offsets
    ]


def _include_marks(text: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Extends tokens over the combining marks that follow them and belong to no token.

    Where a normalizer composes a letter and a mark, `tokenizers` gives the letter's offsets alone.
    """
    if not any(map(unicodedata.combining, set(text))):
        return offsets
    extended = []
    next_starts = [start for start, _ in [*offsets[1:], (len(text), len(text))]][: len(offsets)]
    for (start, end), next_start in zip(offsets, next_starts, strict=True):
        while 0 < end < next_start and unicodedata.combining(text[end]):
            end += 1
        extended.append((start, end))
    return extended


def count_tokens(ids: np.ndarray, tokenizer: Tokenizer) -> tuple[int, int]:
    """Returns how many tokens are unknown, and how many stand for text, unknown ones included."""
    special_ids = [id for id in tokenizer.all_special_ids if id != tokenizer.unk_token_id]
    num_unknown = int((ids == tokenizer.unk_token_id).sum()) if tokenizer.unk_token else 0
    return num_unknown, int(ids.size - np.isin(ids, special_ids).sum())


def unknown_tokens_message(num_unknown: int, num_tokens: int, texts: str) -> str | None:
    """Returns a warning if more than `MAX_UNKNOWN_FRACTION` of the tokens are unknown.

    Args:
      num_unknown: The number of unknown tokens.
      num_tokens: The number of all tokens that stand for text.
      texts: What the texts are called, for example "training data".
    """
    if num_unknown <= MAX_UNKNOWN_FRACTION * num_tokens:
        return None
    return (
        f"{num_unknown / num_tokens:.0%} of the tokens of the {texts} are unknown to the "
        f"tokenizer, more than {MAX_UNKNOWN_FRACTION:.0%}, so the model cannot tell these words "
        "apart: use a tokenizer, and a model, that were trained on texts of this kind"
    )


def add_special_tokens(
    parts: Sequence[Sequence[int]], tokenizer: Tokenizer, length: int
) -> tuple[list[int], bool]:
    """Joins parts as `[CLS] a [SEP] b [SEP]` and truncates them to `length` tokens.

    The longest part is truncated first, as by `longest_first` in the tokenizers of `transformers`.

    Returns:
      The token ids, and whether something was truncated.
    """
    available = length - 1 - len(parts)
    sizes = [len(part) for part in parts]
    while sum(sizes) > available:
        # Of parts that are equally long now, the one that was longest keeps a token more.
        longest = max(range(len(parts)), key=lambda index: (sizes[index], -len(parts[index])))
        others = [size for index, size in enumerate(sizes) if index != longest]
        # Truncates the longest part to the length of the next longest, then all of the longest
        # equally.
        excess = sum(sizes) - available
        step = sizes[longest] - max(others, default=0)
        sizes[longest] -= min(excess, step) if step else -(-excess // len(sizes))
    ids: list[Any] = [tokenizer.cls_token_id]
    for part, size in zip(parts, sizes, strict=True):
        ids += [*part[:size], tokenizer.sep_token_id]
    return ids, sizes != [len(part) for part in parts]


def text_hash(text: str) -> int:
    """Returns an integer of 63 bits that is the same for equal texts, and hardly for others."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
