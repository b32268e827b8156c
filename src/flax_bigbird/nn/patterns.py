"""Builds the attention pattern of a layer for one call, and selects its random blocks' rule."""

from typing import Any

from jaxtyping import Array, Bool, Int

from flax_bigbird.attention import (
    BlockPattern,
    Layout,
    add_global_blocks,
    bigbird_pattern,
    block_segment_ids,
    count_example_blocks,
    packed_causal_pattern,
    packed_full_pattern,
    random_blocks,
    read_short_examples_in_full,
    user_global_blocks,
)
from flax_bigbird.config import SparsityConfig


def call_pattern(
    sparsity: SparsityConfig,
    layer: int,
    length: int,
    *,
    mask: Bool[Array, "B T"] | None = None,
    user_global: Bool[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    train: bool = False,
    key: Array | None = None,
) -> tuple[BlockPattern, Bool[Array, " B"] | None]:
    """Returns the pattern of one layer in one call, for the examples of that call.

    Args:
      sparsity: The configuration.
      layer: The index of the layer.
      length: T, in tokens.
      mask: False at padding. With `padding_invariant` it gives the length of each example.
      user_global: True at tokens whose blocks are global, too.
      segment_ids: Which example each token of a packed row belongs to, 0 for none.
      train: Whether the call trains.
      key: A key that redraws the random blocks; see `layer_pattern`.

    Returns:
      The pattern; and whether the results of each batch row are undefined, or None if that cannot
      happen. They are undefined for rows with more marked blocks than `max_user_global_blocks`,
      and for packed rows in which an example does not start at a block or is longer than
      `max_packed_blocks`.
    """
    if segment_ids is not None:
        return _packed_pattern(sparsity, layer, segment_ids, train=train, key=key)
    num_blocks = None
    if mask is not None and sparsity.padding_invariant and not sparsity.causal:
        num_blocks = count_example_blocks(mask, sparsity.block_size)
    pattern = layer_pattern(sparsity, layer, length, train=train, key=key, num_blocks=num_blocks)
    if user_global is None:
        return pattern, None
    marked = user_global if mask is None else user_global & mask
    blocks, too_many = user_global_blocks(
        marked, sparsity.block_size, sparsity.max_user_global_blocks
    )
    return add_global_blocks(pattern, blocks), too_many


def layer_pattern(
    sparsity: SparsityConfig,
    layer: int,
    length: int,
    *,
    train: bool,
    key: Array | None = None,
    num_blocks: Int[Array, " B"] | None = None,
) -> BlockPattern:
    """Returns the pattern of one layer for inputs of `length` tokens.

    Args:
      sparsity: The configuration.
      layer: The index of the layer.
      length: T, in tokens, which need not be a multiple of the block size.
      train: Whether the call trains. In evaluation, the "hf" rule lists block 0 in place of every
        random block.
      key: A key that redraws the random blocks inside the traced step, whatever the rule.
      num_blocks: The number of blocks of each example of an encoder, traced. What an example reads
        then depends neither on what it is batched with nor on how far it is padded. By default all
        examples are as long as the input, and the pattern is static unless there is a `key`.

    Raises:
      ValueError: If the "hf" rule is used in training with a window or with global blocks that it
        is not defined for.
    """
    size = sparsity.block_size
    max_blocks = -(-length // size)
    random, extra_first = _random_blocks(
        sparsity, layer, max_blocks, train=train, key=key, num_blocks=num_blocks
    )
    pattern = bigbird_pattern(
        max_blocks if num_blocks is None else num_blocks,
        size,
        max_blocks=max_blocks,
        random=random,
        extra_first=extra_first,
        causal=sparsity.causal,
        layout=sparsity.layout,
    )
    if num_blocks is None:
        return pattern
    return read_short_examples_in_full(pattern, num_blocks, sparsity.max_full_attention_blocks)


def _random_blocks(
    sparsity: SparsityConfig,
    layer: int,
    max_blocks: int,
    *,
    train: bool,
    key: Array | None,
    num_blocks: Int[Array, " B"] | None,
) -> tuple[Any, int]:
    """Returns the random blocks of the configured rule, and `extra_first` of `bigbird_pattern`."""
    num_random, heads = sparsity.num_random_blocks, sparsity.num_heads
    counted = max_blocks if num_blocks is None else num_blocks
    rule, causal, layout = sparsity.random_attention, sparsity.causal, sparsity.layout
    if key is not None:
        random = random_blocks.redraw(
            key, counted, num_random, heads, max_blocks=max_blocks, causal=causal, layout=layout
        )
    elif rule == "fixed":
        random = random_blocks.fixed(
            counted,
            num_random,
            heads,
            layer,
            sparsity.random_attention_seed,
            max_blocks=max_blocks,
            causal=causal,
            layout=layout,
        )
    elif rule == "hf" and (causal or not train):
        return None, num_random
    elif rule == "hf":
        _check_hf_training(sparsity)
        random = random_blocks.hf_training(
            counted,
            sparsity.block_size,
            num_random,
            heads,
            layer,
            sparsity.max_position_embeddings,
            max_blocks=max_blocks,
        )
    else:
        random = random_blocks.google(
            counted,
            sparsity.block_size,
            num_random,
            heads,
            layer,
            max_blocks=max_blocks,
            causal=causal,
        )
    return random, 0


def _check_hf_training(sparsity: SparsityConfig) -> None:
    if sparsity.num_random_blocks and sparsity.layout != Layout():
        raise ValueError(
            "config.random_attention='hf' trains with HF-Torch's random blocks, which are defined "
            "for 3 window blocks and one global block at each end; got "
            f"{sparsity.layout}: use 'fixed', pass indices_rng, or set num_random_blocks=0"
        )


def _packed_pattern(
    sparsity: SparsityConfig,
    layer: int,
    segment_ids: Int[Array, "B T"],
    *,
    train: bool,
    key: Array | None,
) -> tuple[BlockPattern, Bool[Array, " B"]]:
    """Returns the pattern in which each example of a packed row reads what it reads alone."""
    size, causal = sparsity.block_size, sparsity.causal
    segments, invalid = block_segment_ids(segment_ids, size)
    if sparsity.max_packed_blocks is None and sparsity.attention_type == "block_sparse":
        pattern = layer_pattern(sparsity, layer, segment_ids.shape[1], train=train, key=key)
        return packed_causal_pattern(pattern, segments), invalid
    max_blocks = sparsity.max_packed_blocks or segments.shape[1]
    pattern, too_long = packed_full_pattern(segments, max_blocks, size, causal=causal)
    return pattern, invalid | too_long
