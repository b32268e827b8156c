"""Turns texts into token ids, and caches tokenized datasets under all that they depend on."""

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird._transformers import quiet
from flax_bigbird.data.errors import OptionError
from flax_bigbird.data.types import Batch, Dataset, Features, Tokenizer
from flax_bigbird.pretrained import local_path


def load_tokenizer(name: str | Path) -> Tokenizer:
    """Loads the tokenizer of a folder, a model inside the package, or a Hub id.

    Raises:
      OptionError: if there is none, or if it lacks a `[CLS]`, `[SEP]`, `[MASK]`, or padding token.
    """
    with quiet():
        from transformers import AutoTokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(local_path(str(name)))
    except (OSError, ValueError, KeyError) as error:
        raise OptionError(
            f"tokenizer must be a folder or Hub id that holds one; {name} does not "
            f"({str(error).splitlines()[0]}): name one, or train a vocabulary with a new model"
        ) from error
    for kind in ("pad", "cls", "sep", "mask"):
        if getattr(tokenizer, f"{kind}_token_id") is None:
            raise OptionError(
                f"the tokenizer must have a {kind} token; that of {name} has none: use BigBird's"
            )
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of whole texts, without `[CLS]` and `[SEP]`.

    White space becomes single spaces, as in SentencePiece's own normalization. The tokenizers of
    `transformers` leave line breaks in, which are unknown to BigBird's vocabularies.
    """
    if not texts:
        return []
    spaced = [" ".join(text.split()) for text in texts]
    return tokenizer(spaced, add_special_tokens=False, verbose=False)["input_ids"]


def tokenize_with_offsets(
    tokenizer: Tokenizer, text: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns the token ids of a text and the characters `[start, end)` of each token."""
    plain = re.sub(r"\s", " ", text)
    encoding = tokenizer(
        plain, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    offsets = [(int(start), int(end)) for start, end in encoding["offset_mapping"]]
    return encoding["input_ids"], offsets


def add_special_tokens(
    parts: Sequence[Sequence[int]], tokenizer: Tokenizer, length: int
) -> tuple[list[int], bool]:
    """Joins parts as `[CLS] a [SEP] b [SEP]` and truncates them to `length` tokens.

    The longest part is truncated first.

    Returns:
      The token ids, and whether something was truncated.
    """
    available = length - 1 - len(parts)
    sizes = [len(part) for part in parts]
    while sum(sizes) > available:
        longest = int(np.argmax(sizes))
        others = [size for index, size in enumerate(sizes) if index != longest]
        # Down to the next longest at once, then in equal parts.
        excess = sum(sizes) - available
        step = sizes[longest] - max(others, default=0)
        sizes[longest] -= min(excess, step) if step else -(-excess // len(sizes))
    ids: list[Any] = [tokenizer.cls_token_id]
    for part, size in zip(parts, sizes, strict=True):
        ids += [*part[:size], tokenizer.sep_token_id]
    return ids, sizes != [len(part) for part in parts]


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Returns a hash that changes with anything that changes the token ids of a text."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(path for path in Path(folder).iterdir() if path.is_file())
        content = b"".join(path.name.encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()


def map_cached(
    rows: Dataset,
    function: Callable[..., Batch],
    *key: Any,
    keep: Iterable[str] = (),
    with_indices: bool = False,
    features: Features | None = None,
) -> Dataset:
    """Applies `rows.map` to batches, and reads the result from the cache if nothing has changed.

    Args:
      rows: The rows.
      function: A function from batches to batches.
      *key: All that the result depends on besides the rows, as text or numbers.
      keep: The columns of `rows` that stay beside those of the function.
      with_indices: Whether the function takes the indices of the rows too.
      features: The types of the result's columns, if its first rows may not show them.
    """
    fingerprint = hashlib.sha256(repr((rows._fingerprint, key)).encode()).hexdigest()[:32]
    removed = [column for column in rows.column_names if column not in set(keep)]
    return rows.map(
        function,
        batched=True,
        batch_size=64,
        remove_columns=removed,
        with_indices=with_indices,
        new_fingerprint=fingerprint,
        features=features,
    )


def column_array(rows: Dataset, name: str) -> np.ndarray:
    """Returns a column of numbers as an array `[num_rows]`."""
    return rows.select_columns([name]).with_format("numpy")[:][name]  # type: ignore[index]
