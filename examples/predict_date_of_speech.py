"""Predicts which quarter-century a text was written in, with the model that `bigbird demo` trains.

bigbird demo
python examples/predict_date_of_speech.py demo-out speech.txt
"""

import argparse
from pathlib import Path

from flax_bigbird.inference import load_predictor


def class_probabilities(folder: Path, text: str) -> dict[str, float]:
    """Returns the probability of each class; a long text is read in windows."""
    return load_predictor(folder)(text)["scores"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, help="the output folder of `bigbird demo`")
    parser.add_argument("text", type=Path, help="a text file; its digits are masked as in training")
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    masked = "".join("0" if character.isdigit() else character for character in text)
    for label, probability in class_probabilities(arguments.folder, masked).items():
        print(f"{label:<10} {probability:.3f} {'#' * round(40 * probability)}")
