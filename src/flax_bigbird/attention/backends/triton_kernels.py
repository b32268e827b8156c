"""The GPU's kernels for block-sparse attention, and the launches of one call.

The kernels are written in Pallas for its Triton backend. Its successor for Hopper, Mosaic GPU, is
faster there at its best, but changes its interface with every release of JAX from 0.10 to 0.12,
needs sm90, and its interpreter does not run such a kernel in 0.10; this one runs from sm80 on, in
all three releases and, interpreted, on any CPU. All of Pallas that the package uses for GPUs is in
this file.

Letters as everywhere; scores and their sums are in base 2, the hardware's own exponential.
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

from flax_bigbird.attention.backends.work_lists import Segments
from flax_bigbird.attention.numerics import MASKED_SCORE, MIN_ROW_MAX
from flax_bigbird.attention.residuals import name_residuals

_SMALLEST_TILE = 16  # a side of a matmul on tensor cores
_LARGEST_TILE = 64  # tokens of a target or a source that are held at once


class Shape(NamedTuple):
    """What the kernels are compiled for."""

    scale: float
    causal: bool
    size: int  # tokens of a block
    length: int
    width: int  # channels of a head
    heads: int
    batch: int
    itemsize: int  # bytes of an entry
    interpret: bool

    @property
    def rows(self) -> int:
        return -(-self.length // self.size)

    @property
    def block(self) -> int:
        """Tokens of the tiles of a block: a power of 2; those past the block are padding."""
        return max(_SMALLEST_TILE, pl.next_power_of_2(self.size))

    @property
    def tile(self) -> int:
        """Tokens of a target that a program computes."""
        return min(self.block, _LARGEST_TILE)

    @property
    def tiles(self) -> int:
        """Programs of a target."""
        return self.block // self.tile

    @property
    def source_tile(self) -> int:
        """Tokens of a source that are held at once. What they take is registers and shared memory:
        with these no kernel needs over 100 KB, which every GPU from sm80 on has.
        """
        if self.itemsize <= 2:
            return self.tile
        return min(self.tile, 32 if self.channels <= 64 else 16)

    @property
    def channels(self) -> int:
        return max(_SMALLEST_TILE, pl.next_power_of_2(self.width))

    @property
    def is_whole(self) -> bool:
        """Whether all tiles are blocks, and none ends past the last token."""
        return self.block == self.size and self.length % self.size == 0

    @property
    def params(self) -> Any:
        large = self.itemsize > 2 or self.tile * self.channels > 64 * 64
        return triton.CompilerParams(num_warps=8 if large else 4, num_stages=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(shape, q, k, v, real, rows, columns):
    """Attention with its gradient.

    Args:
      real: `[B, T]` int8, 0 at padding, where q, k and v are 0 too; or None.
      rows, columns: `Segments` of jax arrays.
    """
    return _forward(shape, q, k, v, real, rows)[0]


def _forward(shape: Shape, q, k, v, real, rows: Segments):
    """`(out, log2-sum-exp2)`, `[B, T, N, H]` and `[B, N, T]`."""
    log_sum = jax.ShapeDtypeStruct((shape.batch, shape.heads, shape.length), jnp.float32)
    outputs = (jax.ShapeDtypeStruct(q.shape, q.dtype), log_sum)
    return _Outputs(shape, (q, k, v), real, rows).launch(outputs)


def _forward_rule(shape, q, k, v, real, rows, columns):
    out, log_sum = name_residuals(_forward(shape, q, k, v, real, rows))
    return out, (q, k, v, real, rows, columns, out, log_sum)


def _backward_rule(shape, saved, d_out):
    """dV = P^T dO, dP = dO V^T, dS = P (dP - sum(dO O)), dQ = s dS K, dK = s dS^T Q."""
    q, k, v, real, rows, columns, out, log_sum = saved
    if real is not None:
        d_out = jnp.where(real[:, :, None, None] != 0, d_out, jnp.zeros((), d_out.dtype))
    delta = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1).swapaxes(1, 2)
    arrays = (q, k, v, d_out, log_sum, delta)
    like = jax.ShapeDtypeStruct(q.shape, q.dtype)
    (d_q,) = _QueryGradients(shape, arrays, real, rows).launch((like,))
    d_k, d_v = _KeyGradients(shape, arrays, real, columns).launch((like, like))
    return d_q, d_k, d_v, None, None, None


attend.defvjp(_forward_rule, _backward_rule)


class _Program:
    """A kernel: what it does with a target's tiles and with each source of it, and its launch.

    Inside a launch `arrays`, `real` and `tables` are references to what was passed.
    """

    name: ClassVar[str]

    def __init__(self, shape: Shape, arrays, real, tables: Segments):
        self.shape, self.arrays, self.real, self.tables = shape, arrays, real, tables

    def load(self, place: "_Place") -> Any:
        """The target's tiles."""
        raise NotImplementedError

    def start(self) -> tuple[Array, ...]:
        """What is accumulated, empty."""
        raise NotImplementedError

    def visit(self, target, source, accumulated) -> tuple[Array, ...]:
        """With one more source: its `_Place`, and log2 of how often it counts."""
        raise NotImplementedError

    def merge(self, one, other) -> tuple[Array, ...]:
        """Of two parts of a target's list."""
        return tuple(x + y for x, y in zip(one, other, strict=True))

    def finish(self, target, accumulated) -> tuple[Array, ...]:
        """The tiles of the outputs."""
        raise NotImplementedError

    def launch(self, outputs) -> tuple[Array, ...]:
        """Later segments of long lists, then each target's first one and the sum."""
        shape = self.shape
        pairs = shape.batch * shape.heads
        operands = (self.arrays, self.real, self.tables)
        specs = jax.tree.map(functools.partial(_array_spec, shape), (self.arrays, self.real))
        specs = (*specs, jax.tree.map(functools.partial(_table_spec, shape), self.tables))
        options = {"compiler_params": shape.params, "interpret": shape.interpret}
        extra = self.tables.extra
        places = extra.shape[-1]
        accumulated = jax.eval_shape(self.start)
        partial: tuple[Array, ...] = ()
        if places:
            partial = pl.pallas_call(
                self._extra_segment,
                grid=(places * shape.tiles, pairs),
                in_specs=[*specs, _table_spec(shape, extra)],
                out_specs=tuple(_partial_spec(x) for x in accumulated),
                out_shape=tuple(
                    jax.ShapeDtypeStruct((pairs, places * shape.tiles, *x.shape), x.dtype)
                    for x in accumulated
                ),
                name=f"bigbird_{self.name}_extra",
                **options,
            )(*operands, extra)
        return pl.pallas_call(
            self._first_segment,
            grid=(shape.rows * shape.tiles, pairs),
            in_specs=[*specs, tuple(_partials_spec(x) for x in partial)],
            out_specs=tuple(_array_spec(shape, x) for x in outputs),
            out_shape=tuple(outputs),
            name=f"bigbird_{self.name}",
            **options,
        )(*operands, partial)

    def _extra_segment(self, arrays, real, tables, extra, *partial) -> None:
        inside = type(self)(self.shape, arrays, real, tables)
        place, tile = self._number()
        *_, accumulated = inside.walk(extra[place], tile)
        for ref, x in zip(partial, accumulated, strict=True):
            ref[...] = x

    def _first_segment(self, arrays, real, tables, partial, *outputs) -> None:
        inside = type(self)(self.shape, arrays, real, tables)
        number, tile = self._number()
        segment = tables.start[number]
        place, target, accumulated = inside.walk(segment, tile)
        if partial:

            def add(extra, accumulated):
                of_tile = tuple(ref[extra * self.shape.tiles + tile] for ref in partial)
                return inside.merge(accumulated, of_tile)

            end = tables.start[number + 1] - number - 1
            accumulated = lax.fori_loop(segment - number, end, add, accumulated)
        for ref, x in zip(outputs, inside.finish(target, accumulated), strict=True):
            inside.store(ref, place, x)

    def _number(self) -> tuple[Any, Any]:
        """Which target or place this program is for, and which tile of it."""
        number, tiles = pl.program_id(0), self.shape.tiles
        return (number, 0) if tiles == 1 else (lax.div(number, tiles), lax.rem(number, tiles))

    def walk(self, segment, tile) -> tuple["_Place", Any, tuple[Array, ...]]:
        """A target's place and tiles, and what comes of the segment's sources."""
        tables, shape = self.tables, self.shape
        place = _Place(tables.target[segment] * shape.size, tile * shape.tile, shape.tile)
        target = self.load(place)
        parts = shape.block // shape.source_tile

        def visit(step, accumulated):
            entry, part = (step, 0) if parts == 1 else (lax.div(step, parts), lax.rem(step, parts))
            block = tables.sources[segment, entry] * shape.size
            source = _Place(block, part * shape.source_tile, shape.source_tile)
            count = tables.counts[segment, entry]
            known = jnp.log2(jnp.maximum(count, 1).astype(jnp.float32))
            log_count = jnp.where(count > 0, known, MASKED_SCORE)
            return self.visit(target, (source, log_count), accumulated)

        steps = tables.used[segment] * parts
        return place, target, lax.fori_loop(0, steps, visit, self.start())

    def tile(self, ref, place: "_Place") -> Array:
        """`[tokens, channels]` of an array, 0 beyond the block, the last token or the width."""
        exists = self._in_tile(place)
        at = ref.at[pl.ds(place.first, place.tokens), :]
        return at[...] if exists is None else _load(at, exists)

    def vector(self, ref, place: "_Place") -> Array:
        """`[tokens]` of an array without channels."""
        exists = self.exists(place)
        at = ref.at[pl.ds(place.first, place.tokens)]
        return at[...] if exists is None else _load(at, exists)

    def store(self, ref, place: "_Place", x: Array) -> None:
        tokens = pl.ds(place.first, place.tokens)
        at = ref.at[tokens] if x.ndim == 1 else ref.at[tokens, :]
        exists = self.exists(place) if x.ndim == 1 else self._in_tile(place)
        if exists is None:
            at[...] = x.astype(ref.dtype)
        else:
            triton.store(at, x.astype(ref.dtype), mask=exists)

    def exists(self, place: "_Place") -> Array | None:
        """`[tokens]`: what is in the block and not past the last token; None if all is."""
        if self.shape.is_whole:
            return None
        token = jnp.arange(place.tokens)
        inside: Array = place.within + token < self.shape.size
        return inside & (place.first + token < self.shape.length)

    def _in_tile(self, place: "_Place") -> Array | None:
        exists = self.exists(place)
        channels, width = self.shape.channels, self.shape.width
        if exists is None and channels == width:
            return None
        in_width = jnp.arange(channels)[None, :] < width
        if exists is None:
            return jnp.broadcast_to(in_width, (place.tokens, channels))
        return exists[:, None] & in_width

    def scores(self, queries, keys, log_count, *, transposed: bool = False) -> Array:
        """Base 2 logarithms of unnormalised weights, `[queries, keys]` or `[keys, queries]`.

        Args:
          queries, keys: tiles and their places.
        """
        (q, query), (k, key) = queries, keys
        scores = _dot(k, q, transpose=True) if transposed else _dot(q, k, transpose=True)
        scores = scores * (self.shape.scale * math.log2(math.e)) + log_count
        along_keys, along_queries = (_down, _across) if transposed else (_across, _down)
        read = self.exists(key)
        if self.real is not None:
            real = self.vector(self.real, key) != 0
            read = real if read is None else read & real
        if read is not None:
            scores = jnp.where(along_keys(read), scores, MASKED_SCORE)
        if self.shape.causal:
            key_token = along_keys(key.first + jnp.arange(key.tokens))
            query_token = along_queries(query.first + jnp.arange(query.tokens))
            scores = jnp.where(key_token <= query_token, scores, MASKED_SCORE)
        return scores


