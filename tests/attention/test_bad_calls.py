"""Bad calls of the attention library: each raises, and says the rule and the value received."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_bigbird.attention import (
    BlockPattern,
    api,
    available_implementations,
    bigbird_pattern,
    block_sparse_attention,
)

PATTERN = bigbird_pattern(3, 2)


def arrays(shape=(1, 6, 2, 4), dtype=jnp.float32):
    return [jnp.zeros(shape, dtype)] * 3


def pattern_with(**changes):
    return dataclasses.replace(PATTERN, **changes)


BAD_CALLS = {
    "three_axes": (arrays((1, 6, 8)), {}, r"\[B, T, N, H\].*got \(1, 6, 8\)"),
    "keys_of_another_length": (
        [*arrays()[:1], *arrays((1, 8, 2, 4))[:2]],
        {},
        r"one shape .*\(1, 8, 2, 4\)",
    ),
    "integers": (arrays(dtype=jnp.int32), {}, r"floating dtype; got int32.*\.astype"),
    "mixed_dtypes": (
        [*arrays()[:2], *arrays(dtype=jnp.bfloat16)[:1]],
        {},
        r"one floating dtype; got float32, float32 and bfloat16",
    ),
    "too_long": (arrays((1, 7, 2, 4)), {}, r"5 to 6 tokens; q has 7.*4 blocks"),
    "too_short": (arrays((1, 4, 2, 4)), {}, r"5 to 6 tokens; q has 4.*2 blocks"),
    "mask_of_ones": (arrays(), {"mask": jnp.ones((1, 6))}, r"boolean .*got float32"),
    "mask_shape": (arrays(), {"mask": jnp.ones((1, 5), bool)}, r"\(1, 6\); got bool \(1, 5\)"),
    "implementation": (
        arrays(),
        {"implementation": "cuda"},
        r"one of \['cpu', .*'xla'\] or None; got 'cuda'",
    ),
    "heads": (
        arrays(),
        {
            "pattern": pattern_with(
                blocks=np.zeros((1, 3, 3, 2), np.int32), counts=np.ones((1, 3, 3, 2), np.int32)
            )
        },
        r"axis N must be 1 or 2, .*got 3",
    ),
    "examples": (
        arrays(),
        {
            "pattern": pattern_with(
                blocks=np.zeros((2, 1, 3, 2), np.int32), counts=np.ones((2, 1, 3, 2), np.int32)
            )
        },
        r"axis B must be 1 or 1, .*got 2",
    ),
    "counts_shape": (
        arrays(),
        {"pattern": pattern_with(counts=PATTERN.counts[..., :1])},
        r"must have one shape; got",
    ),
    "pattern_axes": (
        arrays(),
        {"pattern": pattern_with(blocks=PATTERN.blocks[0], counts=PATTERN.counts[0])},
        r"must have shape \[B or 1",
    ),
    "block_past_the_end": (
        arrays(),
        {"pattern": pattern_with(blocks=PATTERN.blocks + 2)},
        r"block ids must lie in 0\.\.2 .*got 2 to \d",
    ),
    "global_row_past_the_end": (
        arrays(),
        {"pattern": pattern_with(global_rows=np.array([[0, 3]], np.int32))},
        r"global rows must lie in 0\.\.2 .*got 0 to 3",
    ),
    "global_rows_shape": (
        arrays(),
        {"pattern": pattern_with(global_rows=np.zeros((2, 2), np.int32))},
        r"global_rows must have shape \[1 or 1, G\]; got \(2, 2\)",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_call(name):
    qkv, kwargs, message = BAD_CALLS[name]
    kwargs = {"pattern": PATTERN} | kwargs
    attend = inspect.unwrap(block_sparse_attention)  # without the checks that pytest adds
    with pytest.raises(ValueError, match=message):
        attend(*qkv, **kwargs)


@pytest.mark.parametrize("rows", [[[0, 3], [1], [2]], [[-2], [1], [2]]])
def test_lists_outside_the_pattern(rows):
    with pytest.raises(ValueError, match=r"0\.\.2 \(the pattern has 3 rows\)"):
        BlockPattern.from_lists(rows, 2)


def test_a_backend_that_declines_is_skipped(monkeypatch):
    def declines(*args, **kwargs):
        raise NotImplementedError("not this call")

    table = {"new": declines, **api._IMPLEMENTATIONS}
    monkeypatch.setattr(api, "_IMPLEMENTATIONS", table)
    q, k, v = arrays()
    assert block_sparse_attention(q, k, v, PATTERN).shape == q.shape
    with pytest.raises(NotImplementedError, match="not this call"):
        block_sparse_attention(q, k, v, PATTERN, implementation="new")
    monkeypatch.setattr(api, "_IMPLEMENTATIONS", {"new": declines})
    with pytest.raises(NotImplementedError, match=r"no attention .*\n  new: not this"):
        block_sparse_attention(q, k, v, PATTERN)


def test_every_reason_is_reported(monkeypatch):
    def declines(reason):
        def run(*args, **kwargs):
            raise NotImplementedError(reason)

        return run

    table = {"one": declines("too small"), "two": declines("too large")}
    monkeypatch.setattr(api, "_IMPLEMENTATIONS", table)
    q, k, v = arrays()
    with pytest.raises(NotImplementedError, match=r"(?s)one: too small.*two: too large") as error:
        block_sparse_attention(q, k, v, PATTERN)
    assert isinstance(error.value.__cause__, ExceptionGroup)
    assert [str(reason) for reason in error.value.__cause__.exceptions] == [
        "too small",
        "too large",
    ]


def test_available_implementations():
    found = available_implementations()
    assert found["xla"] == found["reference"] == ""


def test_pattern_is_a_pytree():
    leaves, tree = jax.tree.flatten(PATTERN)
    assert len(leaves) == 3
    again = jax.tree.unflatten(tree, leaves)
    assert (again.num_blocks, again.row_width, again.block_size) == (3, 3, 2)
    assert again.causal is False
