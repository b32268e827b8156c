"""Writes passages of books and addresses, crops of which train an embedder without labels.

python write_passages.py mixture passages.parquet

The folder is that of `examples/pretraining/write_mixture.py`, whose training texts share no passage
with the held-out ones.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

PASSAGES = 36_000
CHARACTERS = 1_800  # of a passage
ADDRESS_COPIES = 4  # so that a fifth of the passages are of addresses


def draw_passages(texts: list[str], count: int, generator: np.random.Generator) -> list[str]:
    """Returns passages of random texts that begin and end between words.

    Args:
      texts: The texts; those of fewer than `2 * CHARACTERS` characters are not used.
      count: The number of passages.
      generator: The source of randomness.
    """
    room = np.array([max(0, len(text) - 2 * CHARACTERS) for text in texts], float)
    passages = []
    for index in generator.choice(len(texts), count, p=room / room.sum()):
        text = texts[index]
        start = text.find(" ", int(generator.integers(0, len(text) - 2 * CHARACTERS))) + 1
        passages.append(text[start : text.rfind(" ", start, start + CHARACTERS)])
    return passages


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("mixture", type=Path, help="the folder of write_mixture.py")
    parser.add_argument("target", type=Path, help="the Parquet file to write")
    arguments = parser.parse_args()
    books, addresses = (
        parquet.read_table(arguments.mixture / f"{kind}.parquet")["text"].to_pylist()
        for kind in ("books", "addresses")
    )
    texts = books + addresses * ADDRESS_COPIES
    passages = draw_passages(texts, PASSAGES, np.random.default_rng(0))
    parquet.write_table(pa.table({"text": passages}), arguments.target)


if __name__ == "__main__":
    main()
