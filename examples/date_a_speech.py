"""Which quarter-century does a text sound like? Reads a text file with the model of `bigbird demo`.

bigbird demo
python examples/date_a_speech.py demo-out speech.txt
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from transformers import AutoTokenizer

from flax_bigbird import FlaxBigBirdForSequenceClassification


def probabilities(folder: Path, text: str) -> dict[str, float]:
    """The probability of each class, from the text's first 4096 tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = FlaxBigBirdForSequenceClassification.from_pretrained(folder)
    length = model.config.max_position_embeddings
    # Padded to the length it was trained at: the last block is global, so padding matters.
    batch = tokenizer(
        text, padding="max_length", truncation=True, max_length=length, return_tensors="np"
    )
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    values = np.asarray(jax.nn.softmax(logits[0]))
    return {model.config.id2label[index]: float(value) for index, value in enumerate(values)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the output of bigbird demo")
    parser.add_argument("text", type=Path, help="a text file; digits are masked as in training")
    arguments = parser.parse_args()
    words = " ".join(arguments.text.read_text(encoding="utf-8").split())
    masked = "".join("0" if letter.isdigit() else letter for letter in words)
    for label, value in probabilities(arguments.folder, masked).items():
        print(f"{label:<10} {value:.3f} {'#' * round(40 * value)}")