class _Place(NamedTuple):
    """Neighbouring tokens of a block.

    Attributes:
      block: the block's first token.
      within: where in the block they begin.
      tokens: how many they are.
    """

    block: Any
    within: Any
    tokens: int

    @property
    def first(self) -> Any:
        return self.block + self.within


class _Outputs(_Program):
    """A row of queries, over the key blocks it reads: maximum, sum of weights, weighted values."""

    name = "attention"

    def load(self, place):
        return self.tile(self.arrays[0], place), place

    def start(self):
        top = jnp.full((self.shape.tile,), MIN_ROW_MAX, jnp.float32)
        total = jnp.zeros((self.shape.tile,), jnp.float32)
        return top, total, jnp.zeros((self.shape.tile, self.shape.channels), jnp.float32)

    def visit(self, target, source, accumulated):
        place, log_count = source
        keys, values = (self.tile(x, place) for x in self.arrays[1:])
        scores = self.scores(target, (keys, place), log_count)
        top = jnp.maximum(accumulated[0], scores.max(-1))
        weights = jnp.exp2(scores - _down(top))
        fade = jnp.exp2(accumulated[0] - top)
        total = accumulated[1] * fade + weights.sum(-1)
        out = accumulated[2] * _down(fade) + _dot(weights.astype(values.dtype), values)
        return top, total, out

    def merge(self, one, other):
        top = jnp.maximum(one[0], other[0])
        fades = [jnp.exp2(part[0] - top) for part in (one, other)]
        total = one[1] * fades[0] + other[1] * fades[1]
        return top, total, one[2] * _down(fades[0]) + other[2] * _down(fades[1])

    def finish(self, target, accumulated):
        top, total, out = accumulated
        divisor = jnp.where(total > 0, total, 1.0)
        out = out / _down(divisor)
        if self.real is not None:
            out = jnp.where(_down(self.vector(self.real, target[1]) != 0), out, 0.0)
        return out, jnp.where(total > 0, top + jnp.log2(divisor), 0.0)


