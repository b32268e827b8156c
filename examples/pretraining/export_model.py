"""Exports a trained model as the package ships it: in bfloat16, with 4096 positions and a card.

python export_model.py final ../../src/flax_bigbird/pretrained/bigbird-sotu-mini card.md
"""

import argparse
import shutil
from pathlib import Path

from flax_bigbird import FlaxBigBirdForMaskedLM, resize_position_embeddings

POSITIONS = 4096
TOKENIZER_FILES = ("spiece.model", "tokenizer.json", "tokenizer_config.json")


def export(run: Path, target: Path, card: Path, tokenizer: Path) -> None:
    """Writes the model of a training run, its tokenizer and a model card to `target`."""
    model = FlaxBigBirdForMaskedLM.from_pretrained(run)
    if model.config.max_position_embeddings < POSITIONS:
        model = resize_position_embeddings(model, POSITIONS)
    model.save_pretrained(target, params=model.to_bf16(model.params))
    for name in TOKENIZER_FILES:
        shutil.copy2(tokenizer / name, target)
    shutil.copy2(card, target / "README.md")
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the directory of a training run")
    parser.add_argument("target", type=Path)
    parser.add_argument("card", type=Path, help="a model card in Markdown")
    parser.add_argument(
        "--tokenizer", type=Path, help="its directory; by default, that of the training run"
    )
    arguments = parser.parse_args()
    export(arguments.run, arguments.target, arguments.card, arguments.tokenizer or arguments.run)
