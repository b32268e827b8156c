"""Checks the individual arguments of a call, and raises an error before any work is done.

Only the shapes and dtypes of arrays on a device, or under `jit`, are checked: to read their values
would stall the device.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.attention.numerics import Dimension
from flax_bigbird.config import SparsityConfig

# What to do about values out of range.
_REMEDIES = {
    "input_ids": "check that tokenizer and checkpoint belong together",
    "token_type_ids": "give the two texts of a pair the types 0 and 1, or leave token_type_ids out",
    "position_ids": "count from 0, truncate the input, or use a model with a longer table",
}


def array(name: str, x: Any) -> np.ndarray | Array:
    """Returns `x` if it is a JAX array, and a NumPy array of numbers or booleans otherwise.

    Raises:
      ValueError: If `x` has rows of unequal length, or is text or None.
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


def token_ids(name: str, x: Any, *, ndim: int, num_ids: int, limit_name: str) -> Int[Array, "..."]:
    """Returns ids as int32.

    Args:
      name: The name of the argument.
      x: The ids, as integers, or as floats that are whole numbers.
      ndim: The required number of axes.
      num_ids: Ids must lie in `0..num_ids-1`.
      limit_name: The configuration key that sets `num_ids`.

    Raises:
      ValueError: If `x` has another rank, no tokens, another dtype, or values out of range.
    """
    x = array(name, x)
    if x.ndim != ndim:
        axes = "[batch, tokens]" if ndim == 2 else "[batch, choices, tokens]"
        raise ValueError(
            f"{name} must have shape {axes}; got shape {x.shape}: add or remove an axis"
        )
    x = whole_numbers(name, x, invalid=num_ids)
    if 0 in x.shape:
        raise ValueError(
            f"{name} must hold at least one token; got shape {x.shape}: leave empty batches out"
        )
    if isinstance(x, np.ndarray):
        low, high = int(x.min()), int(x.max())
        if low < 0 or high >= num_ids:
            raise ValueError(
                f"{name} must lie in 0..{num_ids - 1} (config.{limit_name}={num_ids}); got "
                f"{low if low < 0 else high}: {_REMEDIES.get(name, _REMEDIES['input_ids'])}"
            )
    return jnp.asarray(x, jnp.int32)


def whole_numbers(name: str, x: np.ndarray | Array, *, invalid: int) -> np.ndarray | Array:
    """Returns integers, also for floats of 32 bits or more that are whole numbers.

    Args:
      name: The name of the argument.
      x: The numbers. `token_type_ids` may be booleans.
      invalid: What floats on a device, or under `jit`, become if they are not whole numbers. As an
        index out of range, it makes the results NaN.

    Raises:
      ValueError: If `x` has another dtype, or is on the host and has other floats.
    """
    if jnp.issubdtype(x.dtype, jnp.integer):
        return x
    if x.dtype == np.bool_ and name == "token_type_ids":
        return x.astype(np.int32)
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize < 4:
        raise ValueError(
            f"{name} must be integers, or whole numbers of at least 32 bits; got {x.dtype}: cast "
            "with .astype('int32') before anything else"
        )
    if isinstance(x, np.ndarray):
        is_whole = np.isfinite(x) & (x == np.floor(x)) & (np.abs(x) < 2.0**62)
        if not is_whole.all():
            raise ValueError(
                f"{name} must be integers, or floats that are whole numbers; got "
                f"{x[~is_whole].flat[0]} among {x.dtype}: check what it was computed from"
            )
        return x.astype(np.int64)
    is_whole = (x == jnp.floor(x)) & (jnp.abs(x) < 2.0**31)
    return jnp.where(is_whole, x, jnp.asarray(invalid, x.dtype)).astype(jnp.int32)


def broadcast_to_tokens(name: str, x: Any, shape: tuple[Dimension, ...]) -> np.ndarray | Array:
    """Returns `x` with the shape of input_ids; leading axes may be missing, or be 1.

    Raises:
      ValueError: If `x` does not hold one value per token of an example.
    """
    x = array(name, x)
    ndim = len(shape)
    full = (1,) * (ndim - x.ndim) + tuple(x.shape)
    fits = len(full) == ndim and all(a in (1, b) for a, b in zip(full, shape, strict=True))
    if not fits or full[-1] != shape[-1]:
        raise ValueError(
            f"{name} must have the shape of input_ids, {shape}, or of one example, "
            f"{shape[-1:]}; got {x.shape}: pass one value per token"
        )
    xp: Any = np if isinstance(x, np.ndarray) else jnp
    return xp.broadcast_to(x, shape)


def key_mask(name: str, x: Any, shape: tuple[Dimension, ...]) -> Bool[Array, "..."]:
    """Returns a mask of 0 and 1, with one entry per key, as booleans.

    Raises:
      ValueError: If `x` has another shape, or other values (as an additive mask has).
    """
    x = array(name, x)
    if x.shape != shape:
        raise ValueError(
            f"{name} must have shape {list(shape)}, one entry per key; got {x.shape}: pass the "
            "tokenizer's mask, or no mask if there is no padding"
        )
    if isinstance(x, np.ndarray) and not ((x == 0) | (x == 1)).all():
        bad = x[(x != 0) & (x != 1)].flat[0]
        raise ValueError(
            f"{name} must be 1 at tokens to read and 0 at padding; got {bad}: convert an additive "
            "mask (0 and large negative numbers) with `mask == 0`"
        )
    return jnp.asarray(x).astype(bool)


