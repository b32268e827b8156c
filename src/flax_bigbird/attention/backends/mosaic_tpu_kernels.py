"""The TPU's kernels for block-sparse attention, and the launches of one call.

All of Pallas that the package uses for TPUs is in this file. Arrays are `[B, N, T, H]`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu
from jaxtyping import Array

from flax_bigbird.attention.backends.work_lists import Segments
from flax_bigbird.attention.numerics import MASKED_SCORE, MIN_ROW_MAX
from flax_bigbird.attention.residuals import name_residuals


class Shape(NamedTuple):
    """What the kernels are compiled for."""

    scale: float
    causal: bool
    size: int  # tokens of a block
    length: int
    width: int  # channels of a head
    heads: int
    batch: int
    interpret: bool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lists:
    """Segments as flat tables of scalars.

    Attributes:
      target: `[#B * #N * S]`.
      state: likewise: 4 times how many sources are used, plus 1 in a target's first segment, plus
        2 in its last. Masks make it differ by document where the rest does not.
      sources, counts: `[#B * #N * S * C]`.
      strides, state_strides: how far the segments of the next document and the next head are.
      segments: S.
    """

    target: Array
    state: Array
    sources: Array
    counts: Array
    strides: tuple[int, int] = dataclasses.field(metadata={"static": True})
    state_strides: tuple[int, int] = dataclasses.field(metadata={"static": True})
    segments: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, segments: Segments) -> "Lists":
        start, target, sources, counts, used = (jnp.asarray(x) for x in segments)
        number = target.shape[-1]
        begin, end = (jnp.take_along_axis(x, target, -1) for x in (start[..., :-1], start[..., 1:]))
        place = jnp.arange(number, dtype=jnp.int32)
        is_first, is_last = place == begin, place == end - 1
        state = 4 * used + jnp.where(is_first, 1, 0) + jnp.where(is_last, 2, 0)
        strides = cls._strides(target), cls._strides(state)
        target, state, sources, counts = (
            x.reshape(-1).astype(jnp.int32) for x in (target, state, sources, counts)
        )
        return cls(target, state, sources, counts, *strides, number)

    @staticmethod
    def _strides(table: Array) -> tuple[int, int]:
        documents, heads, number = table.shape
        return heads * number if documents > 1 else 0, number if heads > 1 else 0

    @property
    def tables(self) -> tuple[Array, Array, Array, Array]:
        return self.target, self.state, self.sources, self.counts

    @property
    def words(self) -> int:
        return sum(x.size for x in self.tables)

    @property
    def size(self) -> int:
        """C, the sources of a segment."""
        return self.sources.size // self.target.size

    def at(self, document, head, segment) -> Any:
        """The segment's place in the tables."""
        return document * self.strides[0] + head * self.strides[1] + segment

    def state_at(self, document, head, segment) -> Any:
        """Its place in `state`."""
        return document * self.state_strides[0] + head * self.state_strides[1] + segment


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(shape, q, k, v, mask, hidden, rows, columns):
    """Attention of `[B, N, T, H]` arrays with its gradient.

    Args:
      mask: `[B, T]` booleans; q, k and v are 0 where it is False. Or None.
      hidden: `[B, M, 1, W]` float32, added to the scores of a key: 0, or very low. Or None.
      rows, columns: `Lists` of segments.
    """
    return _forward(shape, q, k, v, hidden, rows)[0]


