"""Writes a trained model as the package ships it: bfloat16, a table of 4096 positions, a card.

python export.py long ../../src/flax_bigbird/pretrained/bigbird-sotu-mini card.md
"""

import argparse
import shutil
from pathlib import Path

from flax_bigbird import FlaxBigBirdForMaskedLM, resize_position_embeddings

POSITIONS = 4096
TOKENIZER = ("spiece.model", "tokenizer.json", "tokenizer_config.json")


def export(run: Path, target: Path, card: Path, tokenizer: Path) -> None:
    """The model of a run's folder, its tokenizer and a card, in `target`."""
    model = FlaxBigBirdForMaskedLM.from_pretrained(run)
    if model.config.max_position_embeddings < POSITIONS:
        model = resize_position_embeddings(model, POSITIONS)
    model.save_pretrained(target, params=model.to_bf16(model.params))
    for name in TOKENIZER:
        shutil.copy2(tokenizer / name, target)
    shutil.copy2(card, target / "README.md")
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("target", type=Path)
    parser.add_argument("card", type=Path, help="a model card in Markdown")
    parser.add_argument("--tokenizer", type=Path, help="default: the run's folder")
    given = parser.parse_args()
    export(given.run, given.target, given.card, given.tokenizer or given.run)
