"""Model FLOPs utilization: the FLOPs per training token, and the measured peak of this machine."""

import time
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from flax_bigbird.config import SparsityConfig

_MATRIX_SIZE = 2048
_MAX_MEASUREMENTS = 5
_seconds: dict[str, list[float]] = {}  # the fastest matmul of each measurement, by dtype


def matmul_flops_per_second(dtype: str, at_least: float = 0.0) -> float:
    """Returns the rate of a 2048 x 2048 matmul on one device, times the number of devices.

    The machine is measured once per process. It may be busy at that moment: if training is faster
    than the rate, it is measured again, up to `_MAX_MEASUREMENTS` times, and the fastest counts.

    Args:
      dtype: The dtype of the matrices.
      at_least: A rate in FLOPs per second that was reached on all devices together.
    """
    measured = _seconds.setdefault(dtype, [])

    def rate() -> float:
        return 2 * _MATRIX_SIZE**3 / min(measured) * jax.device_count()

    while not measured or (rate() < at_least and len(measured) < _MAX_MEASUREMENTS):
        measured.append(_measure_matmul(dtype))
    return rate()


def _measure_matmul(dtype: str) -> float:
    """Returns the seconds of a matmul, the fastest of five."""
    x = jnp.ones((_MATRIX_SIZE, _MATRIX_SIZE), dtype)
    multiply = jax.jit(jnp.dot)
    multiply(x, x).block_until_ready()
    fastest = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        multiply(x, x).block_until_ready()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


def training_flops_per_token(
    config: Any, params: Any, length: int, logits_per_token: float
) -> float:
    """Returns the FLOPs of the forward and backward pass per token; only matmuls count.

    These are 6 FLOPs per token and weight (Kaplan et al., 2020), and in every layer 12 `D` FLOPs
    per key that a query attends to.

    Args:
      config: The model's configuration.
      params: The model's parameters.
      length: The mean length of an example, in tokens.
      logits_per_token: The fraction of tokens whose vocabulary logits are computed (0 for a task
        without a language-modeling head).
    """
    leaves: dict[Any, Any] = flatten_dict(params)
    kernels = sum(
        leaf.size for path, leaf in leaves.items() if path[-1] == "kernel" and "encoder" in path
    )
    keys = keys_per_query(config, length)
    attention = 2 * config.num_hidden_layers * config.hidden_size * keys
    vocabulary = logits_per_token * config.hidden_size * (config.hidden_size + config.vocab_size)
    return 3 * 2 * (kernels + attention + vocabulary)


def keys_per_query(config: Any, length: int) -> int:
    """Returns how many keys a non-global query attends to; keys that a mask hides count too.

    In block-sparse attention these are the keys of its window, of the global blocks and of its
    random blocks.

    Args:
      config: The model's configuration.
      length: The length of the example, in tokens.
    """
    sparsity = SparsityConfig.from_hf(config)
    if sparsity.uses_full_attention(length):
        return length
    layout = sparsity.layout
    blocks = layout.row_width + sparsity.num_random_blocks
    if sparsity.causal:  # neither the window after a block nor the blocks at the end
        blocks -= layout.window_radius + layout.num_trailing
    return min(length, blocks * config.block_size)
