"""From a configuration and a length to a layer's attention pattern."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from flax_bigbird.attention import (
    BlockPattern,
    Layout,
    bigbird_pattern,
    bigbird_pattern_by_document,
    chosen_blocks,
    packed_as_alone,
    packed_in_full,
    random_blocks,
    segments_of_blocks,
    with_global_blocks,
)
from flax_bigbird.nn.context import NOTHING_SAID, Reading

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


def layout_of(config: Any) -> Layout:
    """Window and globals: BigBird's, unless the configuration has keys of ours for them.

    `num_window_blocks` (3, odd), `num_leading_global_blocks` (1), `num_trailing_global_blocks` (1).
    """

    def number(name: str, default: int) -> int:
        value = getattr(config, name, None)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"config.{name} must be an integer, 0 or more; got {value!r}")
        return value

    window = number("num_window_blocks", 3)
    if window % 2 == 0:
        raise ValueError(
            "config.num_window_blocks must be odd (a row's own block and as many on either side); "
            f"got {window}: take {window + 1}"
        )
    leading = number("num_leading_global_blocks", 1)
    return Layout(window // 2, leading, number("num_trailing_global_blocks", 1))


def check_layout(config: Any) -> None:
    """Raises `ValueError` where the random rule is not defined for the window and the globals."""
    wide = layout_of(config) != Layout()
    if wide and config.num_random_blocks and random_rule(config) == "google":
        raise ValueError(
            "config.random_attention='google' is defined for 3 window blocks and one global block "
            f"at each end; got {layout_of(config)}: use 'fixed'"
        )


def global_block_limit(config: Any) -> int:
    """`config.max_chosen_global_blocks`: most blocks that `global_attention_mask` may choose."""
    limit = getattr(config, "max_chosen_global_blocks", None)
    limit = 8 if limit is None else limit
    if not isinstance(limit, int) or limit < 1:
        raise ValueError(f"config.max_chosen_global_blocks must be at least 1; got {limit!r}")
    return limit


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
    """Up to how many blocks an encoder attends in full: globals, window and 2R; 5 + 2R."""
    return layout_of(config).width + 2 * config.num_random_blocks


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
    heads, causal, layout = config.num_attention_heads, config.is_decoder, layout_of(config)
    build = functools.partial(bigbird_pattern, num_blocks, size, causal=causal, layout=layout)
    rule = random_rule(config)
    if key is not None:
        random = random_blocks.redraw(
            key, num_blocks, num_random, heads, causal=causal, layout=layout
        )
    elif rule == "fixed":
        seed = getattr(config, "random_attention_seed", None) or 0
        random = random_blocks.fixed(
            num_blocks, num_random, heads, layer, seed, causal=causal, layout=layout
        )
    elif rule == "hf" and (causal or not train):
        return build(extra_first=num_random)
    elif causal:
        # Cut to the past, from the rows that do not depend on M: not the last one of a pattern,
        # and not a length that the paper's plan treats by itself.
        span = random_blocks.rows_of_any_length(num_blocks, size, num_random)
        random = random_blocks.google(span, size, num_random, heads, layer)[:, :num_blocks]
        past = random <= np.arange(num_blocks)[None, :, None] - 2
        random = np.where(past, random, -1)
    elif rule == "hf":
        _check_hf_training(config)
        table = config.max_position_embeddings
        random = random_blocks.hf_training(num_blocks, size, num_random, heads, layer, table)
    else:
        random = random_blocks.google(num_blocks, size, num_random, heads, layer)
    return build(random=random)


def _check_hf_training(config: Any) -> None:
    if config.num_random_blocks and layout_of(config) != Layout():
        raise ValueError(
            "config.random_attention='hf' trains with HF-Torch's random blocks, which are defined "
            "for 3 window blocks and one global block at each end; got "
            f"{layout_of(config)}: use 'fixed', pass indices_rng, or set num_random_blocks=0"
        )


def call_pattern(
    config: Any,
    layer: int,
    length: int,
    *,
    mask: Bool[Array, "B T"] | None = None,
    reading: Reading = NOTHING_SAID,
    train: bool = False,
    key: Array | None = None,
) -> tuple[BlockPattern, Bool[Array, " B"] | None]:
    """The pattern of one layer in one call, with what the documents' own masks change.

    Args:
      mask: False at padding; tells each document's length with `config.padding_invariant`.
      reading: chosen tokens, whose blocks are global too, or documents that share a row.
      layer, length, train, key: as for `layer_pattern`.

    Returns:
      The pattern, and in which rows of the batch results are not defined (None where the call
      cannot do that): more chosen blocks than `global_block_limit`, or documents that share a row
      and do not begin at a block or are too long (see `packed_limit`).
    """
    if reading.segments is not None:
        return _packed_pattern(config, layer, reading.segments, train=train, key=key)
    if mask is not None and is_padding_invariant(config) and not config.is_decoder:
        documents = document_blocks(mask, config.block_size)
        pattern = layer_pattern_by_document(config, layer, documents, length, train=train, key=key)
    else:
        pattern = layer_pattern(config, layer, length, train=train, key=key)
    if reading.chosen is None:
        return pattern, None
    chosen = reading.chosen if mask is None else reading.chosen & mask
    blocks, too_many = chosen_blocks(chosen, config.block_size, global_block_limit(config))
    return with_global_blocks(pattern, blocks), too_many


def packed_limit(config: Any) -> int | None:
    """Blocks that a document may have which shares a row with others; None: any number.

    An encoder's must be short enough to be read in full; a longer one needs a row of its own, for
    its global rows.
    """
    if config.is_decoder or config.attention_type == "original_full":
        return None
    return full_blocks(config)


def _packed_pattern(
    config: Any, layer: int, segments: Int[Array, "B T"], *, train: bool, key: Array | None
) -> tuple[BlockPattern, Bool[Array, " B"]]:
    """`call_pattern` of rows that hold several documents: each reads as it does alone."""
    size, causal = config.block_size, config.is_decoder
    blocks, mixed = segments_of_blocks(segments, size)
    if causal and config.attention_type == "block_sparse":
        alone = layer_pattern(config, layer, segments.shape[1], train=train, key=key)
        return packed_as_alone(alone, blocks), mixed
    most = packed_limit(config) or blocks.shape[1]
    pattern, too_long = packed_in_full(blocks, most, size, causal=causal)
    return pattern, mixed | too_long


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
    most, heads, layout = -(-length // size), config.num_attention_heads, layout_of(config)
    build = functools.partial(
        bigbird_pattern_by_document,
        num_blocks,
        most,
        size,
        full_up_to=full_blocks(config),
        layout=layout,
    )
    rule = random_rule(config)
    if key is not None:
        random = random_blocks.redraw(
            key, most, num_random, heads, by_document=num_blocks, layout=layout
        )
    elif rule == "fixed":
        seed = getattr(config, "random_attention_seed", None) or 0
        random = random_blocks.fixed_by_document(
            num_blocks, most, num_random, heads, layer, seed, layout
        )
    elif rule == "google":
        random = random_blocks.google_by_document(num_blocks, most, size, num_random, heads, layer)
    elif train:
        _check_hf_training(config)
        random = random_blocks.hf_training_by_document(
            num_blocks, most, size, num_random, heads, layer, config.max_position_embeddings
        )
    else:
        return build(extra_first=num_random)
    return build(random=random)
