"""How much work a batch is, and how fast this machine multiplies."""

import time
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

_SIZE = 2048


def matmul_flops_per_second(dtype: str) -> float:
    """Of a 2048 x 2048 matmul on one device, times the devices: the best of several."""
    x = jnp.ones((_SIZE, _SIZE), dtype)
    multiply = jax.jit(jnp.dot)
    multiply(x, x).block_until_ready()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        multiply(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * _SIZE**3 / best * jax.device_count()


def training_flops_per_token(config: Any, params: Any, length: int, targets: float) -> float:
    """Forward and backward of a token in a document of `length` tokens, matmuls alone.

    Args:
      targets: a token's share of vocabulary logits (0 for tasks without a vocabulary).
    """
    leaves: dict[Any, Any] = flatten_dict(params)
    kernels = sum(
        leaf.size for path, leaf in leaves.items() if path[-1] == "kernel" and "encoder" in path
    )
    block = config.block_size
    row = (5 + config.num_random_blocks) * block
    keys = length if config.attention_type == "original_full" else min(length, row)
    attention = 2 * config.num_hidden_layers * config.hidden_size * keys
    vocabulary = targets * config.hidden_size * (config.hidden_size + config.vocab_size)
    return 3 * 2 * (kernels + attention + vocabulary)
