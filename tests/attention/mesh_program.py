"""Compares attention under meshes with that of one device, on random inputs; prints differences.

`test_meshes.py` runs it with eight devices: `mesh_program.py SEED CASES`, where CASES is the number
of meshes to draw, or 0 for all meshes of 2, 4 and 8 devices. The kinds of patterns take turns.
"""

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from meshes import all_sizes, make_mesh
from named_shapes import Shape

from flax_bigbird.attention import (
    BlockPattern,
    add_global_blocks,
    available_implementations,
    bigbird_pattern,
    block_segment_ids,
    block_sparse_attention,
    count_example_blocks,
    full_attention,
    packed_causal_pattern,
    packed_full_pattern,
    random_blocks,
    read_short_examples_in_full,
    sharded_block_sparse_attention,
    sharded_full_attention,
    user_global_blocks,
)

jax.config.update("jax_default_matmul_precision", "highest")
KINDS = (
    "random",
    "hf_evaluation",
    "causal",
    "traced",
    "traced_causal",
    "any_lists",
    "any_traced_lists",
    "per_example",
    "per_example_hf",
    "redrawn",
    "user_global",
    "packed",
    "packed_causal",
    "full",
    "full_causal",
)


class Case(NamedTuple):
    """A kind of pattern on a mesh; `implementation` is None for full attention."""

    kind: str
    sizes: dict[str, int]
    implementation: str | None
    shape: Shape


def make_pattern(kind: str, shape: Shape, mask: Any, rng: np.random.Generator) -> BlockPattern:
    """Builds the pattern of a kind, inside `jit` if it depends on the mask."""
    blocks, size, heads = shape.M, shape.W, shape.N
    causal = kind in ("causal", "traced_causal", "packed_causal")
    random = random_blocks.fixed(blocks, shape.R, heads, 0, causal=causal)
    pattern = bigbird_pattern(blocks, size, random=random, causal=causal)
    if kind in ("hf_evaluation", "user_global"):
        pattern = bigbird_pattern(blocks, size, extra_first=shape.R)
    if kind in ("any_lists", "any_traced_lists"):
        lead = (int(rng.choice([1, shape.B])), int(rng.choice([1, heads])))
        ids = rng.integers(0, blocks, (*lead, blocks, 4)).astype(np.int32)
        counts = rng.integers(0, 3, ids.shape).astype(np.int32)
        rows = rng.integers(0, blocks, (int(rng.choice([1, shape.B])), 2)).astype(np.int32)
        pattern = BlockPattern(ids, counts, rows, size)
    if kind in ("traced", "traced_causal", "any_traced_lists"):
        return jax.tree.map(jnp.asarray, pattern)
    if kind in ("per_example", "per_example_hf"):
        counted = count_example_blocks(mask, size)
        own = random_blocks.fixed(counted, shape.R, heads, 0, max_blocks=blocks)
        is_hf = kind == "per_example_hf"
        options: Any = {"extra_first": shape.R} if is_hf else {"random": own}
        pattern = bigbird_pattern(counted, size, max_blocks=blocks, **options)
        return read_short_examples_in_full(pattern, counted, 3)
    if kind == "redrawn":
        key = jax.random.key(int(rng.integers(2**31)))
        random = random_blocks.redraw(key, blocks, shape.R, heads)
        return bigbird_pattern(blocks, size, random=random)
    if kind == "user_global":
        marked = jnp.asarray(rng.random((shape.B, shape.T)) < 2 / shape.T)
        return add_global_blocks(pattern, user_global_blocks(marked, size, 3)[0])
    if kind in ("packed", "packed_causal"):
        segments = np.sort(rng.integers(1, 5, (shape.B, blocks)), axis=-1)
        segments, _ = block_segment_ids(jnp.asarray(segments.repeat(size, 1)), size)
        if kind == "packed":
            return packed_full_pattern(segments, blocks, size)[0]
        return packed_causal_pattern(pattern, segments)
    return pattern


def run(case: Case, rng: np.random.Generator) -> float:
    """Returns the largest difference of the output and the gradients, relative to the largest."""
    shape = case.shape
    clean = [
        jnp.asarray(rng.standard_normal((shape.B, shape.T, shape.N, shape.H)), "float32")
        for _ in range(4)
    ]
    mask = jnp.asarray(rng.random((shape.B, shape.T)) < 0.8)
    mask &= np.arange(shape.T) < rng.integers(1, shape.T + 1, (shape.B, 1))
    is_full = case.kind in ("full", "full_causal")
    seed = int(rng.integers(2**31))

    def step(attend: Any, implementation: str | None):
        def outputs(q, k, v, d_out, mask):
            def out(q, k, v):
                if is_full:
                    causal = case.kind == "full_causal"
                    return attend(q, k, v, mask=mask, causal=causal)
                pattern = make_pattern(case.kind, shape, mask, np.random.default_rng(seed))
                return attend(q, k, v, pattern, mask=mask, implementation=implementation)

            out, pull = jax.vjp(out, q, k, v)
            return (out, *pull(d_out))

        return jax.jit(outputs)

    single = full_attention if is_full else block_sparse_attention
    several = sharded_full_attention if is_full else sharded_block_sparse_attention
    want = step(single, None)(*clean, mask)
    # Masked tokens hold NaN, which must reach nothing. Full attention computes masked queries.
    poison = 0 if is_full else jnp.nan
    inputs = [jnp.where(mask[..., None, None] | is_full, x, poison) for x in clean]
    with jax.set_mesh(make_mesh(case.sizes)):
        got = step(several, case.implementation)(*inputs, mask)
    differences = [
        float(jnp.abs(a - b).max() / jnp.maximum(1, jnp.abs(b).max()))
        for a, b in zip(got, want, strict=True)
    ]
    return max(differences) if np.isfinite(differences).all() else np.nan


def draw_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    """Draws meshes with kinds of patterns and shapes; a count of 0 means all meshes."""
    meshes = [sizes for devices in (2, 4, 8) for sizes in all_sizes(devices)]
    names = [n for n in ("cpu", "xla", "reference") if not available_implementations()[n]]
    kinds = rng.permutation(KINDS)
    order = rng.permutation(len(meshes))
    if count:  # these few split tokens
        order = [i for i in order if meshes[i].get("sequence")][:count]
    for i, mesh in enumerate(order):
        kind = str(kinds[i % len(kinds)])
        size = int(rng.choice([1, 2, 4]))
        shape = Shape(
            B=int(rng.integers(1, 4)),
            T=int(rng.integers(1, 24 * size)),
            N=int(rng.integers(1, 4)),
            H=4,
            W=size,
            R=int(rng.integers(0, 3)),
        )
        implementation = None if kind.startswith("full") else str(rng.choice(names))
        yield Case(kind, meshes[mesh], implementation, shape)


def main() -> None:
    seed, count = map(int, sys.argv[1:])
    rng = np.random.default_rng(seed)
    for case in draw_cases(count, rng):
        print(f"{case}: {run(case, rng)}", flush=True)


if __name__ == "__main__":
    main()
