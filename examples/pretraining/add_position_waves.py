"""Adds slow waves to position embeddings that were tiled, so that distant positions differ.

python add_position_waves.py mixed waves

When position embeddings of 256 positions are tiled to 4096, the positions p and p + 256 are alike.
Training at 4,096 tokens hardly changes that: after 12 million tokens, a linear probe of the
embeddings of the shipped model told the first half of 2,048 positions from the second hardly better
than chance. This script adds slow sines and cosines in the directions in which the embeddings vary
least.
"""

import argparse
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from flax_bigbird import FlaxBigBirdForMaskedLM

PERIODS = (8192, 4096, 2048)  # In tokens.
AMPLITUDE = 0.25  # Two standard deviations of an entry of the embeddings.


def slow_waves(words: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Returns sines and cosines of `PERIODS` in the directions of least variance.

    Args:
      words: The word embeddings, `[V, D]`.
      positions: The position embeddings, `[positions, D]`.

    Returns:
      The waves, `[positions, D]`.
    """
    covariance = np.cov(words, rowvar=False) + np.cov(positions, rowvar=False)
    directions = np.linalg.eigh(covariance).eigenvectors  # Columns; the least variance is first.
    angle = 2 * np.pi * np.arange(len(positions))[:, None] / np.array(PERIODS)
    waves = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    return AMPLITUDE * waves @ directions[:, : waves.shape[1]].T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the directory of a training run")
    parser.add_argument("target", type=Path, help="a new directory")
    arguments = parser.parse_args()
    ignored = shutil.ignore_patterns("tensorboard")
    shutil.copytree(arguments.run, arguments.target, ignore=ignored)
    model = FlaxBigBirdForMaskedLM.from_pretrained(arguments.run)
    embeddings = model.params["bert"]["embeddings"]
    words, positions = (
        np.asarray(embeddings[f"{kind}_embeddings"]["embedding"], np.float64)
        for kind in ("word", "position")
    )
    changed = jnp.asarray(positions + slow_waves(words, positions), jnp.float32)
    embeddings["position_embeddings"]["embedding"] = changed
    model.save_pretrained(arguments.target)


if __name__ == "__main__":
    main()
