"""Makes tokenizers normalize Unicode to the form of the texts that they were trained on.

The same letter may be written as one character (`é`, as most texts have it) or as a letter and a
combining mark (`e` and U+0301, as file names of macOS and some PDF extractors have it). The fast
tokenizers of `transformers` for SentencePiece models do not apply the normalization of the model
file, so that the second form would become unknown tokens.
"""

import itertools
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flax_bigbird.data.types import Tokenizer

_MAX_PAIRS = 2_000_000  # of letters and marks that are tried; only CJK alphabets come close


def normalize_as_trained(tokenizer: Tokenizer, sentencepiece_model: Path | None = None) -> None:
    """Makes a tokenizer normalize texts to the form that its vocabulary was trained on.

    The normalization is that of the SentencePiece model, if it has one. Otherwise, it is NFC or NFD
    if the characters of the vocabulary show that the training texts had this form. A text in the
    form of the vocabulary keeps its token ids. Tokenizers that treat both forms of a letter alike,
    and those that work on bytes, do not change.

    Args:
      tokenizer: The tokenizer, which is changed in place.
      sentencepiece_model: The `spiece.model` of the tokenizer, if there is one.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or _is_byte_level(backend) or _is_normalizing(backend):
        return
    from tokenizers import normalizers

    charsmap = sentencepiece_charsmap(sentencepiece_model) if sentencepiece_model else b""
    if charsmap:
        added: Any = normalizers.Precompiled(charsmap)
    else:
        form = trained_form(tokenizer.get_vocab())
        if form is None:
            return
        added = {"NFC": normalizers.NFC, "NFD": normalizers.NFD}[form]()
    existing = backend.normalizer
    backend.normalizer = normalizers.Sequence([added, existing] if existing else [added])


def sentencepiece_charsmap(path: Path) -> bytes:
    """Returns the compiled normalization rules of a SentencePiece model; b"" if it has none."""
    from sentencepiece import sentencepiece_model_pb2

    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(path.read_bytes())
    return model.normalizer_spec.precompiled_charsmap


def trained_form(tokens: Iterable[str]) -> str | None:
    """Returns the Unicode form of the texts that a vocabulary was trained on.

    It is "NFC" if the vocabulary has letters with accents, all of them composed, and "NFD" if it
    has combining marks and only decomposed letters. In either case, the normalization changes no
    character that the vocabulary knows into one that it does not know. None means that the
    vocabulary has no accents, or accents in both forms.
    """
    tokens = list(tokens)
    alphabet = set().union(*tokens)
    decomposes = {c for c in alphabet if not unicodedata.is_normalized("NFD", c)}
    marks = {c for c in alphabet if unicodedata.category(c).startswith("M")}
    if decomposes:
        is_composed = all(unicodedata.is_normalized("NFC", token) for token in tokens)
        return "NFC" if is_composed and _is_closed(alphabet, marks) else None
    is_decomposed = all(unicodedata.is_normalized("NFD", token) for token in tokens)
    return "NFD" if marks and is_decomposed else None


def _is_closed(alphabet: set[str], marks: set[str]) -> bool:
    """Returns whether no letter and mark of an alphabet compose a letter that it lacks."""
    if len(alphabet) * len(marks) > _MAX_PAIRS:
        return False
    composed = (
        unicodedata.normalize("NFC", letter + mark)
        for letter, mark in itertools.product(alphabet, marks)
    )
    return all(len(letters) > 1 or letters in alphabet for letters in composed)


def _is_byte_level(backend: Any) -> bool:
    """Returns whether a tokenizer works on bytes, whose tokens do not show their characters."""
    parts = (backend.normalizer, backend.pre_tokenizer, backend.decoder)
    has_byte_level_part = any("ByteLevel" in str(part) for part in parts)
    return has_byte_level_part or bool(getattr(backend.model, "byte_fallback", False))


def _is_normalizing(backend: Any) -> bool:
    """Returns whether a tokenizer treats the composed and the decomposed form alike."""
    normalizer = backend.normalizer
    return normalizer is not None and (
        normalizer.normalize_str("\u00e9") == normalizer.normalize_str("e\u0301")
    )
