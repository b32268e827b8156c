"""Tests whether an accelerator kernel works on this machine, with one small trial call.

A kernel may fail to compile on a driver, a chip or a release of JAX that it was never run on. It
then declines with the reason, and another implementation takes the call.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from flax_bigbird._messages import first_line
from flax_bigbird.attention.backends import reference
from flax_bigbird.attention.patterns.bigbird import bigbird_pattern

_BATCH, _HEADS, _HEAD_WIDTH = 2, 2, 64
_TOLERANCE = 0.1  # of the largest entry; bfloat16 on random inputs stays below a fifth of it


def block_sparse_failure(run: Callable[..., Array]) -> str:
    """Returns why the trial call of a block-sparse implementation failed, or `""`."""
    pattern = bigbird_pattern(8, 16)

    def attend(run, q, k, v, mask):
        return run(q, k, v, pattern, mask=mask, scale=q.shape[-1] ** -0.5)

    tested, expected = (
        functools.partial(attend, function) for function in (run, reference.block_sparse_attention)
    )
    return failure(tested, expected, pattern.num_blocks * pattern.block_size)


def failure(
    attend: Callable[[Array, Array, Array, Array], Array],
    expected: Callable[[Array, Array, Array, Array], Array],
    length: int,
) -> str:
    """Compares an implementation with a correct one, forward and backward.

    Args:
      attend: The implementation: q, k, v `[B, T, N, H]` and a mask `[B, T]` to `[B, T, N, H]`.
      expected: The correct one.
      length: T, in tokens.

    Returns:
      What is wrong with `attend`; `""` if nothing is.
    """
    rng = np.random.default_rng(0)
    shape = (_BATCH, length, _HEADS, _HEAD_WIDTH)
    arrays = [rng.standard_normal(shape, np.float32) for _ in range(4)]
    mask = np.arange(length) < np.array([[length], [length // 2 + 3]])

    def run(function, dtype):
        real = mask[:, :, None, None].astype(dtype)

        def output_and_gradients(q, k, v, d_out):
            out, pull = jax.vjp(lambda *x: function(*x, jnp.asarray(mask)), q, k, v)
            return [out * real, *pull(d_out)]  # the output of a masked query is unspecified

        inputs = [jnp.asarray(x, jnp.bfloat16).astype(dtype) for x in arrays]
        inputs[3] = inputs[3] * real
        return [np.asarray(x, np.float32) for x in jax.jit(output_and_gradients)(*inputs)]

    # The caller may be tracing a program. A trace belongs to a thread, so this runs in another one.
    with ThreadPoolExecutor(1) as thread:
        try:
            got = thread.submit(run, attend, jnp.bfloat16).result()
        except Exception as error:  # a compiler may raise anything
            return f"a trial call failed: {type(error).__name__}: {first_line(error)}"
        want = thread.submit(run, expected, jnp.float32).result()
    for name, ours, theirs in zip(("output", "dq", "dk", "dv"), got, want, strict=True):
        difference = np.abs(ours - theirs).max()
        if not difference <= _TOLERANCE * np.abs(theirs).max():
            return f"a trial call gave a wrong {name}: it differs by {difference:.2g}"
    return ""
