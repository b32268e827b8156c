"""Block-sparse attention in plain JAX, for every device: time and memory linear in T.

Rows are visited in chunks by a loop; a chunk gathers the keys its rows list, so that the gathered
copy is as large as a chunk and not as the sequence. Global rows read the keys where they lie. The
backward pass visits the same chunks and recomputes their probabilities from the saved
log-sum-exp (Dao et al. 2022, arXiv 2205.14135, section 3.1): nothing gathered is ever kept.

Inside, arrays are `[B, N, M, W, H]`, whose blocks are contiguous.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention.numerics import MASKED_SCORE, MIN_ROW_MAX, zero_masked
from flax_bigbird.attention.patterns.block_pattern import BlockPattern
from flax_bigbird.attention.residuals import name_residuals


class _Static(NamedTuple):
    """What the loops are compiled for."""

    scale: float
    causal: bool
    block_size: int
    chunk: int  # rows a step visits


def block_sparse_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array, "B T"] | None = None,
    scale: float,
) -> Float[Array, "B T N H"]:
    """Same contract as the reference; T must be M*W."""
    size, num_blocks = pattern.block_size, pattern.num_blocks
    batch, _, heads, width = q.shape
    q, k, v = (zero_masked(x, mask) for x in (q, k, v))

    def to_blocks(x: Array) -> Array:
        return x.reshape(batch, num_blocks, size, heads, width).transpose(0, 3, 1, 2, 4)

    key_mask = None if mask is None else mask.reshape(batch, num_blocks, size)
    chunk = _rows_per_step(batch * heads * size * size * pattern.row_width)
    static = _Static(scale, pattern.causal, size, chunk)
    out: Array = _attend(static, to_blocks(q), to_blocks(k), to_blocks(v), pattern, key_mask)
    out = out.transpose(0, 2, 3, 1, 4).reshape(q.shape)
    return zero_masked(out, mask)


def _rows_per_step(scores_per_row: int) -> int:
    """Rows a step visits: enough to fill an accelerator, few enough to stay in a CPU's cache."""
    budget = 2**18 if jax.default_backend() == "cpu" else 2**27
    return max(1, budget // max(scores_per_row, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static, q, k, v, pattern, key_mask):
    return _forward(static, q, k, v, pattern, key_mask)[0]


def _forward(static, q, k, v, pattern, key_mask):
    """`(out, log-sum-exp)`, `[B, N, M, W, H]` and `[B, N, M, W]`."""
    steps = _split_rows(static, pattern)

    def visit(_, step):
        rows, blocks, counts = step
        scores = _scores(static, _take_rows(q, rows), _gather(k, blocks))
        scores += _bias(static, rows, blocks, counts, key_mask, scores.dtype)
        weights, total, top = _softmax_parts(scores)
        values = _gather(v, blocks)
        out = jnp.einsum(
            "bncws,bncsh->bncwh",
            weights.astype(v.dtype),
            values,
            preferred_element_type=scores.dtype,
        )
        out = out / jnp.where(total > 0, total, 1)[..., None]
        return None, (out.astype(q.dtype), _log_sum_exp(total, top))

    _, (out, lse) = lax.scan(visit, None, steps)
    num_blocks = pattern.num_blocks
    out, lse = _join_rows(static, pattern, out), _join_rows(static, pattern, lse)
    if pattern.global_rows.shape[-1]:
        scores = _global_scores(static, q, k, pattern, key_mask)
        weights, total, top = _softmax_parts(scores)
        rows_out = jnp.einsum(
            "bngwms,bnmsh->bngwh",
            weights.reshape(*weights.shape[:-1], num_blocks, -1).astype(v.dtype),
            v,
            preferred_element_type=scores.dtype,
        )
        rows_out = rows_out / jnp.where(total > 0, total, 1)[..., None]
        out = _put_rows(out, pattern.global_rows, rows_out.astype(out.dtype))
        lse = _put_rows(lse, pattern.global_rows, _log_sum_exp(total, top))
    return out, lse


def _forward_rule(static, q, k, v, pattern, key_mask):
    out, lse = name_residuals(_forward(static, q, k, v, pattern, key_mask))
    return out, (q, k, v, pattern, key_mask, out, lse)


def _backward_rule(static, saved, d_out):
    """dV = P^T dO, dP = dO V^T, dS = P (dP - sum(dO O)), dQ = s dS K, dK = s dS^T Q."""
    q, k, v, pattern, key_mask, out, lse = saved
    work = lse.dtype
    delta = (d_out.astype(work) * out.astype(work)).sum(-1)

    def gradients(scores, values, d_rows, lse_rows, delta_rows):
        weights = jnp.exp(scores - lse_rows[..., None])
        d_weights = jnp.einsum("bncwh,bncsh->bncws", d_rows, values, preferred_element_type=work)
        d_scores = weights * (d_weights - delta_rows[..., None]) * static.scale
        return weights.astype(q.dtype), d_scores.astype(q.dtype)

    def product(equation, x, y):
        return jnp.einsum(equation, x, y, preferred_element_type=work)

    def visit(carry, step):
        d_k, d_v = carry
        rows, blocks, counts = step
        q_rows, d_rows = _take_rows(q, rows), _take_rows(d_out, rows)
        keys, values = _gather(k, blocks), _gather(v, blocks)
        scores = _scores(static, q_rows, keys)
        scores += _bias(static, rows, blocks, counts, key_mask, scores.dtype)
        weights, d_scores = gradients(
            scores, values, d_rows, _take_rows(lse, rows), _take_rows(delta, rows)
        )
        d_q = product("bncws,bncsh->bncwh", d_scores, keys)
        d_k = _scatter_add(d_k, blocks, product("bncws,bncwh->bncsh", d_scores, q_rows))
        d_v = _scatter_add(d_v, blocks, product("bncws,bncwh->bncsh", weights, d_rows))
        return (d_k, d_v), d_q.astype(q.dtype)

    zeros = jnp.zeros(k.shape, work)
    (d_k, d_v), d_q = lax.scan(visit, (zeros, zeros), _split_rows(static, pattern))
    d_q = _join_rows(static, pattern, d_q)
    if pattern.global_rows.shape[-1]:
        rows = pattern.global_rows
        scores = _global_scores(static, q, k, pattern, key_mask)
        flat = (*k.shape[:2], 1, -1, k.shape[-1])
        q_rows, d_rows, lse_rows, delta_rows = (
            _take_global(x, rows) for x in (q, d_out, lse, delta)
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
        d_q = _put_rows(
            d_q, rows, rows_d_q.reshape(*k.shape[:2], -1, *k.shape[3:]).astype(d_q.dtype)
        )
        once = _listed_first(static, rows)
        q_rows, d_rows = jnp.where(once, q_rows, 0), jnp.where(once, d_rows, 0)
        d_k += product("bncws,bncwh->bncsh", d_scores, q_rows).reshape(k.shape)
        d_v += product("bncws,bncwh->bncsh", weights, d_rows).reshape(k.shape)
    return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


_attend.defvjp(_forward_rule, _backward_rule)


def _row_numbers(static: _Static, pattern: BlockPattern) -> np.ndarray:
    """`[S, C]`: the rows each step visits. Rows known to be global are left out; M is a filler."""
    rows = np.arange(pattern.num_blocks)
    if isinstance(pattern.global_rows, np.ndarray) and pattern.global_rows.shape[0] == 1:
        rows = np.setdiff1d(rows, pattern.global_rows)
    steps = max(1, -(-len(rows) // static.chunk))
    chunk = max(1, -(-len(rows) // steps))
    filler = np.full(steps * chunk - len(rows), pattern.num_blocks)
    return np.concatenate([rows, filler]).astype(np.int32).reshape(steps, chunk)


def _split_rows(static: _Static, pattern: BlockPattern):
    """The steps of the loop: `(rows [S, C], blocks, counts [S, #B, #N, C, K])`.

    A filler row stands for the last one and reads nothing, as do the lists of global rows.
    """
    numbers = _row_numbers(static, pattern)
    rows = np.minimum(numbers, pattern.num_blocks - 1)

    def split(x):
        x = x[:, :, rows.ravel()].reshape(*x.shape[:2], *rows.shape, x.shape[-1])
        return jnp.moveaxis(jnp.asarray(x), 2, 0)

    counts = pattern.counts
    if not isinstance(pattern.global_rows, np.ndarray) or pattern.global_rows.shape[0] > 1:
        row_ids = jnp.arange(pattern.num_blocks)[:, None]
        is_global = (jnp.asarray(pattern.global_rows)[:, None, :] == row_ids).any(-1)
        counts = jnp.where(is_global[:, None, :, None], 0, counts)
    filled = numbers < pattern.num_blocks
    counts = jnp.where(filled[:, None, None, :, None], split(counts), 0)
    return jnp.asarray(rows), split(pattern.blocks), counts


def _join_rows(static: _Static, pattern: BlockPattern, x: Array) -> Array:
    """`[S, B, N, C, ...]` back to `[B, N, M, ...]`; rows no step visited are arbitrary."""
    x = jnp.moveaxis(x, 0, 2)
    x = x.reshape(*x.shape[:2], -1, *x.shape[4:])
    numbers = _row_numbers(static, pattern).ravel()
    place = np.zeros(pattern.num_blocks + 1, np.int32)
    place[numbers] = np.arange(len(numbers))
    return jnp.take(x, place[:-1], axis=2)


def _take_rows(x: Array, rows: Array) -> Array:
    """`[B, N, M, ...]` at `[C]` rows: `[B, N, C, ...]`."""
    return jnp.take(x, rows, axis=2)


def _gather(x: Array, blocks: Array) -> Array:
    """Keys `[B, N, M, W, H]` of the listed blocks `[#B, #N, C, K]`: `[B, N, C, K*W, H]`."""
    flat = blocks.reshape(*blocks.shape[:2], -1)

    def pick(x, ids):
        return jnp.take(x, ids, axis=0)

    out = _per_document_and_head(pick, flat.shape, (0,))(x, _squeeze(flat))
    return out.reshape(*x.shape[:2], *blocks.shape[2:3], -1, x.shape[-1])


def _scatter_add(total: Array, blocks: Array, x: Array) -> Array:
    """Adds `[B, N, C, K*W, H]` onto the listed blocks of `[B, N, M, W, H]`."""
    flat = blocks.reshape(*blocks.shape[:2], -1)
    x = x.reshape(*total.shape[:2], flat.shape[-1], *total.shape[3:])

    def add(total, x, ids):
        return total.at[ids].add(x)

    return _per_document_and_head(add, flat.shape, (0, 0))(total, x, _squeeze(flat))


def _per_document_and_head(function, shape, axes):
    """Maps `function(*arrays, ids)` over B and N; ids shared over an axis of size 1 stay shared."""
    for size in (shape[1], shape[0]):
        function = jax.vmap(function, in_axes=(*axes, None if size == 1 else 0))
    return function


def _squeeze(flat: Array) -> Array:
    """Drops the leading axes of size 1 that `_per_document_and_head` shares."""
    return flat.reshape([n for n in flat.shape[:2] if n != 1] + [flat.shape[-1]])


def _scores(static: _Static, q_rows: Array, keys: Array) -> Array:
    dtype = jnp.promote_types(q_rows.dtype, jnp.float32)
    scores = jnp.einsum("bncwh,bncsh->bncws", q_rows, keys, preferred_element_type=dtype)
    return scores * static.scale


def _bias(static, rows, blocks, counts, key_mask, dtype) -> Array:
    """log c for a key that is read c times, a large negative number for one that is not.

    `[#B, #N, C, 1 or W, K*W]`.
    """
    log_count = jnp.where(counts > 0, jnp.log(jnp.maximum(counts, 1).astype(dtype)), MASKED_SCORE)
    bias = log_count[..., None]  # [#B, #N, C, K, 1]
    size = static.block_size
    if key_mask is not None:
        ids = jnp.broadcast_to(blocks, (key_mask.shape[0], *blocks.shape[1:]))
        seen = jax.vmap(lambda mask, ids: mask[ids])(key_mask, ids)
        bias = jnp.where(seen, bias, MASKED_SCORE)
    bias = jnp.broadcast_to(bias, (*bias.shape[:-1], size))
    bias = bias.reshape(*bias.shape[:3], 1, -1)
    if static.causal:
        within = jnp.arange(size)
        keys = (blocks[..., None] * size + within).reshape(*blocks.shape[:3], 1, -1)
        queries = (rows[:, None] * size + within)[..., None]
        bias = jnp.where(keys <= queries, bias, MASKED_SCORE)
    return bias


def _global_scores(static: _Static, q, k, pattern: BlockPattern, key_mask) -> Array:
    """Scores of the global rows with every key: `[B, N, G, W, S]`."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    q_rows = _take_global(q, pattern.global_rows)
    scores = jnp.einsum("bngwh,bnmsh->bngwms", q_rows, k, preferred_element_type=dtype)
    scores = scores.reshape(*scores.shape[:4], -1) * static.scale
    if key_mask is not None:
        seen = key_mask.reshape(key_mask.shape[0], 1, 1, 1, -1)
        scores = jnp.where(seen, scores, MASKED_SCORE)
    if static.causal:
        within = jnp.arange(static.block_size)
        queries = jnp.asarray(pattern.global_rows)[..., None] * static.block_size + within
        keys = jnp.arange(scores.shape[-1])
        scores = jnp.where(keys <= queries[:, None, :, :, None], scores, MASKED_SCORE)
    return scores


def _take_global(x: Array, rows) -> Array:
    """`[B, N, M, ...]` at the global rows `[#B, G]`: `[B, N, G, ...]`."""
    if rows.shape[0] == 1:
        return x[:, :, rows[0]]
    return jax.vmap(lambda x, rows: x[:, rows])(x, jnp.asarray(rows))


def _put_rows(x: Array, rows, value: Array) -> Array:
    """Writes `[B, N, G, ...]` over the global rows `[#B, G]` of `[B, N, M, ...]`."""
    if rows.shape[0] == 1:
        return x.at[:, :, rows[0]].set(value)
    return jax.vmap(lambda x, rows, value: x.at[:, rows].set(value))(x, jnp.asarray(rows), value)


def _listed_first(static: _Static, rows) -> Array:
    """`[#B, 1, 1, G*W, 1]`: False at queries of a global row that is listed before already.

    A short document's first and last block may be one row; keys get its gradient once.
    """
    earlier = jnp.tril(rows[:, :, None] == rows[:, None, :], -1).any(-1)
    return jnp.repeat(~earlier, static.block_size, -1)[:, None, None, :, None]


def _softmax_parts(scores: Array) -> tuple[Array, Array, Array]:
    """`(weights, total, top)`: e^(score - top), their sum, and the row's maximum."""
    top = jnp.maximum(scores.max(-1), MIN_ROW_MAX)
    weights = jnp.exp(scores - top[..., None])
    return weights, weights.sum(-1), top


def _log_sum_exp(total: Array, top: Array) -> Array:
    """0 for a row that reads nothing: its scores are so low that the weights stay 0."""
    return jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1)), 0)
