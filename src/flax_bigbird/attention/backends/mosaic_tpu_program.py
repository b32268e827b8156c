"""Code that the three TPU kernels share: the scalar lists, one step of the grid, and the launch.

All arrays are `[B, N, T, H]`.
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

from flax_bigbird.attention.backends.work_lists import WorkList
from flax_bigbird.attention.numerics import MASKED_SCORE


class KernelShape(NamedTuple):
    """The static parameters that the kernels are compiled for."""

    scale: float
    causal: bool
    block_size: int  # in tokens
    length: int
    head_width: int
    heads: int
    batch: int
    interpret: bool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScalarWorkList:
    """A `WorkList` as flat tables of scalars, which a TPU prefetches into scalar memory.

    Attributes:
      target: `[#B * #N * I]`, the target of each work item.
      state: `[#B * #N * I]`: 4 times the number of used sources, plus 1 in the first item of a
        target, plus 2 in its last. With a mask it differs by example where the rest does not.
      sources, counts: `[#B * #N * I * C]`.
      strides, state_strides: The distance to the items of the next example, and of the next head.
      num_items: I.
    """

    target: Any
    state: Any
    sources: Any
    counts: Any
    strides: tuple[int, int] = dataclasses.field(metadata={"static": True})
    state_strides: tuple[int, int] = dataclasses.field(metadata={"static": True})
    num_items: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def from_work(cls, work: WorkList) -> "ScalarWorkList":
        first_item, target, sources, counts, num_used = (jnp.asarray(x) for x in work)
        num_items = target.shape[-1]
        start, end = (
            jnp.take_along_axis(x, target, -1) for x in (first_item[..., :-1], first_item[..., 1:])
        )
        item = jnp.arange(num_items, dtype=jnp.int32)
        is_first, is_last = item == start, item == end - 1
        state = 4 * num_used + jnp.where(is_first, 1, 0) + jnp.where(is_last, 2, 0)
        strides = cls._strides(target), cls._strides(state)
        target, state, sources, counts = (
            x.reshape(-1).astype(jnp.int32) for x in (target, state, sources, counts)
        )
        return cls(target, state, sources, counts, *strides, num_items)

    @staticmethod
    def _strides(table: Array) -> tuple[int, int]:
        examples, heads, num_items = table.shape
        return heads * num_items if examples > 1 else 0, num_items if heads > 1 else 0

    @property
    def tables(self) -> tuple[Any, Any, Any, Any]:
        return self.target, self.state, self.sources, self.counts

    @property
    def words(self) -> int:
        """The scalar memory that the tables take, in 32-bit words."""
        return sum(x.size for x in self.tables)

    @property
    def item_size(self) -> int:
        """C, the sources per item."""
        return self.sources.size // self.target.size

    def index(self, example, head, item) -> Any:
        """Returns the index of an item in the tables."""
        return example * self.strides[0] + head * self.strides[1] + item

    def state_index(self, example, head, item) -> Any:
        """Returns the index of an item in `state`."""
        return example * self.state_strides[0] + head * self.state_strides[1] + item


class Step(NamedTuple):
    """One work item, inside a kernel.

    Attributes:
      shape: What the kernel is compiled for.
      target: References to the blocks of the target.
      sources: For each of the C sources, references to its blocks.
      target_block: The block id of the target.
      source_blocks: The block id of each source.
      log_counts: For each source, the log of how often it counts, `[1, 1]`, or a score that hides
        it.
      accumulated: References to the scratch memory in which sums are kept.
    """

    shape: KernelShape
    target: tuple[Any, ...]
    sources: list[tuple[Any, ...]]
    target_block: Any
    source_blocks: list[Any]
    log_counts: list[Array]
    accumulated: tuple[Any, ...]

    def hide_later(self, scores: Array, query_block: Any, key_block: Any, query_axis: int) -> Array:
        """Hides the keys after the query in causal attention."""
        if not self.shape.causal:
            return scores
        size, iota = self.shape.block_size, lax.broadcasted_iota
        query = query_block * size + iota(jnp.int32, scores.shape, query_axis)
        key = key_block * size + iota(jnp.int32, scores.shape, 1 - query_axis)
        return jnp.where(key <= query, scores, MASKED_SCORE)

    def scores(self, source: int) -> Array:
        """Returns the scores of the target's queries with the keys of a source."""
        k, *_ = self.sources[source]
        scores = dot(self.target[0][...], k[...], (1, 1)) * self.shape.scale
        scores = scores + self.log_counts[source]
        if len(self.sources[source]) > 2:
            scores = scores + self.sources[source][2][...]
        return self.hide_later(scores, self.target_block, self.source_blocks[source], 0)


