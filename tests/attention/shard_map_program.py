"""Compares gradients through `jax.shard_map` with those of one device; prints the differences.

`test_shard_map.py` runs it with four devices: two for the examples ("b"), two for the heads ("n").
"""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from flax_bigbird.attention import (
    bigbird_pattern,
    block_sparse_attention,
    full_attention,
    random_blocks,
)
from flax_bigbird.attention.backends import interpret_mode

jax.config.update("jax_default_matmul_precision", "highest")
B, M, W, N, H = 2, 8, 4, 2, 8
MESH = jax.make_mesh((2, 2), ("b", "n"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
PER_HEAD = bigbird_pattern(M, W, random=random_blocks.fixed(M, 1, N, 0))
SHARED = bigbird_pattern(M, W, extra_first=1)
LISTS = P(None, "n")  # of a pattern `[1, N, M, K]`
# The layout of queries and outputs, of keys and values, of the mask, and of the pattern.
LAYOUTS = {
    "examples": (P("b"), P("b"), P("b"), P()),
    "examples and heads": (P("b", None, "n"), P("b", None, "n"), P("b"), LISTS),
    # Every device reads the same keys; their gradients are sums over the devices.
    "queries alone": (P("b", None, "n"), P(), P("b"), None),
    "nothing": (P(), P(), P(), P()),
}


def attention(name: str, q, k, v, mask, pattern):
    kind, implementation = name.split(":")
    if kind == "full":
        return full_attention(q, k, v, mask=mask, implementation=implementation)
    pattern = SHARED if pattern is None else pattern
    return block_sparse_attention(q, k, v, pattern, mask=mask, implementation=implementation)


def loss_and_gradients(name: str, layout: str, remat: bool, check_vma: bool) -> tuple[Any, Any]:
    """Returns the loss and the gradients through `shard_map`, and those without it."""
    rows, keys, masks, lists = LAYOUTS[layout]
    rng = np.random.default_rng(0)
    q, k, v, d = (jnp.asarray(rng.standard_normal((B, M * W, N, H)), "float32") for _ in range(4))
    mask = jnp.asarray(rng.random((B, M * W)) < 0.7)
    tiles = (1, 1, 1, 1)
    if layout == "queries alone":
        k, v, tiles = k[:1, :, :1], v[:1, :, :1], (B, 1, N, 1)
    pattern = None if lists is None else jax.tree.map(jnp.asarray, PER_HEAD)
    pattern_specs = jax.tree.map(lambda x: lists if x.ndim == 4 else P(), pattern)

    attend: Any = functools.partial(attention, name)
    attend = jax.checkpoint(attend) if remat else attend

    def loss(x, mask, pattern, d):
        q, k, v = x
        return (attend(q, jnp.tile(k, tiles), jnp.tile(v, tiles), mask, pattern) * d).sum()

    def inside(x, mask, pattern, d):
        """The whole step on each device, as a training step has it."""

        def total(x):
            loss = (attend(*x, mask, pattern) * d).sum()
            return jax.lax.psum(loss, tuple(jax.typeof(loss).manual_axis_type.varying))

        return jax.value_and_grad(total)(x)

    def outside(x, mask, pattern, d):
        """The gradient of a function that is mapped."""

        def total(x):
            out = jax.shard_map(
                attend,
                mesh=MESH,
                in_specs=(rows, keys, keys, masks, pattern_specs),
                out_specs=rows,
                check_vma=check_vma,
            )(*x, mask, pattern)
            return (out * d).sum()

        return jax.value_and_grad(total)(x)

    x = (q, k, v)
    want = jax.jit(jax.value_and_grad(loss))(x, mask, pattern, d)
    got = [jax.jit(outside)(x, mask, pattern, d)]
    if check_vma:
        specs = (rows, keys, keys)
        mapped = jax.shard_map(
            inside,
            mesh=MESH,
            in_specs=(specs, masks, pattern_specs, rows),
            out_specs=(P(), specs),
        )
        got.append(jax.jit(mapped)(x, mask, pattern, d))
    return got, want


def largest_difference(got: Any, want: Any) -> float:
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(float(jnp.abs(a - b).max() / jnp.maximum(1, jnp.abs(b).max())) for a, b in pairs)


def main() -> None:
    names = ["sparse:reference", "sparse:xla", "sparse:cpu", "full:xla", "full:cpu"]
    cases = [(n, layout, layout == "examples", True) for n in names for layout in LAYOUTS]
    # JAX's interpreter of Pallas does not run inside shard_map with check_vma=True.
    cases += [(f"sparse:{n}", "examples and heads", False, False) for n in ("triton", "mosaic_tpu")]
    for name, layout, remat, check_vma in cases:
        interpreted = contextlib.nullcontext() if check_vma else interpret_mode.interpreted()
        with interpreted:
            try:
                got, want = loss_and_gradients(name, layout, remat, check_vma)
            except NotImplementedError as reason:  # there is no native library
                print(f"{name}, {layout}: declines: {reason}")
                continue
        for gradients in got:
            print(f"{name}, {layout}: {largest_difference(gradients, want)}")


if __name__ == "__main__":
    main()