def _forward(shape: Shape, q, k, v, hidden, rows: Lists):
    """`(out, log-sum-exp)`, `[B, N, T, H]` and `[B, N, M, 1, W]`."""
    size, width = shape.size, shape.width
    log_sum = jax.ShapeDtypeStruct((*q.shape[:2], shape.length // size, 1, size), jnp.float32)
    return _launch(
        _outputs,
        shape,
        rows,
        of_target=(q,),
        of_source=(k, v, *(() if hidden is None else (hidden,))),
        outputs=(jax.ShapeDtypeStruct(q.shape, q.dtype), log_sum),
        scratch=((MIN_ROW_MAX, (size, 1)), (0.0, (size, 1)), (0.0, (size, width))),
    )


def _forward_rule(shape, q, k, v, mask, hidden, rows, columns):
    out, log_sum = name_residuals(_forward(shape, q, k, v, hidden, rows))
    return out, (q, k, v, mask, hidden, rows, columns, out, log_sum)


def _backward_rule(shape, saved, d_out):
    """dV = P^T dO, dP = dO V^T, dS = P (dP - sum(dO O)), dQ = s dS K, dK = s dS^T Q."""
    q, k, v, mask, hidden, rows, columns, out, log_sum = saved
    real = None if mask is None else mask[:, None, :, None]
    if real is not None:
        d_out = jnp.where(real, d_out, jnp.zeros((), d_out.dtype))
    delta = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1).reshape(log_sum.shape)
    like = jax.ShapeDtypeStruct(q.shape, q.dtype)
    accumulated = (0.0, (shape.size, shape.width))
    (d_q,) = _launch(
        _query_gradients,
        shape,
        rows,
        of_target=(q, d_out, log_sum, delta),
        of_source=(k, v, *(() if hidden is None else (hidden,))),
        outputs=(like,),
        scratch=(accumulated,),
    )
    d_k, d_v = _launch(
        _key_gradients,
        shape,
        columns,
        of_target=(k, v),
        of_source=(q, d_out, log_sum, delta),
        outputs=(like, like),
        scratch=(accumulated, accumulated),
    )
    if real is not None:  # what a masked key would have been given had it been read
        d_k, d_v = (jnp.where(real, x, jnp.zeros((), x.dtype)) for x in (d_k, d_v))
    return d_q, d_k, d_v, None, None, None, None


attend.defvjp(_forward_rule, _backward_rule)


class _Step(NamedTuple):
    """One segment, inside a kernel.

    Attributes:
      target: references to the target's blocks.
      sources: for each of the C sources, references to its blocks.
      numbers: which block the target is, and which each source.
      log_counts: of each source, log of how often it counts, `[1, 1]`; hides one that is not read.
      state: references to what is accumulated.
    """

    shape: Shape
    target: tuple[Any, ...]
    sources: list[tuple[Any, ...]]
    numbers: tuple[Any, list[Any]]
    log_counts: list[Array]
    state: tuple[Any, ...]

    def hide_later(self, scores: Array, query: Any, key: Any, axis: int) -> Array:
        """In causal attention, keys after the query; `axis` is the queries'."""
        if not self.shape.causal:
            return scores
        query = query * self.shape.size + lax.broadcasted_iota(jnp.int32, scores.shape, axis)
        key = key * self.shape.size + lax.broadcasted_iota(jnp.int32, scores.shape, 1 - axis)
        return jnp.where(key <= query, scores, MASKED_SCORE)

    def scores(self, source: int) -> Array:
        """`[queries, keys]` of the target's queries with a source's keys."""
        k, *_ = self.sources[source]
        scores = _dot(self.target[0][...], k[...], (1, 1)) * self.shape.scale
        scores = scores + self.log_counts[source]
        if len(self.sources[source]) > 2:
            scores = scores + self.sources[source][2][...]
        return self.hide_later(scores, self.numbers[0], self.numbers[1][source], 0)


def _outputs(step: _Step) -> None:
    """Of queries: maximum, sum of weights and weighted values over the keys."""
    top_ref, total_ref, out_ref = step.state
    scores = [step.scores(c) for c in range(len(step.sources))]
    top = top_ref[...]
    for block in scores:
        top = jnp.maximum(top, block.max(-1, keepdims=True))
    fade = jnp.exp(top_ref[...] - top)
    total, out = total_ref[...] * fade, out_ref[...] * fade
    for block, (_, v, *_) in zip(scores, step.sources, strict=True):
        weights = jnp.exp(block - top)
        total = total + weights.sum(-1, keepdims=True)
        out = out + _dot(weights.astype(v.dtype), v[...], (1, 0))
    top_ref[...], total_ref[...], out_ref[...] = top, total, out


def _finish_outputs(shape: Shape, state, out_ref, log_sum_ref) -> None:
    top, total, out = (ref[...] for ref in state)
    divisor = jnp.where(total > 0, total, 1.0)
    out_ref[...] = (out / divisor).astype(out_ref.dtype)
    log_sum_ref[...] = jnp.where(total > 0, top + jnp.log(divisor), 0.0).T


def _query_gradients(step: _Step) -> None:
    d_out = step.target[1][...]
    log_sum, delta = (ref[...].T for ref in step.target[2:])
    d_q = step.state[0][...]
    for c, (k, v, *_) in enumerate(step.sources):
        weights = jnp.exp(step.scores(c) - log_sum)
        d_scores = weights * (_dot(d_out, v[...], (1, 1)) - delta)
        d_q = d_q + _dot(d_scores.astype(k.dtype), k[...], (1, 0))
    step.state[0][...] = d_q


def _finish_query_gradients(shape: Shape, state, d_q_ref) -> None:
    d_q_ref[...] = (state[0][...] * shape.scale).astype(d_q_ref.dtype)


def _key_gradients(step: _Step) -> None:
    """Scores are computed transposed, `[keys, queries]`, so that no block of weights has to be."""
    k, v = (ref[...] for ref in step.target)
    d_k, d_v = (ref[...] for ref in step.state)
    for c, refs in enumerate(step.sources):
        q, d_out, log_sum, delta = (ref[...] for ref in refs)
        scores = _dot(k, q, (1, 1)) * step.shape.scale + step.log_counts[c]
        scores = step.hide_later(scores, step.numbers[1][c], step.numbers[0], 1)
        weights = jnp.exp(scores - log_sum)
        d_scores = weights * (_dot(v, d_out, (1, 1)) - delta)
        d_k = d_k + _dot(d_scores.astype(q.dtype), q, (1, 0))
        d_v = d_v + _dot(weights.astype(d_out.dtype), d_out, (1, 0))
    step.state[0][...], step.state[1][...] = d_k, d_v


def _finish_key_gradients(shape: Shape, state, d_k_ref, d_v_ref) -> None:
    d_k_ref[...] = (state[0][...] * shape.scale).astype(d_k_ref.dtype)
    d_v_ref[...] = state[1][...].astype(d_v_ref.dtype)


_FINISH: dict[Callable[..., None], Callable[..., None]] = {
    _outputs: _finish_outputs,
    _query_gradients: _finish_query_gradients,
    _key_gradients: _finish_key_gradients,
}


def _launch(
    visit: Callable[[_Step], None],
    shape: Shape,
    lists: Lists,
    *,
    of_target: tuple[Array, ...],
    of_source: tuple[Array, ...],
    outputs: tuple[Any, ...],
    scratch: tuple[tuple[float, tuple[int, int]], ...],
) -> tuple[Array, ...]:
    """A grid over documents, heads and segments, the last in order.

    Args:
      of_target: arrays whose block of the target a step sees.
      of_source: arrays whose blocks of each source a step sees.
      scratch: what is accumulated: its first value, and its shape.
    """
    size, targets, sources = lists.size, len(of_target), len(of_source)

    def target_at(document, head, segment, target, *_):
        return target[lists.at(document, head, segment)]

    def source_at(number, document, head, segment, target, state, sources, *_):
        return sources[lists.at(document, head, segment) * size + number]

    def kernel(target, state, source_numbers, counts, *refs):
        refs = list(refs)
        taken = [refs.pop(0) for _ in range(targets)]
        of_sources = [tuple(refs.pop(0) for _ in range(sources)) for _ in range(size)]
        written, kept = refs[: len(outputs)], refs[len(outputs) :]
        here = [pl.program_id(axis) for axis in range(3)]
        at, stage = lists.at(*here), state[lists.state_at(*here)]

        @pl.when(stage % 2 == 1)
        def _():
            for ref, (value, _) in zip(kept, scratch, strict=True):
                ref[...] = jnp.full(ref.shape, value, ref.dtype)

        @pl.when(stage >= 4)
        def _():
            places = [at * size + c for c in range(size)]
            numbers = target[at], [source_numbers[place] for place in places]
            log_counts = [_log_count(counts[place]) for place in places]
            visit(_Step(shape, tuple(taken), of_sources, numbers, log_counts, tuple(kept)))

        @pl.when(stage % 4 >= 2)
        def _():
            _FINISH[visit](shape, kept, *written)

    number_of = [functools.partial(source_at, c) for c in range(size)]
    return pl.pallas_call(
        kernel,
        grid_spec=tpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(shape.batch, shape.heads, lists.segments),
            in_specs=[
                *(_block_spec(shape, x, target_at) for x in of_target),
                *(_block_spec(shape, x, number) for number in number_of for x in of_source),
            ],
            out_specs=[_block_spec(shape, x, target_at) for x in outputs],
            scratch_shapes=[tpu.VMEM(of_scratch, jnp.float32) for _, of_scratch in scratch],
        ),
        out_shape=list(outputs),
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=shape.interpret,
        name=f"bigbird{visit.__name__}",
    )(*lists.tables, *of_target, *(of_source * size))


