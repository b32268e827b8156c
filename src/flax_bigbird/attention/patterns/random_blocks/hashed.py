"""The "fixed" rule: one pattern per layer and head, the same in training and in evaluation.

Trained models depend on these blocks: a change breaks every model that was saved with the rule.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from flax_bigbird.attention.patterns.layout import BIGBIRD, Layout
from flax_bigbird.attention.patterns.random_blocks.eligible import nth_eligible, num_eligible


def fixed(
    num_blocks: int | Int[Array, " B"],
    num_random: int,
    num_heads: int,
    layer: int,
    seed: int = 0,
    *,
    max_blocks: int | None = None,
    causal: bool = False,
    layout: Layout = BIGBIRD,
) -> Int[np.ndarray, "N M R"] | Int[Array, "B N M R"]:
    """Draws distinct blocks outside the window and the globals, spread over the sequence.

    The eligible blocks of a row are cut into R equal runs, and one block is picked from each by a
    hash of (seed, layer, head, row, run). The pattern depends on nothing else: no generator, no
    version of a library. A row with no more than R eligible blocks reads all of them.

    Args:
      num_blocks: M, or the number of blocks of each example, traced.
      num_random: R.
      num_heads: N.
      layer: The index of the layer.
      seed: Any integer in `0..2**63-1`.
      max_blocks: M, if `num_blocks` is an array.
      causal: Whether rows draw only blocks before themselves; not with an array.
      layout: The window and the global blocks.

    Returns:
      Block ids, -1 for none, also in the rows past an example's last. A read-only NumPy array if
      `num_blocks` is an integer.
    """
    if not isinstance(num_blocks, jax.Array):
        return _fixed(num_blocks, num_random, num_heads, layer, seed, causal, layout)
    assert max_blocks is not None
    words = jnp.asarray(_hashes(max_blocks, num_random, num_heads, layer, seed))
    eligible = num_eligible(num_blocks[:, None], max_blocks, False, layout)
    return _pick(words, eligible[:, None], False, layout)


@functools.lru_cache(maxsize=512)
def _fixed(
    num_blocks: int,
    num_random: int,
    num_heads: int,
    layer: int,
    seed: int,
    causal: bool,
    layout: Layout,
) -> Int[np.ndarray, "N M R"]:
    words = _hashes(num_blocks, num_random, num_heads, layer, seed)
    out = _pick(words, num_eligible(num_blocks, num_blocks, causal, layout), causal, layout)
    out.setflags(write=False)
    return out


def _hashes(
    num_blocks: int, num_random: int, num_heads: int, layer: int, seed: int
) -> UInt32[np.ndarray, "N M R"]:
    """Returns 16 bits of hash for each pick. They do not depend on the number of blocks."""
    head, row, run = np.ogrid[:num_heads, :num_blocks, :num_random]
    base = _mix(_mix(np.uint64(seed) + np.uint64(1)) ^ np.uint64(layer))
    word = _mix(base ^ (head.astype(np.uint64) << np.uint64(40)))
    word = _mix(word ^ (row.astype(np.uint64) << np.uint64(8)) ^ run.astype(np.uint64))
    return (word >> np.uint64(48)).astype(np.uint32)


def _pick(words: Any, eligible: Any, causal: bool, layout: Layout) -> Any:
    """Picks one block from each run of a row's eligible ones.

    It computes with integers, so that the host and a traced program agree.

    Args:
      words: `[N, M, R]` hashes of 16 bits.
      eligible: `[..., M]`, how many blocks each row may draw, fewer than 2^16.
      causal, layout: As in `fixed`.
    """
    xp = np if isinstance(eligible, np.ndarray) else jnp
    num_random = words.shape[-1]
    row, run = np.arange(words.shape[-2])[:, None], np.arange(num_random)
    eligible = eligible[..., None]
    low = eligible * run // max(num_random, 1)
    high = eligible * (run + 1) // max(num_random, 1)
    span = (high - low).astype(xp.uint32)
    rank = low + ((words * span) >> xp.uint32(16)).astype(xp.int32)
    few = eligible <= num_random
    rank = xp.where(few, run, rank)
    valid = xp.where(few, run < eligible, True)
    return xp.where(valid, nth_eligible(rank, row, causal, layout), -1).astype(xp.int32)


def _mix(word: np.ndarray | np.uint64) -> Any:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014): a bijection of 64-bit words."""
    with np.errstate(over="ignore"):
        word = np.asarray(word, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return word ^ (word >> np.uint64(31))
