"""The three TPU kernels of block-sparse attention: outputs, query gradients, key gradients."""

import functools

import jax
import jax.numpy as jnp

from flax_bigbird.attention.backends.mosaic_tpu_program import (
    Kernel,
    ScalarWorkList,
    Step,
    dot,
    launch,
)
from flax_bigbird.attention.backends.mosaic_tpu_program import KernelShape as KernelShape
from flax_bigbird.attention.manual_axes import shape_like
from flax_bigbird.attention.numerics import MIN_ROW_MAX
from flax_bigbird.attention.residuals import name_residuals


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(shape, q, k, v, mask, key_bias, rows, columns):
    """Computes attention of `[B, N, T, H]` arrays with its gradient.

    Args:
      shape: The `KernelShape`.
      q, k, v: Queries, keys and values, 0 where the mask is False.
      mask: `[B, T]` booleans, or None.
      key_bias: `[B, M, 1, W]` float32, added to the scores of each key: 0, or very low where the
        mask is False. None without a mask.
      rows, columns: The `ScalarWorkList` of the pattern and of its transpose.
    """
    return _forward(shape, q, k, v, key_bias, rows)[0]


def _forward(shape: KernelShape, q, k, v, key_bias, rows: ScalarWorkList):
    """Returns the output `[B, N, T, H]` and the log-sum-exp `[B, N, M, 1, W]`."""
    size, width = shape.block_size, shape.head_width
    log_sum = shape_like((*q.shape[:2], shape.length // size, 1, size), jnp.float32, q)
    return launch(
        _ATTENTION,
        shape,
        rows,
        target_arrays=(q,),
        source_arrays=(k, v, *(() if key_bias is None else (key_bias,))),
        outputs=(shape_like(q.shape, q.dtype, q), log_sum),
        scratch=((MIN_ROW_MAX, (size, 1)), (0.0, (size, 1)), (0.0, (size, width))),
    )


def _forward_rule(shape, q, k, v, mask, key_bias, rows, columns):
    out, log_sum = name_residuals(_forward(shape, q, k, v, key_bias, rows))
    return out, (q, k, v, mask, key_bias, rows, columns, out, log_sum)


def _backward_rule(shape, saved, d_out):
    """Computes dV = P^T dO, dP = dO V^T, dS = P (dP - sum(dO O)), dQ = s dS K, dK = s dS^T Q."""
    q, k, v, mask, key_bias, rows, columns, out, log_sum = saved
    unmasked = None if mask is None else mask[:, None, :, None]
    if unmasked is not None:
        d_out = jnp.where(unmasked, d_out, jnp.zeros((), d_out.dtype))
    delta = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1).reshape(log_sum.shape)
    like = shape_like(q.shape, q.dtype, q)
    accumulated = (0.0, (shape.block_size, shape.head_width))
    (d_q,) = launch(
        _QUERY_GRADIENTS,
        shape,
        rows,
        target_arrays=(q, d_out, log_sum, delta),
        source_arrays=(k, v, *(() if key_bias is None else (key_bias,))),
        outputs=(like,),
        scratch=(accumulated,),
    )
    d_k, d_v = launch(
        _KEY_GRADIENTS,
        shape,
        columns,
        target_arrays=(k, v),
        source_arrays=(q, d_out, log_sum, delta),
        outputs=(like, like),
        scratch=(accumulated, accumulated),
    )
    if unmasked is not None:  # the kernel computes them as if the mask did not hide the key
        d_k, d_v = (jnp.where(unmasked, x, jnp.zeros((), x.dtype)) for x in (d_k, d_v))
    return d_q, d_k, d_v, None, None, None, None


attend.defvjp(_forward_rule, _backward_rule)


def _add_to_output(step: Step) -> None:
    """Updates the maximum, the sum of the weights and the weighted values of some queries."""
    max_ref, total_ref, out_ref = step.accumulated
    scores = [step.scores(c) for c in range(len(step.sources))]
    row_max = max_ref[...]
    for block in scores:
        row_max = jnp.maximum(row_max, block.max(-1, keepdims=True))
    rescale = jnp.exp(max_ref[...] - row_max)
    total, out = total_ref[...] * rescale, out_ref[...] * rescale
    for block, (_, v, *_) in zip(scores, step.sources, strict=True):
        weights = jnp.exp(block - row_max)
        total = total + weights.sum(-1, keepdims=True)
        out = out + dot(weights.astype(v.dtype), v[...], (1, 0))
    max_ref[...], total_ref[...], out_ref[...] = row_max, total, out


def _write_output(shape: KernelShape, accumulated, out_ref, log_sum_ref) -> None:
    row_max, total, out = (ref[...] for ref in accumulated)
    divisor = jnp.where(total > 0, total, 1.0)
    out_ref[...] = (out / divisor).astype(out_ref.dtype)
    log_sum_ref[...] = jnp.where(total > 0, row_max + jnp.log(divisor), 0.0).T


def _add_to_query_gradients(step: Step) -> None:
    d_out = step.target[1][...]
    log_sum, delta = (ref[...].T for ref in step.target[2:])
    d_q = step.accumulated[0][...]
    for c, (k, v, *_) in enumerate(step.sources):
        weights = jnp.exp(step.scores(c) - log_sum)
        d_scores = weights * (dot(d_out, v[...], (1, 1)) - delta)
        d_q = d_q + dot(d_scores.astype(k.dtype), k[...], (1, 0))
    step.accumulated[0][...] = d_q


def _write_query_gradients(shape: KernelShape, accumulated, d_q_ref) -> None:
    d_q_ref[...] = (accumulated[0][...] * shape.scale).astype(d_q_ref.dtype)


def _add_to_key_gradients(step: Step) -> None:
    """Computes scores transposed, `[keys, queries]`, so that no weights need a transposition."""
    k, v = (ref[...] for ref in step.target)
    d_k, d_v = (ref[...] for ref in step.accumulated)
    for c, refs in enumerate(step.sources):
        q, d_out, log_sum, delta = (ref[...] for ref in refs)
        scores = dot(k, q, (1, 1)) * step.shape.scale + step.log_counts[c]
        scores = step.hide_later(scores, step.source_blocks[c], step.target_block, 1)
        weights = jnp.exp(scores - log_sum)
        d_scores = weights * (dot(v, d_out, (1, 1)) - delta)
        d_k = d_k + dot(d_scores.astype(q.dtype), q, (1, 0))
        d_v = d_v + dot(weights.astype(d_out.dtype), d_out, (1, 0))
    step.accumulated[0][...], step.accumulated[1][...] = d_k, d_v


def _write_key_gradients(shape: KernelShape, accumulated, d_k_ref, d_v_ref) -> None:
    d_k_ref[...] = (accumulated[0][...] * shape.scale).astype(d_k_ref.dtype)
    d_v_ref[...] = accumulated[1][...].astype(d_v_ref.dtype)


_ATTENTION = Kernel("bigbird_attention", _add_to_output, _write_output)
_QUERY_GRADIENTS = Kernel(
    "bigbird_query_gradients", _add_to_query_gradients, _write_query_gradients
)
_KEY_GRADIENTS = Kernel("bigbird_key_gradients", _add_to_key_gradients, _write_key_gradients)
