"""From a configuration and a length to a layer's attention pattern."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from flax_bigbird.attention import (
    BlockPattern,
    bigbird_pattern,
    bigbird_pattern_by_document,
    random_blocks,
)

RULES = ("hf", "google", "fixed")


def random_rule(config: Any) -> str:
    """`config.random_attention`; "hf" when the key is absent, as in published checkpoints."""
    rule = getattr(config, "random_attention", None) or "hf"
    if rule not in RULES:
        raise ValueError(f"config.random_attention must be one of {RULES}; got {rule!r}")
    return rule


def is_padding_invariant(config: Any) -> bool:
    """`config.padding_invariant`; absent means False, as published checkpoints were trained."""
    return bool(getattr(config, "padding_invariant", False))


def uses_full_attention(config: Any, length: int) -> bool:
    """Whether a call of `length` tokens runs full attention: decided per call, from the shape.

    An encoder does so up to (5 + 2R) W tokens, where HF-Torch switches for good (transformers
    20031). A decoder goes by `attention_type` alone, so that steps and one shot agree.
    """
    if config.attention_type == "original_full":
        return True
    if config.is_decoder:
        return False
    return length <= full_blocks(config) * config.block_size


def full_blocks(config: Any) -> int:
    """Up to how many blocks an encoder attends in full: 5 + 2R."""
    return 5 + 2 * config.num_random_blocks


def layer_pattern(
    config: Any, layer: int, length: int, *, train: bool, key: Array | None = None
) -> BlockPattern:
    """The pattern of one layer for `length` tokens (SPEC section 4).

    Args:
      layer: the layer's index.
      length: T, tokens; the last block may be part full.
      train: whether the call trains: "hf" has random blocks only then.
      key: redraws the random blocks inside the traced step, whatever the rule.
    """
    size, num_random = config.block_size, config.num_random_blocks
    num_blocks = -(-length // size)
    heads, causal = config.num_attention_heads, config.is_decoder
    rule = random_rule(config)
    if key is not None:
        random = random_blocks.redraw(key, num_blocks, num_random, heads, causal=causal)
    elif rule == "fixed":
        seed = getattr(config, "random_attention_seed", None) or 0
        random = random_blocks.fixed(num_blocks, num_random, heads, layer, seed, causal=causal)
    elif rule == "hf" and (causal or not train):
        return bigbird_pattern(num_blocks, size, extra_first=num_random, causal=causal)
    elif causal:
        # Cut to the past, from the rows that do not depend on M: not the last one of a pattern,
        # and not a length that the paper's plan treats by itself.
        span = random_blocks.rows_of_any_length(num_blocks, size, num_random)
        random = random_blocks.google(span, size, num_random, heads, layer)[:, :num_blocks]
        past = random <= np.arange(num_blocks)[None, :, None] - 2
        random = np.where(past, random, -1)
    elif rule == "hf":
        table = config.max_position_embeddings
        random = random_blocks.hf_training(num_blocks, size, num_random, heads, layer, table)
    else:
        random = random_blocks.google(num_blocks, size, num_random, heads, layer)
    return bigbird_pattern(num_blocks, size, random=random, causal=causal)


def document_blocks(mask: Bool[Array, "B T"], block_size: int) -> Int[Array, " B"]:
    """How many blocks each document fills: its length is 1 + the index of its last real token.

    1 for a document without any.
    """
    length = mask.shape[1] - jnp.argmax(mask[:, ::-1], axis=1)
    length = jnp.where(mask.any(1), length, 1)
    return -(-length // block_size).astype(jnp.int32)


def layer_pattern_by_document(
    config: Any,
    layer: int,
    num_blocks: Int[Array, " B"],
    length: int,
    *,
    train: bool,
    key: Array | None = None,
) -> BlockPattern:
    """`layer_pattern` of an encoder, for each document by its own number of blocks.

    What a document reads depends neither on what it is batched with nor on how far it is padded
    (`config.padding_invariant`). Compiled once for a length, whatever the documents'.

    Args:
      num_blocks: of each document, traced, from `document_blocks`.
      length: T, that they are padded to.
    """
    size, num_random = config.block_size, config.num_random_blocks
    most, heads = -(-length // size), config.num_attention_heads
    build = functools.partial(
        bigbird_pattern_by_document, num_blocks, most, size, full_up_to=full_blocks(config)
    )
    rule = random_rule(config)
    if key is not None:
        random = random_blocks.redraw(key, most, num_random, heads, by_document=num_blocks)
    elif rule == "fixed":
        seed = getattr(config, "random_attention_seed", None) or 0
        random = random_blocks.fixed_by_document(num_blocks, most, num_random, heads, layer, seed)
    elif rule == "google":
        random = random_blocks.google_by_document(num_blocks, most, size, num_random, heads, layer)
    elif train:
        random = random_blocks.hf_training_by_document(
            num_blocks, most, size, num_random, heads, layer, config.max_position_embeddings
        )
    else:
        return build(extra_first=num_random)
    return build(random=random)
