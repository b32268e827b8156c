"""Code that the three Triton kernels share: tiles, loads and stores, list traversal, the launch.

The kernels are written in Pallas for its Triton backend. Its successor for Hopper, Mosaic GPU, is
faster there at its best, but changes its interface with every release of JAX from 0.10 to 0.12,
needs sm90, and its interpreter does not run such a kernel in 0.10. Triton runs from sm80 on, in all
three releases and, interpreted, on any CPU.

Scores and their sums are in base 2, the hardware's own exponential.
"""

import functools
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

from flax_bigbird.attention.backends.work_lists import WorkList
from flax_bigbird.attention.manual_axes import shape_like, vary_together
from flax_bigbird.attention.numerics import MASKED_SCORE

_MIN_TILE = 16  # a side of a matmul on tensor cores
_MAX_TILE = 64  # tokens of a target or a source that are held at once


class KernelShape(NamedTuple):
    """The static parameters that the kernels are compiled for."""

    scale: float
    causal: bool
    block_size: int  # in tokens
    length: int
    head_width: int
    heads: int
    batch: int
    itemsize: int  # bytes of an entry
    interpret: bool

    @property
    def rows(self) -> int:
        return -(-self.length // self.block_size)

    @property
    def block(self) -> int:
        """Tokens of all tiles of a block, a power of 2; those past the block are padding."""
        return max(_MIN_TILE, pl.next_power_of_2(self.block_size))

    @property
    def tile(self) -> int:
        """Tokens of a target that one program computes."""
        return min(self.block, _MAX_TILE)

    @property
    def tiles(self) -> int:
        """Programs per target."""
        return self.block // self.tile

    @property
    def source_tile(self) -> int:
        """Tokens of a source that are held at once.

        They take registers and shared memory. With these sizes no kernel needs more than 100 KB,
        which every GPU from sm80 on has.
        """
        if self.itemsize <= 2:
            return self.tile
        return min(self.tile, 32 if self.channels <= 64 else 16)

    @property
    def channels(self) -> int:
        """Channels of a tile, a power of 2; those past the head's width are padding."""
        return max(_MIN_TILE, pl.next_power_of_2(self.head_width))

    @property
    def has_full_tiles(self) -> bool:
        """Whether tiles cover blocks exactly and none ends past the last token."""
        return self.block == self.block_size and self.length % self.block_size == 0

    @property
    def compiler_params(self) -> Any:
        large = self.itemsize > 2 or self.tile * self.channels > 64 * 64
        return triton.CompilerParams(num_warps=8 if large else 4, num_stages=2)


class TokenRange(NamedTuple):
    """A range of consecutive tokens in one block.

    Attributes:
      block: The position of the block's first token.
      offset: The offset of the range in the block.
      tokens: The number of tokens.
    """

    block: Any
    offset: Any
    tokens: int

    @property
    def start(self) -> Any:
        return self.block + self.offset


class Program:
    """The base class of the kernels: a loop over the sources of a target, and its launch.

    Subclasses define what is accumulated. Inside a launch `arrays`, `mask` and `work` are
    references to what was passed.
    """

    name: ClassVar[str]

    def __init__(self, shape: KernelShape, arrays, mask, work: WorkList):
        self.shape, self.arrays, self.mask, self.work = shape, arrays, mask, work

    def load_target(self, tokens: TokenRange) -> Any:
        """Loads the tiles of the target."""
        raise NotImplementedError

    def empty(self) -> tuple[Array, ...]:
        """Returns the accumulated arrays before the first source."""
        raise NotImplementedError

    def add_source(self, target, source, accumulated) -> tuple[Array, ...]:
        """Adds one source: its `TokenRange`, and log2 of how often it counts."""
        raise NotImplementedError

    def merge(self, one, other) -> tuple[Array, ...]:
        """Combines what was accumulated over two parts of a target's list."""
        return tuple(x + y for x, y in zip(one, other, strict=True))

    def outputs(self, target, accumulated) -> tuple[Array, ...]:
        """Returns the tiles of the outputs."""
        raise NotImplementedError

    def launch(self, outputs) -> tuple[Array, ...]:
        """Computes the later items of long lists, then the first item of each target and the sum.

        Args:
          outputs: The shapes and dtypes of the results.
        """
        shape = self.shape
        pairs = shape.batch * shape.heads
        operands = vary_together(self.arrays, self.mask, self.work)
        specs = jax.tree.map(functools.partial(_array_spec, shape), (self.arrays, self.mask))
        specs = (*specs, jax.tree.map(functools.partial(_work_spec, shape), self.work))
        options = {"compiler_params": shape.compiler_params, "interpret": shape.interpret}
        extra_items = self.work.extra_items
        num_extra = extra_items.shape[-1]
        accumulated = jax.eval_shape(self.empty)
        partial: tuple[Array, ...] = ()
        if num_extra:
            partial = pl.pallas_call(
                self._extra_item,
                grid=(num_extra * shape.tiles, pairs),
                in_specs=[*specs, _work_spec(shape, extra_items)],
                out_specs=tuple(_partial_spec(x) for x in accumulated),
                out_shape=tuple(
                    shape_like((pairs, num_extra * shape.tiles, *x.shape), x.dtype, outputs[0])
                    for x in accumulated
                ),
                name=f"bigbird_{self.name}_extra",
                **options,
            )(*operands, extra_items)
        return pl.pallas_call(
            self._first_item,
            grid=(shape.rows * shape.tiles, pairs),
            in_specs=[*specs, tuple(_all_partials_spec(x) for x in partial)],
            out_specs=tuple(_array_spec(shape, x) for x in outputs),
            out_shape=tuple(outputs),
            name=f"bigbird_{self.name}",
            **options,
        )(*operands, partial)

    def _extra_item(self, arrays, mask, work, extra_items, *partial) -> None:
        """The kernel of the first launch: one later item of one target."""
        inside = type(self)(self.shape, arrays, mask, work)
        index, tile = self._program_index()
        *_, accumulated = inside.accumulate(extra_items[index], tile)
        for ref, x in zip(partial, accumulated, strict=True):
            ref[...] = x

    def _first_item(self, arrays, mask, work, partial, *outputs) -> None:
        """The kernel of the second launch: the first item of one target, and the sum."""
        inside = type(self)(self.shape, arrays, mask, work)
        index, tile = self._program_index()
        item = work.first_item[index]
        tokens, target, accumulated = inside.accumulate(item, tile)
        if partial:

            def add(extra, accumulated):
                of_tile = tuple(ref[extra * self.shape.tiles + tile] for ref in partial)
                return inside.merge(accumulated, of_tile)

            end = work.first_item[index + 1] - index - 1
            accumulated = lax.fori_loop(item - index, end, add, accumulated)
        for ref, x in zip(outputs, inside.outputs(target, accumulated), strict=True):
            inside.store(ref, tokens, x)

    def _program_index(self) -> tuple[Any, Any]:
        """Returns which target or extra item this program computes, and which tile of it."""
        index, tiles = pl.program_id(0), self.shape.tiles
        return (index, 0) if tiles == 1 else (lax.div(index, tiles), lax.rem(index, tiles))

    def accumulate(self, item, tile) -> tuple[TokenRange, Any, tuple[Array, ...]]:
        """Visits the sources of one item.

        Returns:
          The tokens and the tiles of the target, and what was accumulated.
        """
        work, shape = self.work, self.shape
        tokens = TokenRange(work.target[item] * shape.block_size, tile * shape.tile, shape.tile)
        target = self.load_target(tokens)
        parts = shape.block // shape.source_tile

        def visit(step, accumulated):
            entry, part = (step, 0) if parts == 1 else (lax.div(step, parts), lax.rem(step, parts))
            block = work.sources[item, entry] * shape.block_size
            source = TokenRange(block, part * shape.source_tile, shape.source_tile)
            count = work.counts[item, entry]
            log_count = jnp.log2(jnp.maximum(count, 1).astype(jnp.float32))
            log_count = jnp.where(count > 0, log_count, MASKED_SCORE)
            return self.add_source(target, (source, log_count), accumulated)

        steps = work.num_used[item] * parts
        return tokens, target, lax.fori_loop(0, steps, visit, self.empty())

    def load_tile(self, ref, tokens: TokenRange) -> Array:
        """Loads `[tokens, channels]`, 0 past the block, the last token or the head's width."""
        exists = self._exists_in_tile(tokens)
        at = ref.at[pl.ds(tokens.start, tokens.tokens), :]
        return at[...] if exists is None else _load(at, exists)

    def load_vector(self, ref, tokens: TokenRange) -> Array:
        """Loads `[tokens]` of an array without channels."""
        exists = self.exists(tokens)
        at = ref.at[pl.ds(tokens.start, tokens.tokens)]
        return at[...] if exists is None else _load(at, exists)

    def store(self, ref, tokens: TokenRange, x: Array) -> None:
        """Stores a tile or a vector, except past the block, the last token or the head's width."""
        span = pl.ds(tokens.start, tokens.tokens)
        at = ref.at[span] if x.ndim == 1 else ref.at[span, :]
        exists = self.exists(tokens) if x.ndim == 1 else self._exists_in_tile(tokens)
        if exists is None:
            at[...] = x.astype(ref.dtype)
        else:
            triton.store(at, x.astype(ref.dtype), mask=exists)

    def exists(self, tokens: TokenRange) -> Array | None:
        """Returns which tokens lie in the block and before the end, `[tokens]`; None for all."""
        if self.shape.has_full_tiles:
            return None
        token = jnp.arange(tokens.tokens)
        inside: Array = tokens.offset + token < self.shape.block_size
        return inside & (tokens.start + token < self.shape.length)

    def _exists_in_tile(self, tokens: TokenRange) -> Array | None:
        """Returns `exists` for a tile with channels."""
        exists = self.exists(tokens)
        channels, width = self.shape.channels, self.shape.head_width
        if exists is None and channels == width:
            return None
        in_width = jnp.arange(channels)[None, :] < width
        if exists is None:
            return jnp.broadcast_to(in_width, (tokens.tokens, channels))
        return exists[:, None] & in_width

    def scores(self, queries, keys, log_count, *, transposed: bool = False) -> Array:
        """Returns base 2 logarithms of unnormalized weights.

        Args:
          queries, keys: Tiles, each with its `TokenRange`.
          log_count: log2 of how often the source counts.
          transposed: Whether to return `[keys, queries]` instead of `[queries, keys]`.
        """
        (q, query), (k, key) = queries, keys
        scores = dot(k, q, transpose=True) if transposed else dot(q, k, transpose=True)
        scores = scores * (self.shape.scale * math.log2(math.e)) + log_count
        along_keys, along_queries = (column, row) if transposed else (row, column)
        read = self.exists(key)
        if self.mask is not None:
            unmasked = self.load_vector(self.mask, key) != 0
            read = unmasked if read is None else read & unmasked
        if read is not None:
            scores = jnp.where(along_keys(read), scores, MASKED_SCORE)
        if self.shape.causal:
            key_token = along_keys(key.start + jnp.arange(key.tokens))
            query_token = along_queries(query.start + jnp.arange(query.tokens))
            scores = jnp.where(key_token <= query_token, scores, MASKED_SCORE)
        return scores


def column(x: Array) -> Array:
    """Returns a vector as a column."""
    return x[:, None]


def row(x: Array) -> Array:
    """Returns a vector as a row."""
    return x[None, :]


def dot(x: Array, y: Array, *, transpose: bool = False) -> Array:
    """Multiplies x y, or x y^T, accumulated in float32; float32 is not rounded to TensorFloat."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    product: Array = triton.dot(x, y, trans_b=transpose, precision=precision)
    return product


def _load(at, exists: Array) -> Array:
    loaded: Array = triton.load(at, mask=exists, other=jnp.zeros((), at.dtype))
    return loaded


def _array_spec(shape: KernelShape, x) -> pl.BlockSpec:
    """Returns a block spec that gives a program the whole array of its example and head."""
    heads = shape.heads
    if x.ndim == 2:  # the mask
        return pl.BlockSpec((None, shape.length), lambda i, pair: (lax.div(pair, heads), 0))
    if x.ndim == 3:
        return pl.BlockSpec(
            (None, None, shape.length),
            lambda i, pair: (lax.div(pair, heads), lax.rem(pair, heads), 0),
        )
    return pl.BlockSpec(
        (None, shape.length, None, shape.channels),
        lambda i, pair: (lax.div(pair, heads), 0, lax.rem(pair, heads), 0),
    )


def _work_spec(shape: KernelShape, x) -> pl.BlockSpec:
    """Returns a block spec for the lists of an example and head; axes of size 1 are shared."""
    heads, per_example, per_head = shape.heads, x.shape[0] > 1, x.shape[1] > 1
    rest = (0,) * (x.ndim - 2)

    def index(i, pair):
        example = lax.div(pair, heads) if per_example else 0
        return (example, lax.rem(pair, heads) if per_head else 0, *rest)

    return pl.BlockSpec((None, None, *x.shape[2:]), index)


def _partial_spec(x) -> pl.BlockSpec:
    """Returns a block spec for the slot of a partial result, `[B*N, P, ...]`."""
    rest = (0,) * x.ndim
    return pl.BlockSpec((None, None, *x.shape), lambda slot, pair: (pair, slot, *rest))


def _all_partials_spec(x) -> pl.BlockSpec:
    """Returns a block spec for all partial results of an example and head."""
    rest = (0,) * (x.ndim - 1)
    return pl.BlockSpec((None, *x.shape[1:]), lambda i, pair: (pair, *rest))
