"""Adds slow waves to position embeddings, so that they encode where in a document a token is.

python add_position_waves.py mixed with_waves

A position table of 256 rows that is tiled to 4096 has equal rows for the positions p and p + 256.
Training at 4096 tokens hardly changes that: after 12 million tokens, a linear probe of the table of
the shipped model separated the first half of 2,048 positions from the second little better than
chance. This script adds sines and cosines of long periods, along the directions in which the
embeddings vary least.
"""

import argparse
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from flax_bigbird import FlaxBigBirdForMaskedLM

PERIODS = (8192, 4096, 2048)  # tokens
AMPLITUDE = 0.25  # two standard deviations of an embedding's entries


def slow_waves(word_embeddings: np.ndarray, position_embeddings: np.ndarray) -> np.ndarray:
    """Returns sines and cosines of `PERIODS`, as an array of the shape of the position embeddings.

    Args:
      word_embeddings: `[V, D]`.
      position_embeddings: `[positions, D]`.
    """
    covariance = np.cov(word_embeddings, rowvar=False) + np.cov(position_embeddings, rowvar=False)
    directions = np.linalg.eigh(covariance).eigenvectors  # in columns, by increasing variance
    angles = 2 * np.pi * np.arange(len(position_embeddings))[:, None] / np.array(PERIODS)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return AMPLITUDE * waves @ directions[:, : waves.shape[1]].T


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("run", type=Path, help="the output folder of a training run")
    parser.add_argument("target", type=Path, help="a folder that does not exist yet")
    arguments = parser.parse_args()
    ignored = shutil.ignore_patterns("tensorboard")
    shutil.copytree(arguments.run, arguments.target, ignore=ignored)
    model = FlaxBigBirdForMaskedLM.from_pretrained(arguments.run)
    embeddings = model.params["bert"]["embeddings"]
    words, positions = (
        np.asarray(embeddings[name]["embedding"], np.float64)
        for name in ("word_embeddings", "position_embeddings")
    )
    with_waves = positions + slow_waves(words, positions)
    embeddings["position_embeddings"]["embedding"] = jnp.asarray(with_waves, jnp.float32)
    model.save_pretrained(arguments.target)


if __name__ == "__main__":
    main()