class Kernel(NamedTuple):
    """The definition of a kernel.

    Attributes:
      name: The name in profiles.
      visit: Adds the sources of one work item to the scratch memory.
      finish: Writes the outputs of a target: `finish(shape, accumulated, *outputs)`.
    """

    name: str
    visit: Callable[[Step], None]
    finish: Callable[..., None]


def launch(
    kernel: Kernel,
    shape: KernelShape,
    work: ScalarWorkList,
    *,
    target_arrays: tuple[Array, ...],
    source_arrays: tuple[Array, ...],
    outputs: tuple[Any, ...],
    scratch: tuple[tuple[float, tuple[int, int]], ...],
) -> tuple[Array, ...]:
    """Runs a kernel on a grid over examples, heads and work items, the last in order.

    Args:
      kernel: The kernel.
      shape: What it is compiled for.
      work: The work items.
      target_arrays: The arrays of which a step sees the block of the target.
      source_arrays: The arrays of which a step sees the block of each source.
      outputs: The shapes and dtypes of the results.
      scratch: The first value and the shape of everything that is accumulated.
    """
    size, num_target, num_source = work.item_size, len(target_arrays), len(source_arrays)

    def target_at(example, head, item, target, *_):
        return target[work.index(example, head, item)]

    def source_at(entry, example, head, item, target, state, sources, *_):
        return sources[work.index(example, head, item) * size + entry]

    def body(target, state, sources, counts, *refs):
        refs = list(refs)
        target_refs = [refs.pop(0) for _ in range(num_target)]
        source_refs = [tuple(refs.pop(0) for _ in range(num_source)) for _ in range(size)]
        output_refs, accumulated = refs[: len(outputs)], refs[len(outputs) :]
        here = [pl.program_id(axis) for axis in range(3)]
        at, stage = work.index(*here), state[work.state_index(*here)]

        @pl.when(stage % 2 == 1)
        def _():
            for ref, (value, _) in zip(accumulated, scratch, strict=True):
                ref[...] = jnp.full(ref.shape, value, ref.dtype)

        @pl.when(stage >= 4)
        def _():
            entries = [at * size + c for c in range(size)]
            kernel.visit(
                Step(
                    shape,
                    tuple(target_refs),
                    source_refs,
                    target[at],
                    [sources[entry] for entry in entries],
                    [_log_count(counts[entry]) for entry in entries],
                    tuple(accumulated),
                )
            )

        @pl.when(stage % 4 >= 2)
        def _():
            kernel.finish(shape, accumulated, *output_refs)

    sources_at = [functools.partial(source_at, c) for c in range(size)]
    return pl.pallas_call(
        body,
        grid_spec=tpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(shape.batch, shape.heads, work.num_items),
            in_specs=[
                *(_block_spec(shape, x, target_at) for x in target_arrays),
                *(_block_spec(shape, x, at) for at in sources_at for x in source_arrays),
            ],
            out_specs=[_block_spec(shape, x, target_at) for x in outputs],
            scratch_shapes=[tpu.VMEM(scratch_shape, jnp.float32) for _, scratch_shape in scratch],
        ),
        out_shape=list(outputs),
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=shape.interpret,
        name=kernel.name,
    )(*work.tables, *target_arrays, *(source_arrays * size))


def _block_spec(shape: KernelShape, x, block_at: Callable[..., Any]) -> pl.BlockSpec:
    """Returns a block spec that gives a step the block of tokens that `block_at` returns."""
    if x.ndim == 5:  # a row for each example, head and block

        def row(example, head, *rest):
            return example, head, block_at(example, head, *rest), 0, 0

        return pl.BlockSpec((None, None, None, *x.shape[3:]), row)
    if x.shape[2] == 1:  # a row for each example and block

        def mask_row(example, head, *rest):
            return example, block_at(example, head, *rest), 0, 0

        return pl.BlockSpec((None, None, *x.shape[2:]), mask_row)

    def tokens(example, head, *rest):
        return example, head, block_at(example, head, *rest), 0

    return pl.BlockSpec((None, None, shape.block_size, x.shape[-1]), tokens)


def _log_count(count: Any) -> Array:
    """Returns the log of a scalar count as `[1, 1]`, or a score that hides a count of 0."""
    log_count = jnp.log(jnp.full((1, 1), jnp.maximum(count, 1).astype(jnp.float32)))
    return jnp.where(count > 0, log_count, MASKED_SCORE)


def dot(x: Array, y: Array, axes: tuple[int, int]) -> Array:
    """Contracts an axis of each array, accumulated in float32; float32 is not rounded."""
    return lax.dot_general(
        x,
        y,
        (((axes[0],), (axes[1],)), ((), ())),
        precision=lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
