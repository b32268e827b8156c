"""Gives a model whose position table was tiled a sense of where in a long document a token stands.

python places.py mixed placed

Tiling a table of 256 positions up to 4096 makes position p and p + 256 alike; a linear probe of the
shipped model's table told the first half of 2,048 positions from the second hardly better than
chance, after 12 million tokens or more of training at 4,096. This adds slow sines and cosines,
along the directions in which embeddings vary least.
"""

import argparse
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from flax_bigbird import FlaxBigBirdForMaskedLM

PERIODS = (8192, 4096, 2048)  # tokens
AMPLITUDE = 0.25  # two standard deviations of an embedding's entry


def slow_waves(words: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """[positions, D]: sines and cosines of `PERIODS` in the directions of least variance."""
    covariance = np.cov(words, rowvar=False) + np.cov(positions, rowvar=False)
    directions = np.linalg.eigh(covariance).eigenvectors  # columns, the least variance first
    angle = 2 * np.pi * np.arange(len(positions))[:, None] / np.array(PERIODS)
    waves = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    return AMPLITUDE * waves @ directions[:, : waves.shape[1]].T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("target", type=Path, help="a new folder")
    given = parser.parse_args()
    shutil.copytree(given.run, given.target, ignore=shutil.ignore_patterns("tensorboard"))
    model = FlaxBigBirdForMaskedLM.from_pretrained(given.run)
    embeddings = model.params["bert"]["embeddings"]
    words, positions = (
        np.asarray(embeddings[f"{kind}_embeddings"]["embedding"], np.float64)
        for kind in ("word", "position")
    )
    moved = jnp.asarray(positions + slow_waves(words, positions), jnp.float32)
    embeddings["position_embeddings"]["embedding"] = moved
    model.save_pretrained(given.target)


if __name__ == "__main__":
    main()
