"""Checks and defaults of what a caller passes: errors before any work."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def _host(x: Any) -> np.ndarray | None:
    """The values of a host array or list; None on a device or under a trace (unreadable)."""
    return None if isinstance(x, jax.Array) else np.asarray(x)


def token_ids(name: str, x: Any, *, ndim: int, size: int, limit_name: str) -> Int[Array, "..."]:
    """Integer ids as int32, of `ndim` axes, in `0..size-1` where the values can be read.

    Values on a device, or under `jit`, cannot be checked without stalling it and are not.

    Raises:
      ValueError: wrong rank, no tokens, not integers, or out of range.
    """
    host = _host(x)
    shape, dtype = np.shape(x), (x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype)
    if len(shape) != ndim:
        axes = "[batch, tokens]" if ndim == 2 else "[batch, choices, tokens]"
        raise ValueError(f"{name} must have shape {axes}; got shape {shape}: add or remove an axis")
    if not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"{name} must be integers; got {dtype}: cast with .astype('int32')")
    if 0 in shape[-1:]:
        raise ValueError(f"{name} must hold at least one token; got shape {shape}")
    if host is not None and host.size:
        low, high = int(host.min()), int(host.max())
        if low < 0 or high >= size:
            bad = low if low < 0 else high
            raise ValueError(
                f"{name} must lie in 0..{size - 1} (config.{limit_name}={size}); got {bad}: "
                "check that tokenizer and checkpoint belong together"
            )
    return jnp.asarray(x, jnp.int32)


def same_shape(name: str, x: Any, shape: tuple[int, ...]) -> None:
    """Raises `ValueError` unless `x` has the shape of input_ids."""
    if np.shape(x) != shape:
        raise ValueError(f"{name} must have the shape of input_ids, {shape}; got {np.shape(x)}")


def key_mask(name: str, x: Any, shape: tuple[int, ...]) -> Bool[Array, "B S"]:
    """A mask of 0 and 1, `[batch, keys]`, as booleans. Raises `ValueError` for another shape."""
    if np.shape(x) != shape:
        raise ValueError(f"{name} must have shape [batch, keys] = {shape}; got {np.shape(x)}")
    return jnp.asarray(x) != 0


def head_mask(x: Any, layers: int, heads: int) -> Float[Array, "L N"] | None:
    """1 keeps a head, 0 silences it: `[heads]` for all layers, or `[layers, heads]`."""
    if x is None:
        return None
    if np.shape(x) not in ((heads,), (layers, heads)):
        raise ValueError(
            f"head_mask must have shape [heads] = {(heads,)} or [layers, heads] = "
            f"{(layers, heads)}; got {np.shape(x)}"
        )
    return jnp.broadcast_to(jnp.asarray(x, jnp.float32), (layers, heads))


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
