"""Which quarter-century does a text sound like? Reads a text file with the model of `bigbird demo`.

bigbird demo
python examples/date_a_speech.py demo-out speech.txt
"""

import argparse
from pathlib import Path

from flax_bigbird import tasks


def probabilities(folder: Path, text: str) -> dict[str, float]:
    """The probability of each class, from the whole text, however long, in windows."""
    return tasks.load(folder)(text)["scores"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the output of bigbird demo")
    parser.add_argument("text", type=Path, help="a text file; digits are masked as in training")
    arguments = parser.parse_args()
    words = arguments.text.read_text(encoding="utf-8")
    masked = "".join("0" if letter.isdigit() else letter for letter in words)
    for label, value in probabilities(arguments.folder, masked).items():
        print(f"{label:<10} {value:.3f} {'#' * round(40 * value)}")
