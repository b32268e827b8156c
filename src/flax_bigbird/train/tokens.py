"""Texts as pieces, once: `datasets` keeps the result, under a name made of all it depends on."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flax_bigbird._hf import quiet
from flax_bigbird.train.options import OptionError
from flax_bigbird.train.reading import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

FRAME = 2  # [CLS] and [SEP]
SHORTEST = 8  # tokens of a window that is worth a row of a batch

Batch = dict[str, list[Any]]


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder or Hub id.

    Raises:
      OptionError: there is none, or it lacks one of the [CLS], [SEP], [MASK] and padding pieces.
    """
    with quiet():
        from transformers import AutoTokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
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


def digest(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Changes with anything that changes the pieces of a text."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(path for path in Path(folder).iterdir() if path.is_file())
        content = b"".join(path.name.encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()


def mapped(
    rows: "Dataset",
    function: Callable[..., Batch],
    *parts: Any,
    keep: Iterable[str] = (),
    with_indices: bool = False,
) -> "Dataset":
    """`rows.map` on batches, read back from the cache where rows and `parts` are the same.

    Args:
      parts: everything that the result depends on beside the rows, as text or numbers.
      keep: columns that stay; the function's own come on top.
      with_indices: the function takes the rows' numbers too.
    """
    name = hashlib.sha256(repr((rows._fingerprint, parts)).encode()).hexdigest()[:32]
    dropped = [column for column in rows.column_names if column not in set(keep)]
    return rows.map(
        function,
        batched=True,
        batch_size=64,
        remove_columns=dropped,
        with_indices=with_indices,
        new_fingerprint=name,
    )


def numbers(rows: "Dataset", column: str) -> np.ndarray:
    """A column of numbers, [rows]."""
    return rows.select_columns([column]).with_format("numpy")[:][column]  # type: ignore[index]


def check_texts(rows: "Dataset", column: str, what: str) -> None:
    """Raises unless the column holds texts; missing ones are named by row."""
    kind = getattr(rows.features[column], "dtype", None)
    if kind not in ("string", "large_string"):
        raise DataError(f"column {column!r} of the {what} must hold texts; it holds {kind}")
    missing = [n for n, text in enumerate(_column(rows, column)) if text is None]
    if missing:
        raise DataError(
            f"column {column!r} of the {what} must hold a text in every row; row "
            f"{missing[0] + 1} has none ({len(missing)} in all): fill or remove them"
        )


def _column(rows: "Dataset", name: str) -> Iterable[Any]:
    for batch in rows.select_columns(name).iter(256):
        yield from batch[name]  # type: ignore[index]


def encode(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    """The pieces of whole texts, without [CLS] and [SEP], however long.

    White space is single spaces to SentencePiece's own normalisation; the tokenizers of
    `transformers` leave line ends in, which BigBird's vocabularies do not know.
    """
    spaced = [" ".join(text.split()) for text in texts]
    return tokenizer(spaced, add_special_tokens=False, verbose=False)["input_ids"]


def windows(
    rows: "Dataset", column: str, tokenizer: "PreTrainedTokenizerBase", length: int
) -> tuple["Dataset", int]:
    """Texts cut into `[CLS] pieces [SEP]` of at most `length` tokens.

    Returns:
      Rows with `input_ids` and `length`, and how many pieces were left out in windows too short to
      learn from.
    """
    room = length - FRAME
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id

    def cut(batch: Batch) -> Batch:
        found: Batch = {"input_ids": [], "length": [], "dropped": []}
        for pieces in encode(tokenizer, batch[column]):
            for start in range(0, len(pieces), room):
                body = pieces[start : start + room]
                short = len(body) < SHORTEST
                found["input_ids"].append([] if short else [first, *body, last])
                found["length"].append(0 if short else len(body) + FRAME)
                found["dropped"].append(len(body) if short else 0)
        return found

    cut_rows = mapped(rows, cut, "windows", column, length, digest(tokenizer))
    lengths = numbers(cut_rows, "length")
    dropped = int(numbers(cut_rows, "dropped").sum())
    kept = cut_rows.remove_columns("dropped")
    return (kept if (lengths > 0).all() else kept.select(np.flatnonzero(lengths))), dropped


def texts(
    rows: "Dataset",
    columns: tuple[str, ...],
    tokenizer: "PreTrainedTokenizerBase",
    length: int,
    keep: Iterable[str] = (),
) -> tuple["Dataset", int]:
    """One row a text or pair, cut to `length`: `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`.

    Of a pair the longer text is cut.

    Returns:
      Rows with `input_ids`, `length` and the columns to keep, and how many were cut.
    """

    def one(batch: Batch) -> Batch:
        pairs = zip(*(encode(tokenizer, batch[name]) for name in columns), strict=True)
        found: Batch = {"input_ids": [], "length": [], "cut": []}
        for parts in pairs:
            ids, was_cut = framed(list(parts), tokenizer, length)
            found["input_ids"].append(ids)
            found["length"].append(len(ids))
            found["cut"].append(was_cut)
        return found

    key = ("texts", columns, length, digest(tokenizer), sorted(keep))
    made = mapped(rows, one, *key, keep=keep)
    return made.remove_columns("cut"), int(numbers(made, "cut").sum())


def framed(
    parts: list[list[int]], tokenizer: "PreTrainedTokenizerBase", length: int
) -> tuple[list[int], bool]:
    """(`[CLS] a [SEP] b [SEP]` within `length` tokens, whether something was cut)."""
    room = length - 1 - len(parts)
    sizes = [len(part) for part in parts]
    while sum(sizes) > room:
        longest = int(np.argmax(sizes))
        others = [size for index, size in enumerate(sizes) if index != longest]
        # Down to the next longest at once, then in equal parts.
        spare = sum(sizes) - room
        step = sizes[longest] - max(others, default=0)
        sizes[longest] -= min(spare, step) if step else -(-spare // len(sizes))
    ids: list[Any] = [tokenizer.cls_token_id]
    for part, size in zip(parts, sizes, strict=True):
        ids += [*part[:size], tokenizer.sep_token_id]
    return ids, sizes != [len(part) for part in parts]
