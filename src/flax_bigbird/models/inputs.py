"""Checks and defaults of what a caller passes: errors before any work.

Values on a device, or under `jit`, cannot be read without stalling it: only shapes and dtypes of
those are checked.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

REMEDY = {
    "input_ids": "check that tokenizer and checkpoint belong together",
    "token_type_ids": "number the texts of a pair 0 and 1, or leave token_type_ids out",
    "position_ids": "count from 0, truncate the input, or use a model with a longer table",
}


def array(name: str, x: Any) -> np.ndarray | Array:
    """`x` itself if it is an array, else as a NumPy array of numbers or booleans.

    Raises:
      ValueError: rows of unequal length, text, None.
    """
    if isinstance(x, jax.Array):
        return x
    try:
        host = np.asarray(x)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name} must be an array, or lists of equal length; got a {type(x).__name__} that "
            "is neither: pad its rows to one length"
        ) from error
    if host.dtype == object or not (
        jnp.issubdtype(host.dtype, jnp.number) or host.dtype == np.bool_
    ):
        text = name == "input_ids" and host.dtype.kind in "US"
        raise ValueError(
            f"{name} must be an array of numbers; got {type(x).__name__} of {host.dtype}: "
            + ("tokenize it first, with return_tensors='np'" if text else "pass a NumPy array")
        )
    return host


def token_ids(name: str, x: Any, *, ndim: int, size: int, limit_name: str) -> Int[Array, "..."]:
    """Integer ids as int32, of `ndim` axes, in `0..size-1` where the values can be read.

    Raises:
      ValueError: wrong rank, no tokens, not integers, or out of range.
    """
    x = array(name, x)
    if x.ndim != ndim:
        axes = "[batch, tokens]" if ndim == 2 else "[batch, choices, tokens]"
        raise ValueError(
            f"{name} must have shape {axes}; got shape {x.shape}: add or remove an axis"
        )
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(f"{name} must be integers; got {x.dtype}: cast with .astype('int32')")
    if 0 in x.shape:
        raise ValueError(
            f"{name} must hold at least one token; got shape {x.shape}: leave empty batches out"
        )
    if isinstance(x, np.ndarray):
        low, high = int(x.min()), int(x.max())
        if low < 0 or high >= size:
            raise ValueError(
                f"{name} must lie in 0..{size - 1} (config.{limit_name}={size}); got "
                f"{low if low < 0 else high}: {REMEDY.get(name, REMEDY['input_ids'])}"
            )
    return jnp.asarray(x, jnp.int32)


def same_shape(name: str, x: Any, shape: tuple[int, ...]) -> None:
    """Raises `ValueError` unless `x` has the shape of input_ids."""
    if (got := array(name, x).shape) != shape:
        raise ValueError(
            f"{name} must have the shape of input_ids, {shape}; got {got}: give one a token"
        )


def key_mask(name: str, x: Any, shape: tuple[int, ...]) -> Bool[Array, "B S"]:
    """A mask of 0 and 1, one a key, as booleans.

    Raises:
      ValueError: another shape, or values that are neither (an additive mask, say).
    """
    x = array(name, x)
    if x.shape != shape:
        raise ValueError(
            f"{name} must have shape {list(shape)}, one entry a key; got {x.shape}: pass the "
            "tokenizer's mask, or none if there is no padding"
        )
    if isinstance(x, np.ndarray) and not ((x == 0) | (x == 1)).all():
        bad = x[(x != 0) & (x != 1)].flat[0]
        raise ValueError(
            f"{name} must be 1 at tokens to read and 0 at padding; got {bad}: an additive mask "
            "(0 and large negative numbers) becomes one by `mask == 0`"
        )
    return jnp.asarray(x) != 0


def head_mask(x: Any, layers: int, heads: int) -> Float[Array, "L N"] | None:
    """1 keeps a head, 0 silences it: `[heads]` for all layers, or `[layers, heads]`."""
    if x is None:
        return None
    x = array("head_mask", x)
    if x.shape not in ((heads,), (layers, heads)):
        raise ValueError(
            f"head_mask must have shape [heads] = {(heads,)} or [layers, heads] = "
            f"{(layers, heads)}; got {x.shape}: give one number a head"
        )
    return jnp.broadcast_to(jnp.asarray(x, jnp.float32), (layers, heads))


def encoder_states(x: Any, batch: int, width: int) -> Float[Array, "B S D"]:
    """Raises `ValueError` unless `x` is floating and `[batch, keys, width]` with keys in it."""
    x = array("encoder_hidden_states", x)
    fits = x.ndim == 3 and (x.shape[0], x.shape[2]) == (batch, width) and x.shape[1]
    if not fits or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"encoder_hidden_states must be floating, of shape [{batch}, keys, {width}] (the "
            f"batch of input_ids, config.hidden_size); got {x.dtype} {x.shape}: pass the "
            "encoder's last_hidden_state"
        )
    return jnp.asarray(x)


def question_lengths(x: Any, batch: int, length: int) -> Int[Array, "B 1"]:
    """Tokens of each question, `[batch, 1]`, in `0..length`."""
    x = array("question_lengths", x)
    if x.shape != (batch, 1) or not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(
            f"question_lengths must be integers of shape [batch, 1] = {(batch, 1)}; "
            f"got {x.dtype} {x.shape}: count each question's tokens, [SEP] included"
        )
    if isinstance(x, np.ndarray) and not 0 <= x.min() <= x.max() <= length:
        bad = x.min() if x.min() < 0 else x.max()
        raise ValueError(
            f"question_lengths must lie in 0..{length}, the tokens there are; got {bad}: count "
            "each question's tokens, [SEP] included"
        )
    return jnp.asarray(x, jnp.int32)


def logits_positions(x: Any, batch: int, length: int) -> Int[Array, "B P"]:
    """Positions whose logits are wanted, `[batch, P]`, each in `0..length-1`."""
    x = array("logits_positions", x)
    if x.ndim != 2 or x.shape[0] != batch or not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(
            f"logits_positions must be integers of shape [batch, positions] with batch {batch}; "
            f"got {x.dtype} {x.shape}: make them with flax_bigbird.nn.losses.gather_targets"
        )
    if isinstance(x, np.ndarray) and x.size and not 0 <= x.min() <= x.max() < length:
        bad = x.min() if x.min() < 0 else x.max()
        raise ValueError(
            f"logits_positions must lie in 0..{length - 1}, the positions there are; got {bad}: "
            "count from 0"
        )
    return jnp.asarray(x, jnp.int32)


def chosen_blocks(chosen: Any, mask: Any, block_size: int, limit: int) -> None:
    """Raises `ValueError` when a document's global tokens lie in more than `limit` blocks.

    Of host arrays only: on a device, or under `jit`, such a document's results are NaN.
    """
    chosen = array("global_attention_mask", chosen)
    mask = None if mask is None else array("attention_mask", mask)
    if not isinstance(chosen, np.ndarray) or not isinstance(mask, np.ndarray | None):
        return
    if mask is not None and mask.shape == chosen.shape:
        chosen = chosen * (mask != 0)
    marked = np.pad(
        chosen != 0, [(0, 0)] * (chosen.ndim - 1) + [(0, -chosen.shape[-1] % block_size)]
    )
    blocks = marked.reshape(*marked.shape[:-1], -1, block_size).any(-1).sum(-1)
    if blocks.size and blocks.max() > limit:
        raise ValueError(
            f"global_attention_mask may choose tokens in at most {limit} blocks of {block_size} a "
            f"document (config.max_user_global_blocks); got {blocks.max()}: choose fewer, or "
            "raise the limit"
        )


def segment_ids(
    x: Any, shape: tuple[int, ...], block_size: int, limit: int | None
) -> np.ndarray | Array:
    """The numbers of the documents that share rows, 0 at padding; a host array remains one.

    Raises:
      ValueError: another shape, no integers or negative ones, a document that does not begin at a
        block, or one of more than `limit` blocks. The last three of host arrays only: on a device,
        or under `jit`, the results of such rows are NaN.
    """
    x = array("segment_ids", x)
    if x.shape != shape or not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(
            f"segment_ids must be integers of the shape of input_ids, {list(shape)}; got {x.dtype} "
            f"{x.shape}: number the documents of a row from 1, padding 0"
        )
    if isinstance(x, np.ndarray):
        if x.min() < 0:
            raise ValueError(f"segment_ids must not be negative; got {x.min()}: padding is 0")
        begins = np.diff(x, axis=1, prepend=0) != 0
        row, place = np.nonzero(begins & (x != 0))
        if (off := place % block_size != 0).any():
            raise ValueError(
                f"every document of segment_ids must begin at a multiple of config.block_size="
                f"{block_size}; got one at {place[off][0]} in row {row[off][0]}: pad the one "
                "before it with 0"
            )
        ends = np.diff(x, axis=1, append=0) != 0
        sizes = np.nonzero(ends & (x != 0))[1] + 1 - place
        if limit is not None and sizes.size and sizes.max() > limit * block_size:
            raise ValueError(
                f"a document that shares a row must have at most {limit * block_size} tokens, "
                f"which an encoder of this configuration reads in full; got {sizes.max()}: give it "
                "a row of its own, without segment_ids"
            )
    return x.astype(np.int32)


def positions_of_segments(segments: np.ndarray | Array) -> np.ndarray | Array:
    """[B, T]: 0, 1, 2, ... from the beginning of every run of one number."""
    host = isinstance(segments, np.ndarray)
    xp: Any = np if host else jnp
    place = np.arange(segments.shape[1], dtype=np.int32)
    begins = xp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    starts = xp.where(begins, place, 0)
    starts = np.maximum.accumulate(starts, axis=1) if host else jax.lax.cummax(starts, axis=1)
    return place - starts


def random_key(name: str, x: Any) -> Array | None:
    """A JAX random key, new style or old, or None."""
    if x is None:
        return None
    dtype, shape = getattr(x, "dtype", None), np.shape(x)
    if dtype is not None:
        if jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
            return x
        if dtype == jnp.uint32 and len(shape) == 1:
            return x
    got = type(x).__name__ if dtype is None else f"{dtype} {shape}"
    raise ValueError(f"{name} must be one random key; got {got}: make it with jax.random.key(0)")


def check_length(config: Any, length: int) -> None:
    """Raises `ValueError` when the position table is shorter than the input."""
    limit = config.max_position_embeddings
    if length > limit:
        raise ValueError(
            f"an input may have at most {limit} tokens (config.max_position_embeddings); got "
            f"{length}: truncate it, split it into windows, or use a model with a longer table"
        )


def question_mask(lengths: Array, length: int) -> Bool[Array, "B T"]:
    """True on the question: the first `lengths` [B, 1] tokens of each row."""
    return jnp.arange(length) < lengths
