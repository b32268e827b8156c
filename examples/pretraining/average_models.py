"""Averages the parameters of models that are states of one training run, or of successive ones.

python average_models.py books-final books-longer averaged

The mean is taken in float32, and saved with the configuration and the tokenizer of the last model.
"""

import argparse
import shutil
from pathlib import Path

import jax
from checks import TOKENIZER_FILES, check_files

from flax_bigbird import FlaxBigBirdForMaskedLM


def average(runs: list[Path], target: Path) -> None:
    """Saves the mean of the models of several runs to `target`.

    Args:
      runs: The output folders of the runs, whose models have the same parameters.
      target: The folder to write to.

    Raises:
      ValueError: if the parameters of two models have other names or shapes.
      SystemExit: if the last run has no tokenizer.
    """
    check_files(runs[-1], TOKENIZER_FILES, "the tokenizer of the last run")
    models = [FlaxBigBirdForMaskedLM.from_pretrained(run) for run in runs]
    shapes = [jax.tree.map(lambda leaf: leaf.shape, model.params) for model in models]
    for run, other in zip(runs, shapes, strict=True):
        if other != shapes[0]:
            raise ValueError(
                f"models must have the same parameters to be averaged; those of {run} are not "
                f"those of {runs[0]}: leave it out"
            )
    parameters = [model.to_fp32(model.params) for model in models]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *parameters)
    models[-1].save_pretrained(target, params=mean)
    for name in TOKENIZER_FILES:
        shutil.copy2(runs[-1] / name, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="the output folders of training runs")
    parser.add_argument("target", type=Path, help="the folder to write to")
    arguments = parser.parse_args()
    average(arguments.runs, arguments.target)
