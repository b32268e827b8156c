"""Block-sparse and full attention by the native CPU kernel of `csrc/`, with its gradient.

One XLA custom call reads q, k and v where they lie, keeps tiles of scores in cache (online
softmax, Milakov and Gimelshein 2018, arXiv 1805.02867) and writes the output and the log-sum-exp;
another computes the three gradients from those. Threads are XLA's own, and results have the same
bits for any number of them. The library is built when the package is installed and a compiler is
there; without it this implementation declines.
"""

import ctypes
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention.patterns.block_pattern import BlockPattern
from flax_bigbird.attention.residuals import name_residuals

FORWARD_TARGET = "flax_bigbird_attention"
BACKWARD_TARGET = "flax_bigbird_attention_gradient"

_FULL_BLOCK = 64  # tokens a row or block of full attention: the kernel's tile


class _Static(NamedTuple):
    """The attributes of the calls."""

    scale: float
    causal: bool
    mask_queries: bool
    block_size: int
    instructions: str


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The library with its calls registered, or the reason why it cannot be had."""
    files = sorted(Path(__file__).parent.glob("_cpu*.so"))
    if not files:
        return (
            "the native library was not built: install flax-bigbird where a C++17 compiler is "
            "found (from a checkout: `pip install .`)"
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


# At import, so that exported programs and those of the compilation cache find their calls.
_library()


def unavailable() -> str:
    """Why this implementation cannot run here; `""` if it can."""
    if jax.default_backend() != "cpu":
        return f"it runs on CPUs; JAX's default backend is {jax.default_backend()!r}"
    library = _library()
    return library if isinstance(library, str) else ""


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that this processor can run, the fastest (the default) first."""
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
    mask: Bool[Array, "B T"] | None = None,
    scale: float,
    instructions: str = "",
) -> Float[Array, "B T N H"]:
    """Same contract as the reference; the last row may be part full.

    Args:
      instructions: one of `instruction_sets()`; "" is the fastest.

    Raises:
      NotImplementedError: no library, no CPU, or a dtype other than float32 and bfloat16.
      ValueError: this processor cannot run `instructions`.
    """
    _check_call(q.dtype, instructions)
    static = _Static(float(scale), pattern.causal, True, pattern.block_size, instructions)
    return _attend(
        static, q, k, v, _given(mask), pattern.blocks, pattern.counts, pattern.global_rows
    )


def full_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    *,
    mask: Bool[Array, "B S"] | None = None,
    causal: bool = False,
    scale: float,
    instructions: str = "",
) -> Float[Array, "B T N H"]:
    """Every query reads every key that the mask leaves: all rows of blocks are global.

    Raises:
      NotImplementedError, ValueError: as `block_sparse_attention`.
    """
    _check_call(q.dtype, instructions)
    rows = -(-q.shape[1] // _FULL_BLOCK)
    lists = np.zeros((1, 1, rows, 1), np.int32)
    every = np.arange(rows, dtype=np.int32)[None]
    static = _Static(float(scale), causal, False, _FULL_BLOCK, instructions)
    return _attend(static, q, k, v, _given(mask), lists, lists, every)


def _check_call(dtype, instructions: str) -> None:
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


def _given(mask: Bool[Array, "B S"] | None) -> Bool[Array, "B S"]:
    return jnp.zeros((0, 0), bool) if mask is None else mask  # the call's way of saying none


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static, q, k, v, mask, blocks, counts, global_rows):
    lists = (jnp.asarray(x, jnp.int32) for x in (blocks, counts, global_rows))
    return _forward(static, q, k, v, mask, *lists)[0]


def _forward(static: _Static, q, *operands):
    batch, length, heads, _ = q.shape
    log_sum_exp = jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)
    shapes = (jax.ShapeDtypeStruct(q.shape, q.dtype), log_sum_exp)
    return _call(FORWARD_TARGET, shapes, static, q, *operands)


def _forward_rule(static, q, k, v, mask, *lists):
    operands = (q, k, v, mask, *(jnp.asarray(x, jnp.int32) for x in lists))
    out, log_sum_exp = name_residuals(_forward(static, *operands))
    return out, (*operands, out, log_sum_exp)


def _backward_rule(static, saved, d_out):
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in saved[:3])
    d_q, d_k, d_v = _call(BACKWARD_TARGET, shapes, static, *saved, d_out)
    return d_q, d_k, d_v, None, None, None, None


_attend.defvjp(_forward_rule, _backward_rule)


def _call(target: str, shapes, static: _Static, *operands):
    """One custom call; axes that vmap adds stay in front and become documents in the library."""
    call = jax.ffi.ffi_call(target, shapes, vmap_method="broadcast_all")
    return call(
        *operands,
        block_size=np.int64(static.block_size),
        causal=static.causal,
        mask_queries=static.mask_queries,
        scale=np.float64(static.scale),
        instructions=static.instructions,
    )
