"""Where the random blocks of a row come from: four rules, each `[N, M, R]` with -1 for none.

Host rules return NumPy arrays and leave every global random state untouched; `redraw` is traced.
Rows 0 and M-1 of an encoder read everything and have none.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, UInt32

from flax_bigbird.attention.pattern import BIGBIRD, Layout

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
    layout: Layout = BIGBIRD,
) -> Int[np.ndarray, "N M R"]:
    """One good pattern per layer and head: distinct blocks, outside window and globals, spread out.

    A row's eligible blocks are cut into R equal runs and one block is picked from each by a hash of
    (seed, layer, head, row, run), so that the pattern depends on nothing else: no generator, no
    library version. Fewer eligible blocks than R: all of them.
    """
    words = _fixed_words(num_blocks, num_random, num_heads, layer, seed)
    out = _pick(words, _num_eligible(num_blocks, num_blocks, causal, layout), causal, layout)
    out.setflags(write=False)
    return out


def fixed_by_document(
    num_blocks: Int[Array, " B"],
    most: int,
    num_random: int,
    num_heads: int,
    layer: int,
    seed: int = 0,
    layout: Layout = BIGBIRD,
) -> Int[Array, "B N M R"]:
    """`fixed` for documents of `num_blocks` traced blocks each, -1 in rows past their own.

    Args:
      most: M, the blocks of the longest.
    """
    words = jnp.asarray(_fixed_words(most, num_random, num_heads, layer, seed))
    eligible = _num_eligible(num_blocks[:, None], most, False, layout)
    return _pick(words, eligible[:, None], False, layout)


def _fixed_words(
    num_blocks: int, num_random: int, num_heads: int, layer: int, seed: int
) -> UInt32[np.ndarray, "N M R"]:
    """16 bits of hash for each pick; they do not depend on the document's length."""
    head, row, run = np.ogrid[:num_heads, :num_blocks, :num_random]
    base = _mix(_mix(np.uint64(seed) + np.uint64(1)) ^ np.uint64(layer))
    word = _mix(base ^ (head.astype(np.uint64) << np.uint64(40)))
    word = _mix(word ^ (row.astype(np.uint64) << np.uint64(8)) ^ run.astype(np.uint64))
    return (word >> np.uint64(48)).astype(np.uint32)


def _pick(words, eligible, causal: bool, layout: Layout) -> Any:
    """One block from each run of a row's eligible ones, in integers: host and trace agree.

    Args:
      words: [N, M, R], of 16 bits.
      eligible: [..., M], fewer than 2^16.
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
    return xp.where(valid, _nth_eligible(rank, row, causal, layout), -1).astype(xp.int32)


def google_by_document(
    num_blocks: Int[Array, " B"],
    most: int,
    block_size: int,
    num_random: int,
    num_heads: int,
    layer: int,
) -> Int[Array, "B N M R"]:
    """`google` for documents of `num_blocks` > 2R + 5 traced blocks each.

    Rows past a document's own hold blocks too: leave them out.
    """

    def rule(rows: int) -> np.ndarray:
        return google(rows, block_size, num_random, num_heads, layer)

    return _by_length(num_blocks, most, block_size, num_random, rule)


def hf_training_by_document(
    num_blocks: Int[Array, " B"],
    most: int,
    block_size: int,
    num_random: int,
    num_heads: int,
    layer: int,
    table_length: int,
) -> Int[Array, "B N M R"]:
    """`hf_training` for documents of `num_blocks` > 2R + 5 traced blocks each; see
    `google_by_document`."""

    def rule(rows: int) -> np.ndarray:
        return hf_training(rows, block_size, num_random, num_heads, layer, table_length)

    return _by_length(num_blocks, most, block_size, num_random, rule)


def rows_of_any_length(num_blocks: int, block_size: int, num_random: int) -> int:
    """Rows of a paper pattern whose first `num_blocks` are those of every length but the paper's.

    Such rows do not depend on how many there are, but for the last one.
    """
    rows = max(num_blocks, 2 * num_random + 5) + 1
    return rows + (rows * block_size in PAPER_LENGTHS)


def _by_length(
    num_blocks: Array,
    most: int,
    block_size: int,
    num_random: int,
    rule: Callable[[int], np.ndarray],
) -> Array:
    """Picks each document's rows: those of its length if the paper treats it by itself."""
    any_length = rule(rows_of_any_length(most, block_size, num_random))[:, :most]
    out = jnp.asarray(any_length)[None]
    for length in PAPER_LENGTHS:
        rows = length // block_size
        if length % block_size or rows > most:
            continue
        own = np.full(any_length.shape, -1, np.int32)
        own[:, :rows] = rule(rows)
        out = jnp.where((num_blocks == rows)[:, None, None, None], jnp.asarray(own), out)
    return out


def redraw(
    key: PRNGKeyArray | UInt32[Array, "2"],
    num_blocks: int,
    num_random: int,
    num_heads: int,
    *,
    causal: bool = False,
    by_document: Int[Array, " B"] | None = None,
    layout: Layout = BIGBIRD,
) -> Int[Array, "#B N M R"]:
    """A fresh uniform draw inside a traced step: distinct, outside window and globals.

    Independent over heads and rows. Cost O(N M R^2): the j-th draw is made among the E - j blocks
    left and then shifted past the earlier ones, which gives every R-subset the same chance.

    Args:
      by_document: each document's own number of blocks, at most `num_blocks`: all documents use one
        draw, each among its own blocks. Adds the axis B in front.
    """
    if by_document is None:
        eligible = jnp.asarray(_num_eligible(num_blocks, num_blocks, causal, layout))[None, :]
    else:
        eligible = _num_eligible(by_document[:, None], num_blocks, causal, layout)[:, None, :]
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
        picks.append(jnp.where(j < eligible, _nth_eligible(rank, row, causal, layout), -1))
    if not picks:
        lead = () if by_document is None else by_document.shape
        return jnp.zeros((*lead, num_heads, num_blocks, 0), jnp.int32)
    return jnp.stack(picks, axis=-1).astype(jnp.int32)


def _mix(word: np.ndarray | np.uint64) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): a bijection of 64-bit words."""
    with np.errstate(over="ignore"):
        word = np.asarray(word, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return word ^ (word >> np.uint64(31))


def _num_eligible(num_blocks: int | Array, rows: int, causal: bool, layout: Layout) -> Any:
    """How many blocks lie outside the window and the globals of rows 0..rows-1.

    `num_blocks` may be traced, of shape [..., 1]; rows past it have none.
    """
    xp = jnp if isinstance(num_blocks, jax.Array) else np
    row = np.arange(rows)
    before = np.maximum(row - layout.reach - layout.leading, 0)
    if causal:
        return before.astype(np.int32)
    after = xp.maximum(num_blocks - layout.trailing - 1 - row - layout.reach, 0)
    middle = layout.is_middle(row, num_blocks)
    return xp.where(middle, before + after, 0).astype(xp.int32)


def _nth_eligible(rank, row, causal: bool, layout: Layout) -> Any:
    """The block at a rank among the row's eligible ones: those before its window, those after."""
    if causal:
        return rank + layout.leading
    xp = np if isinstance(rank, np.ndarray) else jnp
    before = xp.maximum(row - layout.reach - layout.leading, 0)
    return xp.where(rank < before, rank + layout.leading, rank - before + row + layout.reach + 1)