def head_mask(x: Any, num_layers: int, num_heads: int) -> Float[Array, "L N"] | None:
    """Returns the factor of every head in every layer, or None.

    Args:
      x: `[num_heads]` for all layers, or `[num_layers, num_heads]`; 1 keeps a head, 0 masks it.
      num_layers: The number of layers.
      num_heads: The number of heads.
    """
    if x is None:
        return None
    x = array("head_mask", x)
    if x.shape not in ((num_heads,), (num_layers, num_heads)):
        raise ValueError(
            f"head_mask must have shape [heads] = {(num_heads,)} or [layers, heads] = "
            f"{(num_layers, num_heads)}; got {x.shape}: pass one number per head"
        )
    return jnp.broadcast_to(jnp.asarray(x, jnp.float32), (num_layers, num_heads))


def encoder_states(x: Any, batch: Dimension, width: int) -> Float[Array, "B S D"]:
    """Returns the hidden states of an encoder, `[batch, keys, width]`, as a JAX array."""
    x = array("encoder_hidden_states", x)
    fits = x.ndim == 3 and (x.shape[0], x.shape[2]) == (batch, width) and x.shape[1]
    if not fits or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"encoder_hidden_states must be floating, of shape [{batch}, keys, {width}] (the "
            f"batch of input_ids, config.hidden_size); got {x.dtype} {x.shape}: pass the "
            "encoder's last_hidden_state"
        )
    return jnp.asarray(x)


def question_lengths(x: Any, batch: Dimension, length: Dimension) -> Int[Array, "B 1"]:
    """Returns the number of tokens of each question, in `0..length`."""
    x = array("question_lengths", x)
    if x.shape != (batch, 1) or not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(
            f"question_lengths must be integers of shape [batch, 1] = {(batch, 1)}; "
            f"got {x.dtype} {x.shape}: count each question's tokens, [SEP] included"
        )
    if isinstance(x, np.ndarray) and not 0 <= x.min() <= x.max() <= length:
        bad = x.min() if x.min() < 0 else x.max()
        raise ValueError(
            f"question_lengths must lie in 0..{length}, the length of the input; got {bad}: count "
            "each question's tokens, [SEP] included"
        )
    return jnp.asarray(x, jnp.int32)


def logits_positions(x: Any, batch: Dimension, length: Dimension) -> Int[Array, "B P"]:
    """Returns the positions whose logits are requested, each in `0..length-1`."""
    x = array("logits_positions", x)
    if x.ndim != 2 or x.shape[0] != batch or not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(
            f"logits_positions must be integers of shape [batch, positions] with batch {batch}; "
            f"got {x.dtype} {x.shape}: compute them with flax_bigbird.nn.losses.gather_targets"
        )
    if isinstance(x, np.ndarray) and x.size and not 0 <= x.min() <= x.max() < length:
        bad = x.min() if x.min() < 0 else x.max()
        raise ValueError(
            f"logits_positions must lie in 0..{length - 1}, the positions of the input; got {bad}: "
            "count from 0"
        )
    return jnp.asarray(x, jnp.int32)


def labels(
    name: str, x: Any, shape: tuple[Dimension, ...], num_ids: int, ignored: int | None = None
) -> Int[Array, "..."]:
    """Returns labels as int32.

    Args:
      name: The name of the argument.
      x: The labels.
      shape: The required shape.
      num_ids: Labels must lie in `0..num_ids-1`; only host arrays are checked.
      ignored: A label that is accepted, too.

    Raises:
      ValueError: If `x` has another shape or dtype, or values out of range.
    """
    x = array(name, x)
    if x.shape != shape or not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(
            f"{name} must be integers of shape {list(shape)}; got {x.dtype} {x.shape}: pass one "
            "label for each"
        )
    if isinstance(x, np.ndarray):
        valid = (x >= 0) & (x < num_ids)
        valid = valid if ignored is None else valid | (x == ignored)
        if not valid.all():
            extra = "" if ignored is None else f", or be {ignored} where there is none"
            raise ValueError(
                f"{name} must lie in 0..{num_ids - 1}{extra}; got {x[~valid].flat[0]}: check that "
                "labels and model belong together"
            )
    return jnp.asarray(x, jnp.int32)


def random_key(name: str, x: Any) -> Array | None:
    """Returns `x` if it is None or one JAX random key, new-style or old-style.

    Raises:
      ValueError: If `x` is anything else.
    """
    if x is None:
        return None
    dtype, shape = getattr(x, "dtype", None), np.shape(x)
    if dtype is not None:
        if jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
            return x
        if dtype == jnp.uint32 and len(shape) == 1:
            return x
    received = type(x).__name__ if dtype is None else f"{dtype} {shape}"
    raise ValueError(
        f"{name} must be one random key; got {received}: create it with jax.random.key(0)"
    )


def check_symbolic_length(sparsity: SparsityConfig, length: Dimension) -> None:
    """Raises `ValueError` for a symbolic length that may need a sparse pattern, or no table has.

    The pattern depends on the length, so that one program cannot hold those of several lengths.
    """
    if isinstance(length, int):
        return
    limit = sparsity.max_full_attention_tokens
    try:
        fits = bool(length <= limit)
    except jax.errors.InconclusiveDimensionOperation:
        fits = False
    if not fits:
        bound = f"bound it, as in jax.export.symbolic_shape('b, t', constraints=['t <= {limit}'])"
        raise ValueError(
            "the number of tokens may be symbolic only where this model attends in full, which "
            f"is {f'up to {limit} tokens' if limit else 'nowhere'}; got {length}: "
            f"{f'{bound}, or ' if limit else ''}export it for a fixed number of tokens"
        )


def check_length(config: Any, length: Dimension) -> None:
    """Raises `ValueError` if the input is longer than the table of position embeddings."""
    max_length = config.max_position_embeddings
    if length > max_length:
        raise ValueError(
            f"an input may have at most {max_length} tokens (config.max_position_embeddings); got "
            f"{length}: truncate it, split it into windows, or use a model with a longer table"
        )
