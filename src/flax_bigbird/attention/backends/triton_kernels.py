"""The three Triton kernels of block-sparse attention: outputs, query gradients, key gradients."""

import functools

import jax
import jax.numpy as jnp

from flax_bigbird.attention.backends.triton_program import KernelShape as KernelShape
from flax_bigbird.attention.backends.triton_program import Program, column, dot, row
from flax_bigbird.attention.backends.work_lists import WorkList
from flax_bigbird.attention.manual_axes import shape_like
from flax_bigbird.attention.numerics import MIN_ROW_MAX
from flax_bigbird.attention.residuals import name_residuals


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(shape, q, k, v, mask, rows, columns):
    """Computes attention with its gradient.

    Args:
      shape: The `KernelShape`.
      q, k, v: `[B, T, N, H]`, 0 at padding.
      mask: `[B, T]` int8, 0 at padding; or None.
      rows, columns: The `WorkList` of the pattern and of its transpose, of JAX arrays.
    """
    return _forward(shape, q, k, v, mask, rows)[0]


def _forward(shape: KernelShape, q, k, v, mask, rows: WorkList):
    """Returns the output `[B, T, N, H]` and the base 2 log-sum-exp `[B, N, T]`."""
    log_sum = shape_like((shape.batch, shape.heads, shape.length), jnp.float32, q)
    outputs = (shape_like(q.shape, q.dtype, q), log_sum)
    return _Attention(shape, (q, k, v), mask, rows).launch(outputs)


def _forward_rule(shape, q, k, v, mask, rows, columns):
    out, log_sum = name_residuals(_forward(shape, q, k, v, mask, rows))
    return out, (q, k, v, mask, rows, columns, out, log_sum)


def _backward_rule(shape, saved, d_out):
    """Computes dV = P^T dO, dP = dO V^T, dS = P (dP - sum(dO O)), dQ = s dS K, dK = s dS^T Q."""
    q, k, v, mask, rows, columns, out, log_sum = saved
    if mask is not None:
        d_out = jnp.where(mask[:, :, None, None] != 0, d_out, jnp.zeros((), d_out.dtype))
    delta = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1).swapaxes(1, 2)
    arrays = (q, k, v, d_out, log_sum, delta)
    like = shape_like(q.shape, q.dtype, q)
    (d_q,) = _QueryGradients(shape, arrays, mask, rows).launch((like,))
    d_k, d_v = _KeyGradients(shape, arrays, mask, columns).launch((like, like))
    return d_q, d_k, d_v, None, None, None


attend.defvjp(_forward_rule, _backward_rule)


class _Attention(Program):
    """The output of a row of queries, over the key blocks that it reads.

    It accumulates the maximum, the sum of the weights and the weighted values.
    """

    name = "attention"

    def load_target(self, tokens):
        return self.load_tile(self.arrays[0], tokens), tokens

    def empty(self):
        row_max = jnp.full((self.shape.tile,), MIN_ROW_MAX, jnp.float32)
        total = jnp.zeros((self.shape.tile,), jnp.float32)
        return row_max, total, jnp.zeros((self.shape.tile, self.shape.channels), jnp.float32)

    def add_source(self, target, source, accumulated):
        tokens, log_count = source
        keys, values = (self.load_tile(x, tokens) for x in self.arrays[1:])
        scores = self.scores(target, (keys, tokens), log_count)
        row_max = jnp.maximum(accumulated[0], scores.max(-1))
        weights = jnp.exp2(scores - column(row_max))
        rescale = jnp.exp2(accumulated[0] - row_max)
        total = accumulated[1] * rescale + weights.sum(-1)
        out = accumulated[2] * column(rescale) + dot(weights.astype(values.dtype), values)
        return row_max, total, out

    def merge(self, one, other):
        row_max = jnp.maximum(one[0], other[0])
        rescale = [jnp.exp2(part[0] - row_max) for part in (one, other)]
        total = one[1] * rescale[0] + other[1] * rescale[1]
        return row_max, total, one[2] * column(rescale[0]) + other[2] * column(rescale[1])

    def outputs(self, target, accumulated):
        row_max, total, out = accumulated
        divisor = jnp.where(total > 0, total, 1.0)
        out = out / column(divisor)
        if self.mask is not None:
            unmasked = self.load_vector(self.mask, target[1]) != 0
            out = jnp.where(column(unmasked), out, 0.0)
        return out, jnp.where(total > 0, row_max + jnp.log2(divisor), 0.0)


class _QueryGradients(Program):
    """The gradient of a row of queries, over the key blocks that it reads."""

    name = "query_gradients"

    def load_target(self, tokens):
        q, _, _, d_out, log_sum, delta = self.arrays
        vectors = [column(self.load_vector(x, tokens)) for x in (log_sum, delta)]
        return (self.load_tile(q, tokens), tokens), self.load_tile(d_out, tokens), vectors

    def empty(self):
        return (jnp.zeros((self.shape.tile, self.shape.channels), jnp.float32),)

    def add_source(self, target, source, accumulated):
        queries, d_out, (log_sum, delta) = target
        tokens, log_count = source
        keys, values = (self.load_tile(x, tokens) for x in self.arrays[1:3])
        weights = jnp.exp2(self.scores(queries, (keys, tokens), log_count) - log_sum)
        d_scores = weights * (dot(d_out, values, transpose=True) - delta)
        return (accumulated[0] + dot(d_scores.astype(keys.dtype), keys),)

    def outputs(self, target, accumulated):
        return (accumulated[0] * self.shape.scale,)


class _KeyGradients(Program):
    """The gradients of a block of keys and values, over the rows of queries that read it.

    Scores are computed transposed, so that no tile of weights needs a transposition.
    """

    name = "key_gradients"

    def load_target(self, tokens):
        keys, values = (self.load_tile(x, tokens) for x in self.arrays[1:3])
        return (keys, tokens), values

    def empty(self):
        zeros = jnp.zeros((self.shape.tile, self.shape.channels), jnp.float32)
        return zeros, zeros

    def add_source(self, target, source, accumulated):
        keys, values = target
        tokens, log_count = source
        q, _, _, d_out, log_sum, delta = self.arrays
        queries, d_rows = self.load_tile(q, tokens), self.load_tile(d_out, tokens)
        scores = self.scores((queries, tokens), keys, log_count, transposed=True)
        weights = jnp.exp2(scores - row(self.load_vector(log_sum, tokens)))
        d_weights = dot(values, d_rows, transpose=True)
        d_scores = weights * (d_weights - row(self.load_vector(delta, tokens)))
        return (
            accumulated[0] + dot(d_scores.astype(queries.dtype), queries),
            accumulated[1] + dot(weights.astype(d_rows.dtype), d_rows),
        )

    def outputs(self, target, accumulated):
        return accumulated[0] * self.shape.scale, accumulated[1]
