"""Estimates the quarter-century of a text with the model of `bigbird demo`.

bigbird demo
python examples/date_a_speech.py demo-out speech.txt
"""

import argparse
from pathlib import Path

from flax_bigbird.inference import load_predictor


def probabilities(folder: Path, text: str) -> dict[str, float]:
    """Returns the probability of each class, from all windows of the text."""
    return load_predictor(folder)(text)["scores"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the output of bigbird demo")
    parser.add_argument("text", type=Path, help="a text file; its digits are masked first")
    arguments = parser.parse_args()
    words = arguments.text.read_text(encoding="utf-8")
    masked = "".join("0" if character.isdigit() else character for character in words)
    for label, value in probabilities(arguments.folder, masked).items():
        print(f"{label:<10} {value:.3f} {'#' * round(40 * value)}")
