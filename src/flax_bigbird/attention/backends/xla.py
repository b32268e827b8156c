"""Block-sparse attention in plain JAX, for every device: time and memory are linear in T.

A loop visits the rows in chunks. A chunk gathers the keys that its rows list, so that the size of
the copy is that of a chunk and not of the sequence. Global rows read the keys in place. The
backward pass visits the same chunks and recomputes their probabilities from the saved log-sum-exp
(Dao et al. 2022, arXiv 2205.14135, section 3.1): gathered keys are not saved.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention.backends.xla_rows import (
    LoopConfig,
    gather,
    global_scores,
    is_first_occurrence,
    join_rows,
    log_sum_exp,
    put_global_rows,
    row_bias,
    row_scores,
    scatter_add,
    split_rows,
    take_global_rows,
    take_rows,
)
from flax_bigbird.attention.eager import compile_eager
from flax_bigbird.attention.manual_axes import vary_together
from flax_bigbird.attention.numerics import softmax_parts, zero_masked
from flax_bigbird.attention.patterns.block_pattern import BlockPattern
from flax_bigbird.attention.platform import current_platform
from flax_bigbird.attention.residuals import name_residuals


def block_sparse_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array | np.ndarray, "B S"] | None = None,
    scale: float,
) -> Float[Array, "B T N H"]:
    """Follows the contract of the reference, except that queries may be fewer than keys.

    The T = M*W queries are then the last of the S tokens, and no row is global.
    """
    static = (float(scale), _score_budget())
    return compile_eager(_block_sparse_attention, static, q, k, v, pattern, mask)


def _block_sparse_attention(scale: float, budget: int, q, k, v, pattern, mask) -> Array:
    """Computes attention with at most `budget` scores per step of the loop."""
    size = pattern.block_size
    batch, length, heads, width = q.shape
    query_mask = None if mask is None else mask[:, k.shape[1] - length :]
    q, k, v = zero_masked(q, query_mask), zero_masked(k, mask), zero_masked(v, mask)

    def to_blocks(x: Array) -> Array:
        return x.reshape(batch, x.shape[1] // size, size, heads, width).transpose(0, 3, 1, 2, 4)

    key_mask = None if mask is None else mask.reshape(batch, k.shape[1] // size, size)
    examples = batch if isinstance(batch, int) else 1  # a symbolic batch of `jax.export`
    scores_per_row = examples * heads * size * size * pattern.row_width
    chunk = max(1, budget // max(scores_per_row, 1))
    first_row = k.shape[1] // size - pattern.num_blocks
    config = LoopConfig(scale, pattern.causal, size, chunk, first_row)
    out: Array = _attend(config, to_blocks(q), to_blocks(k), to_blocks(v), pattern, key_mask)
    out = out.transpose(0, 2, 3, 1, 4).reshape(q.shape)
    return zero_masked(out, query_mask)


def _score_budget() -> int:
    """Returns how many scores saturate an accelerator, or fit into the cache of a CPU."""
    return 2**18 if current_platform() == "cpu" else 2**27


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(config, q, k, v, pattern, key_mask):
    return _forward(config, q, k, v, pattern, key_mask)[0]


def _forward(config, q, k, v, pattern, key_mask):
    """Returns the output `[B, N, M, W, H]` and the log-sum-exp `[B, N, M, W]`."""
    steps = split_rows(config, pattern)

    def visit(_, step):
        rows, blocks, counts = step
        scores = row_scores(config, take_rows(q, rows), gather(k, blocks))
        scores += row_bias(config, rows, blocks, counts, key_mask, scores.dtype)
        weights, total, row_max = softmax_parts(scores)
        values = gather(v, blocks)
        out = jnp.einsum(
            "bncws,bncsh->bncwh",
            weights.astype(v.dtype),
            values,
            preferred_element_type=scores.dtype,
        )
        out = out / jnp.where(total > 0, total, 1)[..., None]
        return None, (out.astype(q.dtype), log_sum_exp(total, row_max))

    _, (out, lse) = lax.scan(visit, None, steps)
    num_blocks = pattern.num_blocks
    out, lse = join_rows(config, pattern, out), join_rows(config, pattern, lse)
    if pattern.global_rows.shape[-1]:
        scores = global_scores(config, q, k, pattern, key_mask)
        weights, total, row_max = softmax_parts(scores)
        rows_out = jnp.einsum(
            "bngwms,bnmsh->bngwh",
            weights.reshape(*weights.shape[:-1], num_blocks, -1).astype(v.dtype),
            v,
            preferred_element_type=scores.dtype,
        )
        rows_out = rows_out / jnp.where(total > 0, total, 1)[..., None]
        out = put_global_rows(out, pattern.global_rows, rows_out.astype(out.dtype))
        lse = put_global_rows(lse, pattern.global_rows, log_sum_exp(total, row_max))
    return out, lse


def _forward_rule(config, q, k, v, pattern, key_mask):
    out, lse = name_residuals(_forward(config, q, k, v, pattern, key_mask))
    return out, (q, k, v, pattern, key_mask, out, lse)


def _backward_rule(config, saved, d_out):
    """Computes dV = P^T dO, dP = dO V^T, dS = P (dP - sum(dO O)), dQ = s dS K, dK = s dS^T Q."""
    q, k, v, pattern, key_mask, out, lse = saved
    dtype = lse.dtype
    delta = (d_out.astype(dtype) * out.astype(dtype)).sum(-1)

    def gradients(scores, values, d_rows, lse_rows, delta_rows):
        weights = jnp.exp(scores - lse_rows[..., None])
        d_weights = jnp.einsum("bncwh,bncsh->bncws", d_rows, values, preferred_element_type=dtype)
        d_scores = weights * (d_weights - delta_rows[..., None]) * config.scale
        return weights.astype(q.dtype), d_scores.astype(q.dtype)

    def product(equation, x, y):
        return jnp.einsum(equation, x, y, preferred_element_type=dtype)

    def visit(carry, step):
        d_k, d_v = carry
        rows, blocks, counts = step
        q_rows, d_rows = take_rows(q, rows), take_rows(d_out, rows)
        keys, values = gather(k, blocks), gather(v, blocks)
        scores = row_scores(config, q_rows, keys)
        scores += row_bias(config, rows, blocks, counts, key_mask, scores.dtype)
        weights, d_scores = gradients(
            scores, values, d_rows, take_rows(lse, rows), take_rows(delta, rows)
        )
        d_q = product("bncws,bncsh->bncwh", d_scores, keys)
        d_k = scatter_add(d_k, blocks, product("bncws,bncwh->bncsh", d_scores, q_rows))
        d_v = scatter_add(d_v, blocks, product("bncws,bncwh->bncsh", weights, d_rows))
        return (d_k, d_v), d_q.astype(q.dtype)

    zeros, _ = vary_together(jnp.zeros(k.shape, dtype), k)
    (d_k, d_v), d_q = lax.scan(visit, (zeros, zeros), split_rows(config, pattern))
    d_q = join_rows(config, pattern, d_q)
    if pattern.global_rows.shape[-1]:
        rows = pattern.global_rows
        scores = global_scores(config, q, k, pattern, key_mask)
        flat = (*k.shape[:2], 1, -1, k.shape[-1])
        q_rows, d_rows, lse_rows, delta_rows = (
            take_global_rows(x, rows) for x in (q, d_out, lse, delta)
        )
        # All global rows are one long row of G*W queries here.
        join = (*k.shape[:2], 1, -1)
        q_rows, d_rows = q_rows.reshape(flat), d_rows.reshape(flat)
        weights, d_scores = gradients(
            scores.reshape(*join, scores.shape[-1]),
            v.reshape(flat),
            d_rows,
            lse_rows.reshape(join),
            delta_rows.reshape(join),
        )
        rows_d_q = product("bncws,bncsh->bncwh", d_scores, k.reshape(flat))
        d_q = put_global_rows(
            d_q, rows, rows_d_q.reshape(*k.shape[:2], -1, *k.shape[3:]).astype(d_q.dtype)
        )
        once = is_first_occurrence(config, rows)
        q_rows, d_rows = jnp.where(once, q_rows, 0), jnp.where(once, d_rows, 0)
        d_k += product("bncws,bncwh->bncsh", d_scores, q_rows).reshape(k.shape)
        d_v += product("bncws,bncwh->bncsh", weights, d_rows).reshape(k.shape)
    return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


_attend.defvjp(_forward_rule, _backward_rule)
