"""Where the random blocks of a row come from: four rules, each `[N, M, R]` with -1 for none.

Host rules return NumPy arrays and leave every global random state untouched; `redraw` is traced.
Rows 0 and M-1 of an encoder read everything and have none.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, UInt32

PAPER_LENGTHS = (1024, 2048, 3072, 4096)  # tokens; the lengths the authors pretrained at
_PAPER_SPAN = 1024  # tokens from which those lengths draw their random blocks
_PAPER_TABLE = 4096  # tokens of the pattern that those lengths are cut from


@functools.lru_cache(maxsize=512)
def google(
    num_blocks: int, block_size: int, num_random: int, num_heads: int, layer: int
) -> Int[np.ndarray, "N M R"]:
    """The fixed pattern of the authors' TensorFlow code, index for index (SPEC section 4).

    The legacy NumPy generator, seeded with the layer index, is consumed in that code's order.
    """
    return _legacy(
        num_blocks, block_size, num_random, num_heads, layer, _PAPER_TABLE, PAPER_LENGTHS
    )


@functools.lru_cache(maxsize=512)
def hf_training(
    num_blocks: int,
    block_size: int,
    num_random: int,
    num_heads: int,
    layer: int,
    table_length: int,
) -> Int[np.ndarray, "N M R"]:
    """What HF-Torch draws in training mode: as `google`, less the 2048 case, cut from its table.

    Args:
      table_length: `max_position_embeddings`, tokens.
    """
    lengths = tuple(t for t in PAPER_LENGTHS if t != 2048)
    table = max(table_length, num_blocks * block_size)
    return _legacy(num_blocks, block_size, num_random, num_heads, layer, table, lengths)


def _legacy(
    num_blocks: int,
    block_size: int,
    num_random: int,
    num_heads: int,
    layer: int,
    table_length: int,
    lengths: tuple[int, ...],
) -> np.ndarray:
    generator = np.random.RandomState(layer)
    out = np.full((num_heads, num_blocks, num_random), -1, np.int32)
    if num_random == 0 or num_blocks < 3:
        out.setflags(write=False)
        return out
    if num_blocks * block_size in lengths:
        for head in out:
            rows = _cut_rows(generator, table_length // block_size, block_size, num_random)
            head[1:-1] = rows[: num_blocks - 2]
    else:
        span = 2 * num_random + 5
        for i in range(1, num_blocks):  # the last row is drawn too, and dropped
            barred = {i - 1, i, i + 1, 0, span - 1}
            barred |= {span - 2} if i == 1 else set()
            barred |= {1} if i == span - 2 else set()
            for head in out:
                picks = [b for b in generator.permutation(span) if b not in barred]
                picks = [b for b in picks if b < num_blocks][:num_random]
                if i < num_blocks - 1:
                    head[i, : len(picks)] = picks
    out.setflags(write=False)
    return out


def _cut_rows(
    generator: np.random.RandomState, num_blocks: int, block_size: int, num_random: int
) -> np.ndarray:
    """Rows 1..M-2 of one head of a `num_blocks` pattern that draws from its first 1,024 tokens.

    Kept from the original: the last two rows may draw from their own window.
    """
    last = _PAPER_SPAN // block_size - 1 if 2 * block_size < _PAPER_SPAN else num_blocks - 1
    last = min(last, num_blocks - 2)
    rows = np.full((num_blocks - 2, num_random), -1, np.int32)
    for i in range(1, num_blocks - 1):
        eligible = np.arange(1, last + 1)
        if i <= 2 or i < num_blocks - 3:
            eligible = eligible[np.abs(eligible - i) >= 2]
        picks = generator.permutation(eligible)[:num_random]
        # One eligible block fills the whole row, as assignment broadcasts it there.
        rows[i - 1, : num_random if len(picks) == 1 else len(picks)] = picks
    return rows


@functools.lru_cache(maxsize=512)
def fixed(
    num_blocks: int,
    num_random: int,
    num_heads: int,
    layer: int,
    seed: int = 0,
    *,
    causal: bool = False,
) -> Int[np.ndarray, "N M R"]:
    """One good pattern per layer and head: distinct blocks, outside window and globals, spread out.

    A row's eligible blocks are cut into R equal runs and one block is picked from each by a hash of
    (seed, layer, head, row, run), so that the pattern depends on nothing else: no generator, no
    library version. Fewer eligible blocks than R: all of them.
    """
    head, row, run = np.ogrid[:num_heads, :num_blocks, :num_random]
    base = _mix(_mix(np.uint64(seed) + np.uint64(1)) ^ np.uint64(layer))
    word = _mix(base ^ (head.astype(np.uint64) << np.uint64(40)))
    word = _mix(word ^ (row.astype(np.uint64) << np.uint64(8)) ^ run.astype(np.uint64))
    fraction = (word >> np.uint64(11)).astype(np.float64) * 2.0**-53
    eligible = _num_eligible(num_blocks, causal)[None, :, None]
    low = eligible * run // max(num_random, 1)
    high = eligible * (run + 1) // max(num_random, 1)
    rank = low + np.floor(fraction * (high - low)).astype(np.int64)
    few = eligible <= num_random
    rank = np.where(few, run, rank)
    valid = np.where(few, run < eligible, True)
    out = np.where(valid, _nth_eligible(rank, row, causal), -1).astype(np.int32)
    out.setflags(write=False)
    return out


def redraw(
    key: PRNGKeyArray | UInt32[Array, "2"],
    num_blocks: int,
    num_random: int,
    num_heads: int,
    *,
    causal: bool = False,
) -> Int[Array, "N M R"]:
    """A fresh uniform draw inside a traced step: distinct, outside window and globals.

    Independent over heads and rows. Cost O(N M R^2): the j-th draw is made among the E - j blocks
    left and then shifted past the earlier ones, which gives every R-subset the same chance.
    """
    eligible = jnp.asarray(_num_eligible(num_blocks, causal))[None, :]
    row = jnp.arange(num_blocks)[None, :]
    drawn: list[Array] = []
    picks: list[Array] = []
    uniform = jax.random.uniform(key, (num_random, num_heads, num_blocks))
    for j in range(num_random):
        left = jnp.maximum(eligible - j, 1)
        share = uniform[j] * left.astype(uniform.dtype)
        rank = jnp.minimum(share.astype(jnp.int32), left - 1)
        if drawn:
            for earlier in jnp.sort(jnp.stack(drawn), axis=0):
                rank = jnp.where(rank >= earlier, rank + 1, rank)
        drawn.append(rank)
        picks.append(jnp.where(j < eligible, _nth_eligible(rank, row, causal), -1))
    if not picks:
        return jnp.zeros((num_heads, num_blocks, 0), jnp.int32)
    return jnp.stack(picks, axis=-1).astype(jnp.int32)


def _mix(word: np.ndarray | np.uint64) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): a bijection of 64-bit words."""
    with np.errstate(over="ignore"):
        word = np.asarray(word, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return word ^ (word >> np.uint64(31))


def _num_eligible(num_blocks: int, causal: bool) -> Int[np.ndarray, " M"]:
    """How many blocks lie outside each row's window and globals."""
    row = np.arange(num_blocks)
    if causal:
        return np.maximum(row - 2, 0).astype(np.int32)  # blocks 1..i-2
    before = np.maximum(row - 2, 0)  # blocks 1..i-2
    after = np.maximum(num_blocks - 3 - row, 0)  # blocks i+2..M-2
    out = before + after
    out[[0, -1]] = 0
    return out.astype(np.int32)


def _nth_eligible(rank, row, causal: bool):
    """The block at a rank among the row's eligible ones: 1..i-2, then i+2..M-2."""
    if causal:
        return rank + 1
    xp = np if isinstance(rank, np.ndarray) else jnp
    before = xp.maximum(row - 2, 0)
    return xp.where(rank < before, rank + 1, rank - before + row + 2)
