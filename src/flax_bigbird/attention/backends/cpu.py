"""Block-sparse and full attention by the native CPU kernel in `csrc/`, with its gradient.

One XLA custom call reads q, k and v in place, keeps tiles of scores in cache (online softmax,
Milakov and Gimelshein 2018, arXiv 1805.02867) and writes the output and the log-sum-exp. Another
computes the three gradients from those. It runs on XLA's thread pool, and results are bitwise
identical for any number of threads. The library is built when the package is installed on a machine
with a compiler; without it, this implementation declines.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention.manual_axes import shape_like
from flax_bigbird.attention.numerics import zero_masked
from flax_bigbird.attention.patterns.block_pattern import BlockPattern
from flax_bigbird.attention.platform import current_platform
from flax_bigbird.attention.residuals import name_residuals

FORWARD_TARGET = "flax_bigbird_attention"
BACKWARD_TARGET = "flax_bigbird_attention_gradient"

_FULL_BLOCK_SIZE = 64  # tokens per block in full attention: the kernel's tile


class _Static(NamedTuple):
    """The static attributes of a custom call."""

    scale: float
    causal: bool
    mask_queries: bool
    block_size: int
    instructions: str


@functools.cache
def _library() -> ctypes.CDLL | str:
    """Returns the library with its calls registered, or the reason why it is not available."""
    files = sorted(Path(__file__).parent.glob("_cpu*.so"))
    if not files:
        return (
            "the native library was not built: install flax-bigbird on a machine with a C++17 "
            "compiler (from a checkout: `pip install .`)"
        )
    try:
        library = ctypes.CDLL(str(files[0]))
        library.bigbird_instruction_sets.restype = ctypes.c_char_p
        for target, symbol in (
            (FORWARD_TARGET, library.bigbird_attention),
            (BACKWARD_TARGET, library.bigbird_attention_gradient),
        ):
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(symbol), platform="cpu")
    except (OSError, AttributeError, RuntimeError) as error:
        return f"the native library {files[0].name} cannot be loaded: {error}"
    return library


# At import, so that exported programs and those in the compilation cache find their calls.
_library()


def unavailable() -> str:
    """Returns why this implementation cannot run here; `""` if it can."""
    if current_platform() != "cpu":
        return f"it runs on CPUs; JAX's default backend is {current_platform()!r}"
    library = _library()
    return library if isinstance(library, str) else ""


def instruction_sets() -> tuple[str, ...]:
    """Returns the instruction sets of this processor, with the fastest (the default) first."""
    library = _library()
    if isinstance(library, str):
        return ()
    return tuple(library.bigbird_instruction_sets().decode().split(","))


def block_sparse_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array | np.ndarray, "B T"] | None = None,
    scale: float,
    instructions: str = "",
) -> Float[Array, "B T N H"]:
    """Follows the contract of the reference, except that T need not be a multiple of W.

    Args:
      instructions: One of `instruction_sets()`; "" means the fastest.

    Raises:
      NotImplementedError: If there is no library or no CPU, or the dtype is not supported.
      ValueError: If this processor cannot run `instructions`.
    """
    _check_call(q.dtype, instructions)
    static = _Static(float(scale), pattern.causal, True, pattern.block_size, instructions)
    return _attend(
        static, q, k, v, _mask_operand(mask), pattern.blocks, pattern.counts, pattern.global_rows
    )


def attend_last_rows(with_all_rows: Callable[..., Array]) -> Callable[..., Array]:
    """Returns the implementation for T queries that are the last of S tokens.

    Args:
      with_all_rows: The implementation for causal patterns, for which the kernel needs T = S.
    """

    def run(q, k, v, pattern: BlockPattern, *, mask, scale: float) -> Array:
        if pattern.causal:
            return with_all_rows(q, k, v, pattern, mask=mask, scale=scale)
        _check_call(q.dtype, "")
        query_mask = mask[:, k.shape[1] - q.shape[1] :]
        static = _Static(float(scale), False, False, pattern.block_size, "")
        lists = (pattern.blocks, pattern.counts, pattern.global_rows)
        out: Array = _attend(static, zero_masked(q, query_mask), k, v, mask, *lists)
        return zero_masked(out, query_mask)

    return run


def full_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    *,
    mask: Bool[Array | np.ndarray, "B S"] | None = None,
    causal: bool = False,
    scale: float,
    instructions: str = "",
) -> Float[Array, "B T N H"]:
    """Computes softmax(scale q k^T) v over the keys that the mask leaves: every row is global.

    Args:
      instructions: As in `block_sparse_attention`.

    Raises:
      NotImplementedError, ValueError: As in `block_sparse_attention`.
    """
    _check_call(q.dtype, instructions)
    rows = -(-q.shape[1] // _FULL_BLOCK_SIZE)
    lists = np.zeros((1, 1, rows, 1), np.int32)
    all_rows = np.arange(rows, dtype=np.int32)[None]
    static = _Static(float(scale), causal, False, _FULL_BLOCK_SIZE, instructions)
    return _attend(static, q, k, v, _mask_operand(mask), lists, lists, all_rows)


def _check_call(dtype, instructions: str) -> None:
    """Raises for a call that the kernel does not support."""
    reason = unavailable()
    if reason:
        raise NotImplementedError(f"the native CPU kernel is not available: {reason}")
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise NotImplementedError(
            f"the native CPU kernel takes float32 and bfloat16; got {dtype}: cast, or use "
            "implementation='xla'"
        )
    if instructions and instructions not in instruction_sets():
        raise ValueError(
            f"instructions must be one of {instruction_sets()} on this processor; "
            f"got {instructions!r}"
        )


def _mask_operand(mask):
    """Returns the mask as an operand of the call, for which an empty array means no mask."""
    return jnp.zeros((0, 0), bool) if mask is None else mask


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static, q, k, v, mask, blocks, counts, global_rows):
    lists = (jnp.asarray(x, jnp.int32) for x in (blocks, counts, global_rows))
    return _forward(static, q, k, v, mask, *lists)[0]


def _forward(static: _Static, q, *operands):
    batch, length, heads, _ = q.shape
    log_sum_exp = shape_like((batch, heads, length), jnp.float32, q)
    shapes = (shape_like(q.shape, q.dtype, q), log_sum_exp)
    return _call(FORWARD_TARGET, shapes, static, q, *operands)


def _forward_rule(static, q, k, v, mask, *lists):
    operands = (q, k, v, mask, *(jnp.asarray(x, jnp.int32) for x in lists))
    out, log_sum_exp = name_residuals(_forward(static, *operands))
    return out, (*operands, out, log_sum_exp)


def _backward_rule(static, saved, d_out):
    shapes = tuple(shape_like(x.shape, x.dtype, x) for x in saved[:3])
    d_q, d_k, d_v = _call(BACKWARD_TARGET, shapes, static, *saved, d_out)
    return d_q, d_k, d_v, None, None, None, None


_attend.defvjp(_forward_rule, _backward_rule)


def _call(target: str, shapes, static: _Static, *operands):
    """Makes one custom call. The library sees the leading axes that vmap adds as more examples."""
    call = jax.ffi.ffi_call(target, shapes, vmap_method="broadcast_all")
    return call(
        *operands,
        block_size=np.int64(static.block_size),
        causal=static.causal,
        mask_queries=static.mask_queries,
        scale=np.float64(static.scale),
        instructions=static.instructions,
    )
