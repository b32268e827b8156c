"""Exports a trained model as the package ships it: bfloat16, 4096 positions and a model card.

python export_model.py final bigbird-sotu-mini model_card.md
"""

import argparse
import json
import shutil
from pathlib import Path

from checks import TOKENIZER_FILES, check_files

from flax_bigbird import FlaxBigBirdForMaskedLM, resize_position_embeddings

MAX_POSITIONS = 4096


def export(run: Path, target: Path, card: Path, tokenizer: Path) -> None:
    """Saves the model of a run, its tokenizer and its model card to `target`.

    Raises:
      SystemExit: if a file of the tokenizer or the card does not exist.
    """
    check_files(tokenizer, TOKENIZER_FILES, "the tokenizer")
    check_files(card.parent, (card.name,), "the model card")
    model = FlaxBigBirdForMaskedLM.from_pretrained(run)
    if model.config.max_position_embeddings < MAX_POSITIONS:
        model = resize_position_embeddings(model, MAX_POSITIONS)
    model.save_pretrained(target, params=model.to_bf16(model.params))
    for name in TOKENIZER_FILES:
        shutil.copy2(tokenizer / name, target)
    settings = json.loads((target / TOKENIZER_FILES[-1]).read_text(encoding="utf-8"))
    settings["model_max_length"] = model.config.max_position_embeddings
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (target / TOKENIZER_FILES[-1]).write_text(text, encoding="utf-8")
    shutil.copy2(card, target / "README.md")
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("run", type=Path, help="the output folder of a training run")
    parser.add_argument("target", type=Path, help="the folder to write to")
    parser.add_argument("card", type=Path, help="the model card, in Markdown")
    parser.add_argument("--tokenizer", type=Path, help="the tokenizer's folder (default: run)")
    arguments = parser.parse_args()
    tokenizer = arguments.tokenizer or arguments.run
    export(arguments.run, arguments.target, arguments.card, tokenizer)