def _block_spec(shape: Shape, x, number: Callable[..., Any]) -> pl.BlockSpec:
    """One block of tokens of an array, the one that `number` names."""
    if x.ndim == 5:  # a row for each document, head and block

        def row(document, head, *rest):
            return document, head, number(document, head, *rest), 0, 0

        return pl.BlockSpec((None, None, None, *x.shape[3:]), row)
    if x.shape[2] == 1:  # a row for each document and block

        def mask_row(document, head, *rest):
            return document, number(document, head, *rest), 0, 0

        return pl.BlockSpec((None, None, *x.shape[2:]), mask_row)

    def tokens(document, head, *rest):
        return document, head, number(document, head, *rest), 0

    return pl.BlockSpec((None, None, shape.size, x.shape[-1]), tokens)


def _log_count(count: Any) -> Array:
    """Of a scalar, `[1, 1]`."""
    known = jnp.log(jnp.full((1, 1), jnp.maximum(count, 1).astype(jnp.float32)))
    return jnp.where(count > 0, known, MASKED_SCORE)


def _dot(x: Array, y: Array, axes: tuple[int, int]) -> Array:
    """Contracts an axis of each; accumulated in float32, and of float32 without rounding."""
    return lax.dot_general(
        x,
        y,
        (((axes[0],), (axes[1],)), ((), ())),
        precision=lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
