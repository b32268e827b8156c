"""A fresh draw of the random blocks inside a traced step, from a JAX key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, UInt32

from flax_bigbird.attention.patterns.layout import BIGBIRD, Layout
from flax_bigbird.attention.patterns.random_blocks.eligible import nth_eligible, num_eligible


def redraw(
    key: PRNGKeyArray | UInt32[Array, "2"],
    num_blocks: int | Int[Array, " B"],
    num_random: int,
    num_heads: int,
    *,
    max_blocks: int | None = None,
    causal: bool = False,
    layout: Layout = BIGBIRD,
) -> Int[Array, "N M R"] | Int[Array, "B N M R"]:
    """Draws blocks uniformly, distinct and outside the window and the globals.

    Heads and rows are independent. The j-th draw is made among the E - j blocks that are left and
    then shifted past the earlier ones, which gives every R-subset the same chance, at a cost of
    O(N M R^2).

    Args:
      key: The key of the draw.
      num_blocks: M, or the number of blocks of each example, traced. All examples use one draw,
        each among its own blocks.
      num_random: R.
      num_heads: N.
      max_blocks: M, if `num_blocks` is an array.
      causal: Whether rows draw only blocks before themselves.
      layout: The window and the global blocks.

    Returns:
      Block ids, -1 for none.
    """
    if isinstance(num_blocks, jax.Array):
        assert max_blocks is not None
        lead, rows = num_blocks.shape, max_blocks
        eligible = num_eligible(num_blocks[:, None], rows, causal, layout)[:, None, :]
    else:
        lead, rows = (), num_blocks
        eligible = jnp.asarray(num_eligible(num_blocks, rows, causal, layout))[None, :]
    if not num_random:
        return jnp.zeros((*lead, num_heads, rows, 0), jnp.int32)
    row = jnp.arange(rows)[None, :]
    drawn: list[Array] = []
    blocks: list[Array] = []
    uniform = jax.random.uniform(key, (num_random, num_heads, rows))
    for j in range(num_random):
        left = jnp.maximum(eligible - j, 1)
        rank = (uniform[j] * left.astype(uniform.dtype)).astype(jnp.int32)
        rank = jnp.minimum(rank, left - 1)
        if drawn:
            for earlier in jnp.sort(jnp.stack(drawn), axis=0):
                rank = jnp.where(rank >= earlier, rank + 1, rank)
        drawn.append(rank)
        blocks.append(jnp.where(j < eligible, nth_eligible(rank, row, causal, layout), -1))
    return jnp.stack(blocks, axis=-1).astype(jnp.int32)
