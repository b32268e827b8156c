"""Texts as pieces, once: `datasets` keeps the result, under a name made of all it depends on."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flax_bigbird.tasks.errors import DataError
from flax_bigbird.tasks.text import FRAME, covering_windows, encode, framed

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from transformers import PreTrainedTokenizerBase

SHORTEST = 8  # tokens of a window that is worth a row of a batch

Batch = dict[str, list[Any]]


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
    features: "Features | None" = None,
) -> "Dataset":
    """`rows.map` on batches, read back from the cache where rows and `parts` are the same.

    Args:
      parts: everything that the result depends on beside the rows, as text or numbers.
      keep: columns that stay; the function's own come on top.
      with_indices: the function takes the rows' numbers too.
      features: kinds of the result's columns, where its first rows may not tell.
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
        features=features,
    )


def numbers(rows: "Dataset", column: str) -> np.ndarray:
    """A column of numbers, [rows]."""
    return rows.select_columns([column]).with_format("numpy")[:][column]  # type: ignore[index]


def check_texts(rows: "Dataset", columns: Iterable[str], what: str) -> list[str]:
    """Raises unless the columns hold texts; missing ones are named by row.

    Returns:
      A note for each column in which some are empty.
    """
    return [note for column in columns for note in _check_column(rows, column, what)]


def _check_column(rows: "Dataset", column: str, what: str) -> list[str]:
    kind = getattr(rows.features[column], "dtype", None)
    if kind not in ("string", "large_string"):
        raise DataError(f"column {column!r} of the {what} must hold texts; it holds {kind}")
    missing, empty = [], []
    for number, text in enumerate(_column(rows, column), 1):
        if text is None:
            missing.append(number)
        elif not text or text.isspace():
            empty.append(number)
    if missing:
        raise DataError(
            f"column {column!r} of the {what} must hold a text in every row; row "
            f"{missing[0]} has none ({len(missing)} in all): fill or remove them"
        )
    if not empty:
        return []
    return [
        f"{len(empty):,} texts in column {column!r} of the {what} are empty, row {empty[0]} first"
    ]


def _column(rows: "Dataset", name: str) -> Iterable[Any]:
    for batch in rows.select_columns(name).iter(256):
        yield from batch[name]  # type: ignore[index]


def windows(
    rows: "Dataset", column: str, tokenizer: "PreTrainedTokenizerBase", length: int
) -> tuple["Dataset", int]:
    """Texts cut into `[CLS] pieces [SEP]` of at most `length` tokens.

    Returns:
      Rows with `input_ids` and `length`, and how many pieces were left out in windows too short to
      learn from.
    """
    from datasets import Features, List, Value

    room = length - FRAME
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    number = Value("int64")
    kinds = Features({"input_ids": List(Value("int32")), "length": number, "dropped": number})

    def cut(batch: Batch) -> Batch:
        found: Batch = {"input_ids": [], "length": [], "dropped": []}
        for pieces in encode(tokenizer, batch[column]):
            for start in range(0, max(1, len(pieces)), room):
                body = pieces[start : start + room]
                short = len(body) < SHORTEST
                found["input_ids"].append([] if short else [first, *body, last])
                found["length"].append(0 if short else len(body) + FRAME)
                found["dropped"].append(len(body) if short else 0)
        return found

    key = ("windows", column, length, digest(tokenizer))
    cut_rows = mapped(rows, cut, *key, features=kinds)
    lengths = numbers(cut_rows, "length")
    dropped = int(numbers(cut_rows, "dropped").sum())
    kept = cut_rows.remove_columns("dropped")
    return (kept if (lengths > 0).all() else kept.select(np.flatnonzero(lengths))), dropped


def whole_texts(
    rows: "Dataset",
    column: str,
    tokenizer: "PreTrainedTokenizerBase",
    length: int,
    keep: str,
) -> "Dataset":
    """Texts in windows of `length` tokens that cover them: `tasks.text.covering_windows`.

    Returns:
      Rows with `input_ids`, `length`, the column to keep, and `document`, the text's number.
    """

    def cut(batch: Batch, places: list[int]) -> Batch:
        found: Batch = {"input_ids": [], "length": [], "document": [], keep: []}
        made = zip(encode(tokenizer, batch[column]), batch[keep], places, strict=True)
        for pieces, value, place in made:
            for ids in covering_windows(pieces, tokenizer, length):
                found["input_ids"].append(ids)
                found["length"].append(len(ids))
                found["document"].append(place)
                found[keep].append(value)
        return found

    key = ("whole", column, length, digest(tokenizer), keep)
    return mapped(rows, cut, *key, with_indices=True)


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
