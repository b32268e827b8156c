"""Checks of `global_attention_mask` and `segment_ids`, whose limits the block layout sets."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from flax_bigbird._messages import pluralize
from flax_bigbird.config import SparsityConfig
from flax_bigbird.models import argument_checks as checks


def global_attention_mask(
    x: Any, attention_mask: Any, shape: tuple[int, ...], sparsity: SparsityConfig
) -> Bool[Array, "..."]:
    """Returns the mask of the tokens that the user makes global.

    Args:
      x: The mask that was passed.
      attention_mask: The key mask that was passed, or None.
      shape: The shape of input_ids.
      sparsity: The sparsity configuration.

    Raises:
      ValueError: If the model is a decoder, has no global blocks of its own, or if the tokens lie
        in too many blocks. The latter is checked for host arrays only: on a device, or under
        `jit`, the results of such an example are NaN.
    """
    if sparsity.causal:
        raise ValueError(
            "global_attention_mask needs an encoder, whose tokens read those after them; got "
            "is_decoder=True: leave it out"
        )
    if not sparsity.layout.global_rows(1).size:
        raise ValueError(
            "global_attention_mask needs a leading or trailing global block; got "
            "num_leading_global_blocks=0 and num_trailing_global_blocks=0: set one of them to 1"
        )
    mask = checks.key_mask("global_attention_mask", x, shape)
    if not sparsity.uses_full_attention(shape[-1]):
        _check_global_blocks(x, attention_mask, sparsity)
    return mask


def _check_global_blocks(x: Any, attention_mask: Any, sparsity: SparsityConfig) -> None:
    x = checks.array("global_attention_mask", x)
    if attention_mask is not None:
        attention_mask = checks.array("attention_mask", attention_mask)
    if not isinstance(x, np.ndarray) or not isinstance(attention_mask, np.ndarray | None):
        return
    if attention_mask is not None and attention_mask.shape == x.shape:
        x = x * (attention_mask != 0)
    block_size, max_blocks = sparsity.block_size, sparsity.max_user_global_blocks
    marked = np.pad(x != 0, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % block_size)])
    num_blocks = marked.reshape(*marked.shape[:-1], -1, block_size).any(-1).sum(-1)
    if num_blocks.size and num_blocks.max() > max_blocks:
        raise ValueError(
            f"global_attention_mask may mark tokens in at most {pluralize(max_blocks, 'block')} of "
            f"{block_size} per example (config.max_user_global_blocks); got "
            f"{num_blocks.max()}: mark fewer, or raise the limit"
        )


def segment_ids(
    x: Any, shape: tuple[int, ...], sparsity: SparsityConfig
) -> Int[np.ndarray, "B T"] | Int[Array, "B T"]:
    """Returns the segment ids of packed rows as int32; a host array remains one.

    Raises:
      ValueError: If `x` has another shape or dtype; or if an id is negative, a segment does not
        start at a multiple of the block size, or is too long to be packed. The last three are
        checked for host arrays only: on a device, or under `jit`, the results of such rows are
        NaN.
    """
    x = checks.array("segment_ids", x)
    if x.shape != shape or not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(
            f"segment_ids must be integers of the shape of input_ids, {list(shape)}; got {x.dtype} "
            f"{x.shape}: count the examples of a row from 1, and use 0 at padding"
        )
    if isinstance(x, np.ndarray):
        _check_segments(x, sparsity.block_size, sparsity.max_packed_blocks)
    return x.astype(np.int32)


def _check_segments(x: np.ndarray, block_size: int, max_blocks: int | None) -> None:
    if x.min() < 0:
        raise ValueError(f"segment_ids must not be negative; got {x.min()}: use 0 at padding")
    is_start = np.diff(x, axis=1, prepend=0) != 0
    row, start = np.nonzero(is_start & (x != 0))
    if (misaligned := start % block_size != 0).any():
        raise ValueError(
            f"every segment of segment_ids must start at a multiple of config.block_size="
            f"{block_size}; got one at {start[misaligned][0]} in row {row[misaligned][0]}: pad the "
            "one before it with 0"
        )
    is_end = np.diff(x, axis=1, append=0) != 0
    sizes = np.nonzero(is_end & (x != 0))[1] + 1 - start
    if max_blocks is not None and sizes.size and sizes.max() > max_blocks * block_size:
        raise ValueError(
            f"an example that is packed with others must have at most {max_blocks * block_size} "
            f"tokens, which an encoder of this configuration reads in full; got {sizes.max()}: "
            "give it a row of its own, without segment_ids"
        )


def positions_in_segments(
    segment_ids: Int[np.ndarray, "B T"] | Int[Array, "B T"],
) -> Int[np.ndarray, "B T"] | Int[Array, "B T"]:
    """Returns position ids that count from 0 at the start of every segment, and are 0 at padding.

    Padding may be longer than the table of position embeddings.
    """
    on_host = isinstance(segment_ids, np.ndarray)
    xp: Any = np if on_host else jnp
    index = np.arange(segment_ids.shape[1], dtype=np.int32)
    is_start = xp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (1, 0)))
    starts = xp.where(is_start, index, 0)
    starts = np.maximum.accumulate(starts, axis=1) if on_host else jax.lax.cummax(starts, axis=1)
    return xp.where(segment_ids != 0, index - starts, 0)
