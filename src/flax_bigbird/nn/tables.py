"""Lookups in embedding tables, which a mesh may split over its devices."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from flax_bigbird.attention import current_mesh_axes, pad_axis
from flax_bigbird.attention.mesh_axes import MeshAxes
from flax_bigbird.attention.numerics import Dimension
from flax_bigbird.nn.sharding import gather_parameter


def look_up(table: nn.Embed, ids: Int[Array, "..."]) -> Float[Array, "... D"]:
    """Returns the rows of a table at `ids`; a table that a mesh splits is gathered first."""
    if current_mesh_axes() is None:
        return table(ids)
    return jnp.take(jnp.asarray(gather_parameter(table.embedding), table.dtype), ids, axis=0)


def look_up_positions(
    table: nn.Embed, ids: Int[Array, "B T"] | None, length: Dimension
) -> Float[Array, "#B T D"]:
    """Returns the rows of the position table of some tokens.

    Where a mesh splits tokens over the axis "sequence", the rows of the table are split over it,
    too, if its size divides their number. For texts as long as the table, each device then has the
    rows of its own tokens, and nothing is sent. Otherwise, every device looks up those rows that it
    holds for the tokens of all devices, and the sums go to the devices of the tokens: as much is
    sent as for the hidden states of the tokens, once.

    Args:
      table: The table.
      ids: The positions; None if they are `0..T-1` in each example.
      length: T.
    """
    axes, rows = current_mesh_axes(), table.num_embeddings
    if axes is not None and (axes.tokens is None or rows % axes.num_token_shards):
        axes = None  # no axis splits the table
    if ids is None:
        is_symbolic = not isinstance(length, int)  # `jax.export` with a length that varies
        if not is_symbolic and (length == rows or (length < rows and axes is None)):
            own_rows = gather_parameter(table.embedding, axes and axes.tokens)
            return jnp.asarray(own_rows[None, :length], table.dtype)
        ids = jnp.arange(length)[None]
    if axes is None:
        return look_up(table, ids)
    split = gather_parameter(table.embedding, axes.tokens)
    return _look_up_split(axes, jnp.asarray(split, table.dtype), ids)


def _look_up_split(
    axes: MeshAxes, table: Float[Array, "S D"], ids: Int[Array, "#B T"]
) -> Float[Array, "#B T D"]:
    """Returns the rows of a table that is split over the axis of the tokens."""
    batch, length = ids.shape
    axis, size = axes.tokens, table.shape[0] // axes.num_token_shards
    examples = axes.examples if batch > 1 else None  # else, all examples have the same positions
    # Of all tokens together, a device holds some columns at a time: as much as its own tokens take.
    chunks = math.gcd(table.shape[1], axes.num_token_shards)

    def read(rows: Array, ids: Array) -> Array:
        local = ids - lax.axis_index(axis) * size
        is_own = (local >= 0) & (local < size)
        local = jnp.where(is_own, local, 0)

        def read_columns(columns: Array) -> Array:
            found = jnp.take(columns, local, axis=0, mode="clip")
            found = jnp.where(is_own[..., None], found, jnp.zeros((), found.dtype))
            return lax.psum_scatter(found, axis, scatter_dimension=1, tiled=True)

        found = lax.map(read_columns, jnp.stack(jnp.split(rows, chunks, axis=-1)))
        return jnp.moveaxis(found, 0, -2).reshape(*found.shape[1:-1], -1)

    mapped = jax.shard_map(
        read,
        in_specs=(P(axis), P(examples)),
        out_specs=P(examples, axis),
        axis_names=axes.names,
    )
    padded = pad_axis(ids, 1, axes.num_token_shards)
    padded = pad_axis(padded, 0, axes.num_example_shards) if examples else padded
    found = mapped(table, padded)[:batch, :length]
    is_valid = (ids >= 0) & (ids < table.shape[0])  # else NaN, as in `nn.Embed`
    return jnp.where(is_valid[..., None], found, jnp.full((), jnp.nan, found.dtype))
