"""Creates an untrained model whose position embeddings are sines and cosines.

python new_model.py VOCABULARY new_model --layers 4 --width 256

`bigbird train masked-lm --model new_model` trains it. Sines and cosines (Vaswani et al., 2017,
section 3.5) give the relation between two positions the same form everywhere, so attention to a
neighboring token is learned for all positions at once, and examples of 128 tokens at random offsets
(`random_position_offset`) train a table of 4,096 positions. The heads of the first layer attend to
the neighbors of a token from the start: without that, a masked language model stays at the entropy
of the token frequencies for long, because a masked token says nothing about itself and attention
has yet to find where to look. All of these are parameters like any other.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from transformers import AutoTokenizer, BigBirdConfig

from flax_bigbird import FlaxBigBirdForMaskedLM

MAX_POSITIONS = 4096


HEAD = 64  # dimensions
GAIN = 1.5  # of the queries and keys that attend to neighbors
OFFSETS = (-1, 1, -2, 2, -3, 3, -4, 4)  # of the neighbors, by head


def position_frequencies(width: int) -> np.ndarray:
    """Returns the `[width // 2]` angular frequencies of the positions.

    The first `HEAD // 2` are spread over (0, pi), so that the product of two rows is near 0 unless
    they are the same; the others decrease geometrically to 1e-4, for long distances.
    """
    count = HEAD // 2
    jitter = np.random.default_rng(0).random(count)  # without it, distances would be periodic
    near = np.pi * (np.arange(count) + jitter) / count
    rest = width // 2 - count
    return np.concatenate([near, 1e4 ** (-np.arange(1, rest + 1) / max(1, rest))])


def neighbor_kernels(width: int, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the query and key kernels `[width, HEAD]` of a head that attends to one neighbor.

    A query is the position `offset` tokens away, by the addition theorems of sine and cosine.
    """
    frequencies = position_frequencies(width)[: HEAD // 2]
    count, half = len(frequencies), width // 2
    query, key = np.zeros((2, width, HEAD))
    sines, cosines = np.arange(count), half + np.arange(count)
    key[sines, np.arange(count)] = key[cosines, count + np.arange(count)] = 1
    query[sines, np.arange(count)] = np.cos(frequencies * offset)
    query[cosines, np.arange(count)] = np.sin(frequencies * offset)
    query[cosines, count + np.arange(count)] = np.cos(frequencies * offset)
    query[sines, count + np.arange(count)] = -np.sin(frequencies * offset)
    return GAIN * query, GAIN * key


def attend_to_neighbors(attention: dict[str, Any], width: int) -> None:
    """Makes every head of a layer attend to the token `OFFSETS` away, before any training."""
    heads = [neighbor_kernels(width, offset) for offset in OFFSETS[: width // HEAD]]
    for name, kernels in zip(("query", "key"), zip(*heads, strict=True), strict=True):
        kernel = np.concatenate(kernels, axis=1)
        attention[name]["kernel"] = jnp.asarray(kernel, jnp.float32)


def sinusoidal_positions(count: int, width: int, scale: float) -> np.ndarray:
    """Returns position embeddings `[count, width]`, sines and then cosines.

    Args:
      count: The number of positions.
      width: The hidden size, an even number.
      scale: The root mean square of the entries.
    """
    angles = np.arange(count)[:, None] * position_frequencies(width)
    return scale * math.sqrt(2) * np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def new_model(
    vocabulary: str,
    target: Path,
    layers: int,
    width: int,
    initializer_range: float | None = None,
    *,
    neighbors: bool = True,
) -> None:
    """Saves an untrained model and its tokenizer.

    Args:
      vocabulary: The folder of the tokenizer.
      target: The folder to write to.
      layers: The number of layers.
      width: The hidden size, a multiple of 64.
      initializer_range: The standard deviation of the parameters; by default 1 / sqrt(width), with
        which matrices preserve the size of their inputs. 0.02 is for a width of 768 and more.
      neighbors: Whether the heads of the first layer attend to neighboring tokens from the start.
    """
    tokenizer = AutoTokenizer.from_pretrained(vocabulary)
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id")
    keys: dict[str, Any] = {
        "vocab_size": -(-len(tokenizer) // 8) * 8,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
        "max_position_embeddings": MAX_POSITIONS,
        "initializer_range": initializer_range or round(1 / math.sqrt(width), 3),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "random_attention": "fixed",
        "padding_invariant": True,
    }
    keys |= {name: getattr(tokenizer, name) for name in names}
    model = FlaxBigBirdForMaskedLM(BigBirdConfig(**keys))
    table = sinusoidal_positions(MAX_POSITIONS, width, model.config.initializer_range)
    embeddings = model.params["bert"]["embeddings"]
    embeddings["position_embeddings"]["embedding"] = jnp.asarray(table, jnp.float32)
    if neighbors:
        attend_to_neighbors(
            model.params["bert"]["encoder"]["layer"]["0"]["attention"]["self"], width
        )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("vocabulary", help="the folder of the tokenizer")
    parser.add_argument("target", type=Path, help="the folder to write to")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    arguments = parser.parse_args()
    new_model(arguments.vocabulary, arguments.target, arguments.layers, arguments.width)


if __name__ == "__main__":
    main()