class _QueryGradients(_Program):
    """A row of queries, over the key blocks it reads: the gradient of the queries."""

    name = "query_gradients"

    def load(self, place):
        q, _, _, d_out, log_sum, delta = self.arrays
        vectors = [_down(self.vector(x, place)) for x in (log_sum, delta)]
        return (self.tile(q, place), place), self.tile(d_out, place), vectors

    def start(self):
        return (jnp.zeros((self.shape.tile, self.shape.channels), jnp.float32),)

    def visit(self, target, source, accumulated):
        queries, d_out, (log_sum, delta) = target
        place, log_count = source
        keys, values = (self.tile(x, place) for x in self.arrays[1:3])
        weights = jnp.exp2(self.scores(queries, (keys, place), log_count) - log_sum)
        d_scores = weights * (_dot(d_out, values, transpose=True) - delta)
        return (accumulated[0] + _dot(d_scores.astype(keys.dtype), keys),)

    def finish(self, target, accumulated):
        return (accumulated[0] * self.shape.scale,)


class _KeyGradients(_Program):
    """A block of keys, over the rows of queries that read it: gradients of keys and values.

    Scores are computed transposed, so that no tile of weights has to be.
    """

    name = "key_gradients"

    def load(self, place):
        keys, values = (self.tile(x, place) for x in self.arrays[1:3])
        return (keys, place), values

    def start(self):
        empty = jnp.zeros((self.shape.tile, self.shape.channels), jnp.float32)
        return empty, empty

    def visit(self, target, source, accumulated):
        keys, values = target
        place, log_count = source
        q, _, _, d_out, log_sum, delta = self.arrays
        queries, d_rows = self.tile(q, place), self.tile(d_out, place)
        scores = self.scores((queries, place), keys, log_count, transposed=True)
        weights = jnp.exp2(scores - _across(self.vector(log_sum, place)))
        d_weights = _dot(values, d_rows, transpose=True)
        d_scores = weights * (d_weights - _across(self.vector(delta, place)))
        return (
            accumulated[0] + _dot(d_scores.astype(queries.dtype), queries),
            accumulated[1] + _dot(weights.astype(d_rows.dtype), d_rows),
        )

    def finish(self, target, accumulated):
        return accumulated[0] * self.shape.scale, accumulated[1]


