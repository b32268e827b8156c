"""Whether an accelerator's attention works on this machine: tried once, on a small call.

A kernel may fail to compile on a driver, a chip or a release of JAX that nobody has tried yet. It
then declines, with the reason, and another implementation takes the call.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from flax_bigbird.attention.backends import reference
from flax_bigbird.attention.patterns.bigbird import bigbird_pattern

_DOCUMENTS, _HEADS, _WIDTH = 2, 2, 64
_TOLERANCE = 0.1  # of the largest entry: bfloat16 on random inputs stays below a fifth of it


def sparse_fault(run: Callable[..., Array]) -> str:
    """What is wrong with an implementation of block-sparse attention; `""` if nothing is."""
    pattern = bigbird_pattern(8, 16)

    def attend(run, q, k, v, mask):
        return run(q, k, v, pattern, mask=mask, scale=q.shape[-1] ** -0.5)

    tried, expected = (
        functools.partial(attend, function) for function in (run, reference.block_sparse_attention)
    )
    return fault(tried, expected, pattern.num_blocks * pattern.block_size)


def fault(
    attend: Callable[[Array, Array, Array, Array], Array],
    expected: Callable[[Array, Array, Array, Array], Array],
    tokens: int,
) -> str:
    """What is wrong with `attend`, forward and backward, beside `expected`; `""` if nothing is.

    Args:
      attend, expected: (q, k, v `[B, T, N, H]`, mask `[B, T]`) -> `[B, T, N, H]`.
      tokens: T.
    """
    rng = np.random.default_rng(0)
    shape = (_DOCUMENTS, tokens, _HEADS, _WIDTH)
    arrays = [rng.standard_normal(shape, np.float32) for _ in range(4)]
    mask = np.arange(tokens) < np.array([[tokens], [tokens // 2 + 3]])

    def run(function, dtype):
        def all_of(q, k, v, d_out):
            out, pull = jax.vjp(lambda *x: function(*x, jnp.asarray(mask)), q, k, v)
            # Of a masked query no output is promised.
            return [out * mask[:, :, None, None].astype(dtype), *pull(d_out)]

        given = [jnp.asarray(x, jnp.bfloat16).astype(dtype) for x in arrays]
        given[3] = given[3] * mask[:, :, None, None].astype(dtype)
        return [np.asarray(x, np.float32) for x in jax.jit(all_of)(*given)]

    # A program may be being traced, and traces belong to a thread: this is computed in another.
    with ThreadPoolExecutor(1) as thread:
        try:
            got = thread.submit(run, attend, jnp.bfloat16).result()
        except Exception as error:  # whatever a compiler raises
            lines = f"{type(error).__name__}: {error}".strip().splitlines()
            return f"a trial call failed: {lines[0][:300]}"
        wanted = thread.submit(run, expected, jnp.float32).result()
    for name, ours, theirs in zip(("output", "dq", "dk", "dv"), got, wanted, strict=True):
        worst = np.abs(ours - theirs).max()
        if not worst <= _TOLERANCE * np.abs(theirs).max():
            return f"a trial call gave a wrong {name}: it differs by {worst:.2g}"
    return ""
