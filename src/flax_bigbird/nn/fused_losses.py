"""The cross-entropy of a language model's head, which never holds the logits of all tokens.

The logits of 4,096 tokens over a vocabulary of 50,358 take 825 MB, and so do their softmax and its
gradient. Here the head's matmul, the softmax and its gradient are computed for some tokens at a
time, and only for tokens that have a label.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from flax_bigbird.attention import (
    current_mesh_axes,
    pad_axis,
    vary_together,
)
from flax_bigbird.attention.eager import compile_eager
from flax_bigbird.nn.losses import IGNORED_LABEL
from flax_bigbird.nn.sharding import constrain_states

CHUNK_SIZE = 1024
"""The default number of tokens whose logits are held: 206 MB for a vocabulary of 50,358."""


def fused_cross_entropy(
    hidden: Float[Array, "... D"] | Float[np.ndarray, "... D"],
    embedding: Float[Array, "V D"] | Float[np.ndarray, "V D"],
    labels: Int[Array, "..."] | Any,
    bias: Float[Array, " V"] | Float[np.ndarray, " V"] | None = None,
    *,
    chunk_size: int = CHUNK_SIZE,
) -> Float[Array, ""]:
    """Returns the mean of `-log softmax(hidden @ embedding.T + bias)[label]` over the labels.

    It equals `cross_entropy(hidden @ embedding.T + bias, labels)` in value and gradient, in less
    memory and time. Tokens whose label is `IGNORED_LABEL` cost nothing. If there are no other
    labels, the loss is 0. It has a gradient, but no gradient of its gradient.

    Args:
      hidden: `[..., D]`, the inputs of the output layer. For a model of this package, these are the
        outputs of the head's transformation; `model.loss` computes them.
      embedding: `[V, D]`, the matrix of the output layer.
      labels: `[...]`, token ids in `0..V-1`, or `IGNORED_LABEL` (-100).
      bias: `[V]`. The default is 0.
      chunk_size: The number of tokens whose logits are held at a time.

    Returns:
      The loss, in float32 or more.

    Raises:
      ValueError: If `labels` do not have the leading axes of `hidden`, or if `chunk_size` is below
        1.
    """
    hidden, embedding, labels = (jnp.asarray(x) for x in (hidden, embedding, labels))
    if labels.shape != hidden.shape[:-1]:
        raise ValueError(
            f"labels must have the leading axes of hidden, {hidden.shape[:-1]}; got "
            f"{labels.shape}: give one label per token"
        )
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, a number of tokens; got {chunk_size}")
    # The batch axis stays as it is, because it may be sharded.
    hidden = hidden.reshape(-1, *hidden.shape[-2:]) if hidden.ndim > 1 else hidden[None, None]
    labels = labels.reshape(hidden.shape[:-1])
    no_bias = bias is None
    bias = jnp.zeros(embedding.shape[0], embedding.dtype) if no_bias else jnp.asarray(bias)
    return compile_eager(_sharded_loss, (chunk_size,), hidden, embedding, bias, labels)


def _sharded_loss(chunk_size: int, *arrays: Array) -> Array:
    """Computes the loss of the tokens of each device, and their mean.

    The tokens are split over all axes of the mesh of `jax.set_mesh`, those of heads included: the
    head of a language model takes more time than a layer, and would otherwise be computed by all
    devices that share the heads of an example.
    """
    axes = current_mesh_axes()
    if axes is None:
        hidden, *rest = vary_together(*arrays)
        return _loss(-(-chunk_size // hidden.shape[0]), hidden, *rest)
    hidden, embedding, bias, labels = arrays
    hidden = constrain_states(hidden)  # or XLA gathers all tokens for the gradient of its source
    token_axes = tuple(axis for axis in (axes.tokens, axes.heads) if axis)
    hidden = pad_axis(hidden, 0, axes.num_example_shards)
    hidden = pad_axis(hidden, 1, axes.num_token_shards * axes.num_head_shards)
    padding = [(0, n - m) for n, m in zip(hidden.shape[:2], labels.shape, strict=True)]
    labels = jnp.pad(labels, padding, constant_values=IGNORED_LABEL)

    def mean(hidden, embedding, bias, labels):
        hidden, embedding, bias, labels = vary_together(hidden, embedding, bias, labels)
        loss: Array = _loss(-(-chunk_size // hidden.shape[0]), hidden, embedding, bias, labels)
        count = (labels != IGNORED_LABEL).sum().astype(loss.dtype)
        split = (*(axes.examples or ()), *token_axes)
        total, count = jax.lax.psum((loss * count, count), split)
        return total / jnp.maximum(count, 1)

    tokens = P(axes.examples, token_axes or None)
    mapped = jax.shard_map(
        mean, in_specs=(tokens, P(), P(), tokens), out_specs=P(), axis_names=axes.names
    )
    return mapped(hidden, embedding, bias, labels)


class _Sorted(NamedTuple):
    """Tokens in chunks, in each example those with a label first."""

    hidden: Float[Array, "B S D"]
    labels: Int[Array, "B S"]
    order: Int[Array, "B T"]
    num_chunks: Int[Array, ""]
    num_labels: Float[Array, ""]


def _sort(hidden: Array, labels: Array, chunk: int, dtype: Any) -> _Sorted:
    length = labels.shape[1]
    used = labels != IGNORED_LABEL
    order = jnp.argsort(~used, axis=1, stable=True)
    padding = -length % chunk
    hidden = jnp.take_along_axis(hidden, order[..., None], axis=1)
    labels = jnp.take_along_axis(labels, order, axis=1)
    return _Sorted(
        jnp.pad(hidden, ((0, 0), (0, padding), (0, 0))),
        jnp.pad(labels, ((0, 0), (0, padding)), constant_values=IGNORED_LABEL),
        order,
        (used.sum(1).max() + chunk - 1) // chunk,
        jnp.maximum(used.sum(), 1).astype(dtype),
    )


def _chunk_losses(tokens: _Sorted, i: Array, chunk: int, embedding: Array, bias: Array, dtype: Any):
    """Returns the hidden states, the sum of the losses, and what their gradient needs."""
    x = lax.dynamic_slice_in_dim(tokens.hidden, i * chunk, chunk, axis=1)
    x = x.reshape(-1, x.shape[-1])
    labels = lax.dynamic_slice_in_dim(tokens.labels, i * chunk, chunk, axis=1).reshape(-1)
    logits = jnp.einsum("td,vd->tv", x, embedding.astype(x.dtype), preferred_element_type=dtype)
    logits = logits + bias.astype(dtype)
    used = labels != IGNORED_LABEL
    labels = jnp.where(used, labels, 0)
    largest = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    total = weights.sum(-1)
    at_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    losses = jnp.log(total) - (at_label - largest)[:, 0]
    return x, jnp.where(used, losses, 0).sum(), (weights, total, labels, used)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(chunk: int, hidden: Array, embedding: Array, bias: Array, labels: Array) -> Array:
    dtype = jnp.promote_types(hidden.dtype, jnp.float32)
    chunk = min(chunk, hidden.shape[1])
    tokens = _sort(hidden, labels, chunk, dtype)

    def add(i: Array, loss: Array) -> Array:
        return loss + _chunk_losses(tokens, i, chunk, embedding, bias, dtype)[1]

    zero, _ = vary_together(jnp.zeros((), dtype), hidden)
    return lax.fori_loop(0, tokens.num_chunks, add, zero) / tokens.num_labels


def _forward(chunk: int, hidden: Array, embedding: Array, bias: Array, labels: Array):
    """Computes the loss and, as the logits are there, the gradients of the sum of the losses.

    Divided by the number of labels, most entries of the gradient of the logits would be below the
    smallest number of float16, where no scale of the loss could bring them back.
    """
    dtype = jnp.promote_types(hidden.dtype, jnp.float32)
    chunk = min(chunk, hidden.shape[1])
    tokens = _sort(hidden, labels, chunk, dtype)

    def add(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        loss, d_hidden, d_embedding, d_bias = carry
        x, losses, (weights, total, labels, used) = _chunk_losses(
            tokens, i, chunk, embedding, bias, dtype
        )
        factor = used.astype(dtype)
        is_label = jnp.arange(weights.shape[-1]) == labels[:, None]
        d_logits = weights * (factor / total)[:, None]
        d_logits = jnp.where(is_label, d_logits - factor[:, None], d_logits).astype(x.dtype)
        d_x = jnp.einsum("tv,vd->td", d_logits, embedding.astype(x.dtype))
        d_x = d_x.reshape(d_hidden.shape[0], chunk, -1)
        # This order of the axes needs no transposed copy of the chunk's logits.
        d_embedding += jnp.einsum("td,tv->dv", x, d_logits, preferred_element_type=dtype)
        # On a CPU, a matmul sums the rows in a quarter of the time that a reduction takes.
        ones = jnp.ones((1, x.shape[0]), x.dtype)
        d_bias += jnp.matmul(ones, d_logits, preferred_element_type=dtype)[0]
        d_hidden = lax.dynamic_update_slice_in_dim(d_hidden, d_x, i * chunk, axis=1)
        return loss + losses, d_hidden, d_embedding, d_bias

    zero, _ = vary_together(jnp.zeros((), dtype), hidden)
    num_tokens, width = embedding.shape
    init = (
        zero,
        jnp.broadcast_to(zero.astype(hidden.dtype), tokens.hidden.shape),
        jnp.broadcast_to(zero, (width, num_tokens)),
        jnp.broadcast_to(zero, (num_tokens,)),
    )
    loss, d_hidden, d_embedding, d_bias = lax.fori_loop(0, tokens.num_chunks, add, init)
    back = jnp.argsort(tokens.order, axis=1)
    d_hidden = jnp.take_along_axis(d_hidden, back[..., None], axis=1)
    # Arrays without entries carry the dtypes to the backward pass.
    like = tuple(jnp.zeros((0,), x.dtype) for x in (embedding, bias))
    saved = (d_hidden, d_embedding.T, d_bias, tokens.num_labels, like)
    return loss / tokens.num_labels, saved


def _backward(chunk: int, saved: tuple[Any, ...], d_loss: Array):
    del chunk
    *gradients, num_labels, (like_embedding, like_bias) = saved
    dtypes = (gradients[0].dtype, like_embedding.dtype, like_bias.dtype)
    scale = d_loss / num_labels
    scaled = (
        (x.astype(scale.dtype) * scale).astype(dtype)
        for x, dtype in zip(gradients, dtypes, strict=True)
    )
    return (*scaled, None)


_loss.defvjp(_forward, _backward)