def _down(x: Array) -> Array:
    """A vector as a column."""
    return x[:, None]


def _across(x: Array) -> Array:
    """A vector as a row."""
    return x[None, :]


def _dot(x: Array, y: Array, *, transpose: bool = False) -> Array:
    """x y, or x y^T; accumulated in float32, and of float32 without rounding to TensorFloat."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    product: Array = triton.dot(x, y, trans_b=transpose, precision=precision)
    return product


def _load(at, exists: Array) -> Array:
    loaded: Array = triton.load(at, mask=exists, other=jnp.zeros((), at.dtype))
    return loaded


def _array_spec(shape: Shape, x) -> pl.BlockSpec:
    """A program sees its document and head, whole: it reads and writes parts of that."""
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


def _table_spec(shape: Shape, x) -> pl.BlockSpec:
    """The lists of a document and head; axes of size 1 are shared."""
    heads, of_document, of_head = shape.heads, x.shape[0] > 1, x.shape[1] > 1
    rest = (0,) * (x.ndim - 2)

    def index(i, pair):
        document = lax.div(pair, heads) if of_document else 0
        return (document, lax.rem(pair, heads) if of_head else 0, *rest)

    return pl.BlockSpec((None, None, *x.shape[2:]), index)


def _partial_spec(x) -> pl.BlockSpec:
    """The place of a program's partial result, `[B*N, P, ...]`."""
    rest = (0,) * x.ndim
    return pl.BlockSpec((None, None, *x.shape), lambda place, pair: (pair, place, *rest))


def _partials_spec(x) -> pl.BlockSpec:
    """All the places of a document and head."""
    rest = (0,) * (x.ndim - 1)
    return pl.BlockSpec((None, *x.shape[1:]), lambda i, pair: (pair, *rest))
