"""From a configuration and a length to a layer's attention pattern."""

from typing import Any

import numpy as np
from jaxtyping import Array

from flax_bigbird.attention import BlockPattern, bigbird_pattern, random_blocks

RULES = ("hf", "google", "fixed")


def random_rule(config: Any) -> str:
    """`config.random_attention`; "hf" when the key is absent, as in published checkpoints."""
    rule = getattr(config, "random_attention", None) or "hf"
    if rule not in RULES:
        raise ValueError(f"config.random_attention must be one of {RULES}; got {rule!r}")
    return rule


def uses_full_attention(config: Any, length: int) -> bool:
    """Whether a call of `length` tokens runs full attention: decided per call, from the shape.

    An encoder does so up to (5 + 2R) W tokens, where HF-Torch switches for good (transformers
    20031). A decoder goes by `attention_type` alone, so that steps and one shot agree.
    """
    if config.attention_type == "original_full":
        return True
    if config.is_decoder:
        return False
    return length <= (5 + 2 * config.num_random_blocks) * config.block_size


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
        span = max(num_blocks, 2 * num_random + 5) + 1
        span += (span * size) in random_blocks.PAPER_LENGTHS
        random = random_blocks.google(span, size, num_random, heads, layer)[:, :num_blocks]
        past = random <= np.arange(num_blocks)[None, :, None] - 2
        random = np.where(past, random, -1)
    elif rule == "hf":
        table = config.max_position_embeddings
        random = random_blocks.hf_training(num_blocks, size, num_random, heads, layer, table)
    else:
        random = random_blocks.google(num_blocks, size, num_random, heads, layer)
    return bigbird_pattern(num_blocks, size, random=random, causal=causal)
