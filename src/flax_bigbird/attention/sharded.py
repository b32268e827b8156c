"""Attention under a mesh: every device computes its own examples, heads and tokens.

The backends are custom calls and loops that XLA cannot partition: without these functions, every
device would compute everything. The axes of the mesh are those of `mesh_axes`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention.api import block_sparse_attention, check_block_sparse_call
from flax_bigbird.attention.eager import compile_eager
from flax_bigbird.attention.full import full_attention
from flax_bigbird.attention.mesh_axes import MeshAxes, current_mesh_axes, pad_axis
from flax_bigbird.attention.patterns.block_pattern import BlockPattern
from flax_bigbird.attention.sequence_parallel import (
    SequenceConfig,
    attend_on_device,
    buffer_capacity,
    prepare_lists,
)


def sharded_block_sparse_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    pattern: BlockPattern,
    *,
    mask: Bool[Array | np.ndarray, "B T"] | None = None,
    scale: float | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N H"]:
    """Computes `block_sparse_attention` under the mesh of `jax.set_mesh`.

    Examples are split over the axes "data" and "fsdp", heads over "tensor" and tokens over
    "sequence". A device gets only those key blocks of other devices that its rows read. Without a
    mesh, or inside `jax.shard_map`, the call is that of `block_sparse_attention`.

    Args:
      q, k, v, pattern, mask, scale, implementation: As in `block_sparse_attention`, with the shapes
        of the whole arrays. Axes that the mesh does not divide are padded; a T that is a multiple
        of W and of the size of "sequence" times W needs no copy.

    Returns:
      The attended values, split as q is.

    Raises:
      ValueError, NotImplementedError: As in `block_sparse_attention`.
    """
    axes = current_mesh_axes()
    if axes is None:
        return block_sparse_attention(
            q, k, v, pattern, mask=mask, scale=scale, implementation=implementation
        )
    check_block_sparse_call(q, k, v, pattern, mask)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    static = (axes, float(scale), implementation)
    return compile_eager(_block_sparse_attention, static, q, k, v, pattern, mask)


def _block_sparse_attention(
    axes: MeshAxes, scale: float, implementation: str | None, q, k, v, pattern: BlockPattern, mask
) -> Array:
    batch, length, heads, _ = q.shape
    q, k, v = (_pad_examples_and_heads(x, axes) for x in (q, k, v))
    mask = None if mask is None else pad_axis(mask, 0, axes.num_example_shards)
    pattern = _pad_pattern(pattern, axes, batch, heads)
    if axes.num_token_shards > 1:
        out = _split_tokens(axes, q, k, v, mask, pattern, scale, implementation)
    else:
        out = _split_examples_and_heads(axes, q, k, v, mask, pattern, scale, implementation)
    return out[:batch, :length, :heads]


def sharded_full_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    *,
    mask: Bool[Array | np.ndarray, "B S"] | None = None,
    causal: bool = False,
    scale: float | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N H"]:
    """Computes `full_attention` under the mesh of `jax.set_mesh`.

    Examples are split over the axes "data" and "fsdp", heads over "tensor" and queries over
    "sequence". Every query reads every key, so that the keys are gathered on all devices of
    "sequence". With `causal=True` the queries are, too.

    Args:
      q, k, v, mask, causal, scale, implementation: As in `full_attention`.

    Returns:
      The attended values, split as q is.
    """
    options: Any = {"causal": causal, "scale": scale, "implementation": implementation}
    axes = current_mesh_axes()
    if axes is None:
        return full_attention(q, k, v, mask=mask, **options)
    static = (axes, causal, scale, implementation)
    return compile_eager(_full_attention, static, q, k, v, mask)


def _full_attention(
    axes: MeshAxes, causal: bool, scale: float | None, implementation: str | None, q, k, v, mask
) -> Array:
    batch, length, heads, _ = q.shape
    q, k, v = (_pad_examples_and_heads(x, axes) for x in (q, k, v))
    mask = None if mask is None else pad_axis(mask, 0, axes.num_example_shards)
    tokens = None if causal else axes.tokens
    if tokens:
        q = pad_axis(q, 1, axes.num_token_shards)
    whole = P(axes.examples, None, axes.heads)
    split = P(axes.examples, tokens, axes.heads)

    def attend(q, k, v, mask):
        return full_attention(
            q, k, v, mask=mask, causal=causal, scale=scale, implementation=implementation
        )

    mapped = jax.shard_map(
        attend,
        in_specs=(split, whole, whole, P(axes.examples)),
        out_specs=split,
        axis_names=axes.names,
    )
    return mapped(q, k, v, mask)[:batch, :length, :heads]


def _pad_examples_and_heads(x: Array, axes: MeshAxes) -> Array:
    return pad_axis(pad_axis(x, 0, axes.num_example_shards), 2, axes.num_head_shards)


def _pad_pattern(pattern: BlockPattern, axes: MeshAxes, batch: int, heads: int) -> BlockPattern:
    """Pads the axes of examples and heads, unless all examples or heads share their lists."""

    def pad(x: Any) -> Any:
        if x.shape[0] == batch and batch > 1:
            x = pad_axis(x, 0, axes.num_example_shards)
        if x.ndim == 4 and x.shape[1] == heads and heads > 1:
            x = pad_axis(x, 1, axes.num_head_shards)
        return x

    return jax.tree.map(pad, pattern)


def _spec(x: Any, axes: MeshAxes, rows: str | None = None) -> P:
    """Returns how an array `[#B, #N, M, ...]` or `[#B, G]` of a pattern is split."""
    examples = axes.examples if x.shape[0] > 1 else None
    if x.ndim < 4:
        return P(examples)
    return P(examples, axes.heads if x.shape[1] > 1 else None, rows)


def _split_examples_and_heads(axes, q, k, v, mask, pattern, scale, implementation) -> Array:
    """Computes attention where each device has whole examples."""
    split = P(axes.examples, None, axes.heads)
    specs = jax.tree.map(lambda x: _spec(x, axes), pattern)
    is_shared = all(
        isinstance(x, np.ndarray) and not any(spec)
        for x, spec in zip(jax.tree.leaves(pattern), _leaves(specs), strict=True)
    )

    def attend(q, k, v, mask, traced):
        return block_sparse_attention(
            q,
            k,
            v,
            pattern if traced is None else traced,  # a static pattern is folded into the program
            mask=mask,
            scale=scale,
            implementation=implementation,
        )

    mapped = jax.shard_map(
        attend,
        in_specs=(split, split, split, P(axes.examples), None if is_shared else specs),
        out_specs=split,
        axis_names=axes.names,
    )
    return mapped(q, k, v, mask, None if is_shared else pattern)


def _leaves(specs: Any) -> list[P]:
    return jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, P))


def _split_tokens(axes, q, k, v, mask, pattern: BlockPattern, scale, implementation) -> Array:
    """Computes attention where each device has some tokens of each example."""
    devices, size = axes.num_token_shards, pattern.block_size
    mask = jnp.ones(q.shape[:2], bool) if mask is None else mask
    q, k, v, mask = (pad_axis(x, 1, devices * size) for x in (q, k, v, mask))
    lists, plan = prepare_lists(pattern, devices)
    config = SequenceConfig(
        scale=scale,
        implementation=implementation,
        block_size=size,
        causal=pattern.causal,
        per_head=pattern.blocks.shape[1] > 1,
        axis=axes.tokens,
        all_axes=tuple(sorted(axes.names)),
        plan=plan and (tuple(plan.shared.tolist()), plan.num_before, plan.num_after),
        num_remote=plan.num_remote if plan else buffer_capacity(pattern, devices),
    )
    split = P(axes.examples, axes.tokens, axes.heads)
    specs = jax.tree.map(lambda x: _spec(x, axes, axes.tokens), lists)
    mapped = jax.shard_map(
        lambda *arrays: attend_on_device(config, *arrays),
        in_specs=(split, split, split, P(axes.examples, axes.tokens), specs),
        out_specs=split,
        axis_names=axes.names,
    )
    return mapped(q, k, v, mask, jax.tree.map(jnp.asarray, lists))
