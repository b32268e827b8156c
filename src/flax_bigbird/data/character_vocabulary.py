"""Creates tokenizers whose tokens are single characters, and encodes texts with them quickly.

Such a tokenizer is a BPE model without merges, in the format of `tokenizers`, which `AutoTokenizer`
opens. Encoding with it takes microseconds per character in `tokenizers`; for ASCII texts, such as
genomes, `encode_characters` gives the same ids by a table look-up.
"""

import json
import unicodedata
import weakref
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird._transformers import quiet
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.types import Tokenizer

SPECIAL_TOKENS = ("<pad>", "</s>", "<s>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
"""The special tokens in the order of their ids, which are those of `train_vocabulary`."""

_UNKNOWN = "<unk>"
_NUM_ASCII = 128
_FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def find_characters(texts: Iterable[str], size: int) -> list[str]:
    """Returns the characters of texts in the order of their codes.

    Runs of white space count as one space, as in all texts that are tokenized.

    Args:
      texts: The texts.
      size: The maximum number of tokens of the vocabulary, special tokens included. If there are
        more characters, the most frequent ones are returned.

    Raises:
      DataError: if the texts have no characters.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(unicodedata.normalize("NFC", " ".join(text.split())))
    if not counts:
        raise DataError(
            "the texts must have characters for a vocabulary; all are empty: name the column that "
            "holds them with text_column, or check the files"
        )
    by_frequency = sorted(counts, key=lambda character: (-counts[character], character))
    return sorted(by_frequency[: size - len(SPECIAL_TOKENS)])


def save_character_vocabulary(characters: list[str], directory: Path, max_length: int) -> Tokenizer:
    """Writes the files of a tokenizer to a directory, and returns the tokenizer loaded from there.

    If the characters have letters in upper case and none in lower case, letters in lower case are
    read as upper case, and the other way around, because they would all be unknown.

    Args:
      characters: The characters, in the order of their ids.
      directory: An existing directory.
      max_length: The maximum number of tokens that the model reads.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, processors

    with quiet():
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *characters])}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[], unk_token=_UNKNOWN))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), *_case_normalizers(characters)])
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token=_UNKNOWN,
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    tokenizer.save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def is_character_level(tokenizer: Tokenizer) -> bool:
    """Returns whether all tokens but the special ones are single characters."""
    special = set(tokenizer.all_special_tokens)
    return all(len(token) == 1 for token in tokenizer.get_vocab() if token not in special)


def encode_characters(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]] | None:
    """Returns the token ids of ASCII texts for a vocabulary of characters, without special tokens.

    They are those that the tokenizer returns. The result is None if it has another vocabulary, or
    if a text must be left to it: one with special tokens or with characters beyond ASCII.

    Args:
      tokenizer: The tokenizer.
      texts: The texts.
    """
    table = _ascii_table(tokenizer)
    if table is None:
        return None
    fast: Any = tokenizer  # `_ascii_table` has checked that it is one of `tokenizers`
    added = list(fast.get_added_vocab())
    if not all(text.isascii() and not any(token in text for token in added) for text in texts):
        return None
    return [table[np.frombuffer(text.encode("ascii"), np.uint8)].tolist() for text in texts]


_tables: "weakref.WeakKeyDictionary[Any, tuple[Any, np.ndarray | None]]" = (
    weakref.WeakKeyDictionary()
)


def _ascii_table(tokenizer: Tokenizer) -> np.ndarray | None:
    """Returns the token id of each ASCII character, `[128]`.

    It is None if the tokenizer is not one of `save_character_vocabulary`.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.pre_tokenizer is not None:
        return None
    if type(backend.model).__name__ != "BPE":
        return None
    key = (backend.get_vocab_size(), str(backend.normalizer))
    cached = _tables.get(tokenizer)
    if cached is None or cached[0] != key:
        cached = _tables[tokenizer] = key, _build_table(backend)
    return cached[1]


def _build_table(backend: Any) -> np.ndarray | None:
    content = json.loads(backend.to_str())
    model = content["model"]
    unknown = model["vocab"].get(model["unk_token"])
    is_plain = (
        unknown is not None
        and not model["merges"]
        and not any(model.get(key) for key in _OTHER_BPE_OPTIONS)
        and all(token["special"] and not token["normalized"] for token in content["added_tokens"])
        and _treats_characters_alone(content["normalizer"])
    )
    if not is_plain:
        return None
    characters = [chr(code) for code in range(_NUM_ASCII)]
    if backend.normalizer is not None:
        characters = [backend.normalizer.normalize_str(character) for character in characters]
    ids = [model["vocab"].get(character, unknown) for character in characters]
    return np.array(ids, np.int32)


_OTHER_BPE_OPTIONS = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
)


def _treats_characters_alone(normalizer: dict[str, Any] | None) -> bool:
    """Returns whether a normalizer turns each ASCII character into one, whatever its neighbors."""
    if normalizer is None or normalizer["type"] in ("Lowercase", *_FORMS):
        return True
    if normalizer["type"] == "Sequence":
        return all(map(_treats_characters_alone, normalizer["normalizers"]))
    if normalizer["type"] == "Replace":
        pattern = normalizer["pattern"].get("String", "")
        return len(pattern) == len(normalizer["content"]) == 1
    return False


def _case_normalizers(characters: list[str]) -> list[Any]:
    """Returns what maps letters to the only case that a vocabulary has; nothing if it has both."""
    from tokenizers import normalizers

    has_lower = any(character.islower() for character in characters)
    has_upper = any(character.isupper() for character in characters)
    if has_lower == has_upper:
        return []
    if has_lower:
        return [normalizers.Lowercase()]
    lower = [(character.lower(), character) for character in characters if character.isupper()]
    return [normalizers.Replace(one, other) for one, other in lower if len(one) == 1]
