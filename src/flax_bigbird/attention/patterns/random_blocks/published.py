"""The "google" rule, and the "hf" rule in training: the published implementations' random blocks.

In evaluation, the "hf" rule draws no blocks; see `flax_bigbird.nn.patterns`. Both rules draw from
NumPy's legacy generator, seeded with the index of the layer, in the order in which the original
code does. The generator is a private one: no global random state is touched.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

PAPER_LENGTHS = (1024, 2048, 3072, 4096)  # tokens; the paper's pretraining lengths
_PAPER_SPAN = 1024  # tokens; at those lengths, blocks come from the first 1,024
_PAPER_TABLE = 4096  # tokens; at those lengths, patterns are cut from this one


def google(
    num_blocks: int | Int[Array, " B"],
    block_size: int,
    num_random: int,
    num_heads: int,
    layer: int,
    *,
    max_blocks: int | None = None,
    causal: bool = False,
) -> Int[np.ndarray, "N M R"] | Int[Array, "#B N M R"]:
    """Returns the random blocks of the authors' TensorFlow code (google-research/bigbird).

    Args:
      num_blocks: M, or the number of blocks of each example, traced, more than 2R + 5 each.
      block_size: W, in tokens.
      num_random: R.
      num_heads: N.
      layer: The index of the layer.
      max_blocks: M, if `num_blocks` is an array.
      causal: Whether to keep only the blocks before a row's window, taken from the rows that do
        not depend on M.

    Returns:
      Block ids, -1 for none. A NumPy array if `num_blocks` is an integer. With an array, the rows
      past an example's last hold blocks too, which the caller must drop.
    """

    def draw(rows: int) -> np.ndarray:
        return _draw(rows, block_size, num_random, num_heads, layer, _PAPER_TABLE, PAPER_LENGTHS)

    if isinstance(num_blocks, jax.Array):
        assert max_blocks is not None
        return _per_example(num_blocks, max_blocks, block_size, num_random, draw)
    if not causal:
        return draw(num_blocks)
    random = draw(_rows_of_any_length(num_blocks, block_size, num_random))[:, :num_blocks]
    past = random <= np.arange(num_blocks)[None, :, None] - 2
    return np.where(past, random, -1)


def hf_training(
    num_blocks: int | Int[Array, " B"],
    block_size: int,
    num_random: int,
    num_heads: int,
    layer: int,
    table_length: int,
    *,
    max_blocks: int | None = None,
) -> Int[np.ndarray, "N M R"] | Int[Array, "#B N M R"]:
    """Returns the random blocks that HF-Torch draws in training mode.

    They differ from `google` at 2,048 tokens, which are treated as any other length, and by the
    length of the pattern that the paper's lengths are cut from.

    Args:
      table_length: `config.max_position_embeddings`, in tokens.
      num_blocks, block_size, num_random, num_heads, layer, max_blocks: As in `google`.

    Returns:
      As in `google`.
    """
    lengths = tuple(length for length in PAPER_LENGTHS if length != 2048)

    def draw(rows: int) -> np.ndarray:
        table = max(table_length, rows * block_size)
        return _draw(rows, block_size, num_random, num_heads, layer, table, lengths)

    if isinstance(num_blocks, jax.Array):
        assert max_blocks is not None
        return _per_example(num_blocks, max_blocks, block_size, num_random, draw)
    return draw(num_blocks)


def clear_cache() -> None:
    """Forgets the blocks that were drawn, so that the next call draws them again."""
    _draw.cache_clear()


@functools.lru_cache(maxsize=1024)
def _draw(
    num_blocks: int,
    block_size: int,
    num_random: int,
    num_heads: int,
    layer: int,
    table_length: int,
    lengths: tuple[int, ...],
) -> Int[np.ndarray, "N M R"]:
    """Draws as the original code does, and returns a read-only array.

    Args:
      table_length: In tokens, the pattern that `lengths` are cut from.
      lengths: In tokens, the lengths that draw from the first 1,024 tokens.
    """
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
        for i in range(1, num_blocks):  # the original draws the last row, too, and drops it
            excluded = {i - 1, i, i + 1, 0, span - 1}
            excluded |= {span - 2} if i == 1 else set()
            excluded |= {1} if i == span - 2 else set()
            for head in out:
                blocks = [b for b in generator.permutation(span) if b not in excluded]
                blocks = [b for b in blocks if b < num_blocks][:num_random]
                if i < num_blocks - 1:
                    head[i, : len(blocks)] = blocks
    out.setflags(write=False)
    return out


def _cut_rows(
    generator: np.random.RandomState, num_blocks: int, block_size: int, num_random: int
) -> np.ndarray:
    """Draws rows 1..M-2 of one head of a pattern that draws from its first 1,024 tokens.

    As in the original, the last two rows may draw from their own window.
    """
    last = _PAPER_SPAN // block_size - 1 if 2 * block_size < _PAPER_SPAN else num_blocks - 1
    last = min(last, num_blocks - 2)
    rows = np.full((num_blocks - 2, num_random), -1, np.int32)
    for i in range(1, num_blocks - 1):
        eligible = np.arange(1, last + 1)
        if i <= 2 or i < num_blocks - 3:
            eligible = eligible[np.abs(eligible - i) >= 2]
        blocks = generator.permutation(eligible)[:num_random]
        # One eligible block fills the whole row, because assignment broadcasts it there.
        rows[i - 1, : num_random if len(blocks) == 1 else len(blocks)] = blocks
    return rows


def _rows_of_any_length(num_blocks: int, block_size: int, num_random: int) -> int:
    """Returns a number of rows whose first `num_blocks` are those of every ordinary length.

    Past 2R + 5 blocks a row does not depend on how many rows there are, except for the last one and
    at the paper's lengths.
    """
    rows = max(num_blocks, 2 * num_random + 5) + 1
    return rows + (rows * block_size in PAPER_LENGTHS)


def _per_example(
    num_blocks: Int[Array, " B"],
    max_blocks: int,
    block_size: int,
    num_random: int,
    draw: Callable[[int], np.ndarray],
) -> Int[Array, "#B N M R"]:
    """Selects the rows of each example, which depend on its length only at the paper's lengths."""
    any_length = draw(_rows_of_any_length(max_blocks, block_size, num_random))[:, :max_blocks]
    out = jnp.asarray(any_length)[None]
    for length in PAPER_LENGTHS:
        rows = length // block_size
        if length % block_size or rows > max_blocks:
            continue
        own = np.full(any_length.shape, -1, np.int32)
        own[:, :rows] = draw(rows)
        out = jnp.where((num_blocks == rows)[:, None, None, None], jnp.asarray(own), out)
    return out
