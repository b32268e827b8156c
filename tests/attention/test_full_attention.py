"""Full attention: every implementation against its definition in float64, forward and gradient."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program_costs import temporary_bytes

from flax_bigbird.attention import available_implementations, full_attention
from flax_bigbird.attention.backends import cpu, xla_full

IMPLEMENTATIONS = ("cpu", "xla", "xla_chunks")
# examples, queries, keys, heads, width
SHAPES = {
    "one_token": (2, 1, 1, 2, 4),
    "short": (3, 17, 17, 2, 5),
    "tile": (1, 64, 64, 1, 8),
    "ragged": (2, 131, 131, 2, 16),
    "step": (2, 1, 203, 3, 17),
    "few": (1, 8, 130, 2, 16),
    "cross": (2, 70, 9, 2, 8),
    "cross_long": (1, 5, 300, 1, 33),
}
MASKS = ("none", "padding", "holes", "empty_example")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request, monkeypatch):
    """The name to ask for; "xla_chunks" is "xla" with a few queries at a time."""
    name = request.param.removesuffix("_chunks")
    if reason := available_implementations()[name]:
        pytest.skip(reason)
    if name != request.param:
        monkeypatch.setattr(xla_full, "_MAX_CHUNK_SCORES", 1000)
    return name


def inputs(shape, rng, dtype: Any = np.float64):
    """Returns `(q, k, v, d_out)`."""
    examples, queries, keys, heads, width = shape
    q, k, v, d_out = (
        rng.standard_normal((examples, length, heads, width)).astype(dtype)
        for length in (queries, keys, keys, queries)
    )
    return q, k, v, d_out


def make_mask(kind: str, examples: int, keys: int, rng) -> Any:
    """Returns `[B, S]` booleans, or None for the kind "none"."""
    mask = np.ones((examples, keys), bool)
    if kind == "none":
        return None
    if kind == "padding":
        mask = np.arange(keys) < rng.integers(1, keys + 1, (examples, 1))
    elif kind == "holes":
        mask = rng.random((examples, keys)) < 0.5
    elif kind == "empty_example":
        mask[-1] = False
    return mask


def definition(q, k, v, d_out, mask, causal: bool, scale: float):
    """`(out, d_q, d_k, d_v)` in float64, one query at a time."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in (q, k, v, d_out))
    out, d_q, d_k, d_v = (np.zeros(x.shape) for x in (q, q, k, v))
    for b, t, n in np.ndindex(q.shape[:3]):
        read = np.arange(k.shape[1]) if mask is None else np.flatnonzero(mask[b])
        if causal:
            read = read[read <= t]
        if not len(read):
            continue
        scores = k[b, read, n] @ q[b, t, n] * scale
        p = np.exp(scores - scores.max())
        p /= p.sum()
        out[b, t, n] = p @ v[b, read, n]
        d_p = v[b, read, n] @ d_out[b, t, n]
        d_s = p * (d_p - p @ d_p) * scale
        d_q[b, t, n] = d_s @ k[b, read, n]
        d_k[b, read, n] += d_s[:, None] * q[b, t, n]
        d_v[b, read, n] += p[:, None] * d_out[b, t, n]
    return out, d_q, d_k, d_v


def run(q, k, v, d_out, mask, **options):
    """`(out, d_q, d_k, d_v)`, compiled with every array an argument."""

    @jax.jit
    def compute(q, k, v, d_out, mask):
        attend = lambda q, k, v: full_attention(q, k, v, mask=mask, **options)  # noqa: E731
        out, pull = jax.vjp(attend, q, k, v)
        return (out, *pull(d_out))

    mask = None if mask is None else jnp.asarray(mask)
    return compute(*(jnp.asarray(x) for x in (q, k, v, d_out)), mask)


def close(got, want, tolerance):
    for name, g, w in zip(("out", "d_q", "d_k", "d_v"), got, want, strict=True):
        np.testing.assert_allclose(
            np.asarray(g, np.float64), w, atol=tolerance, rtol=tolerance, err_msg=name
        )


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_definition(implementation, shape, kind, causal, rng):
    examples, queries, keys, *_ = sizes = SHAPES[shape]
    if causal and queries != keys:
        pytest.skip("causal attention is of a sequence to itself")
    arrays = inputs(sizes, rng, np.float32)
    mask = make_mask(kind, examples, keys, rng)
    scale = 1 / sizes[-1] ** 0.5
    want = definition(*arrays, mask, causal, scale)
    close(run(*arrays, mask, causal=causal, implementation=implementation), want, 2e-5)


def test_own_scale(implementation, rng):
    arrays = inputs(SHAPES["short"], rng, np.float32)
    want = definition(*arrays, None, False, 0.3)
    close(run(*arrays, None, scale=0.3, implementation=implementation), want, 2e-5)


@pytest.mark.parametrize("shape", ["short", "step"])
def test_bfloat16(implementation, shape, rng):
    q, k, v, d_out = (jnp.asarray(x, jnp.bfloat16) for x in inputs(SHAPES[shape], rng))
    got = run(q, k, v, d_out, None, implementation=implementation)
    assert all(x.dtype == jnp.bfloat16 for x in got)
    scale = 1 / SHAPES[shape][-1] ** 0.5
    close(got, definition(q, k, v, d_out, None, False, scale), 4e-2)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("shape", ["short", "step"])
def test_masked_keys_do_not_leak(implementation, shape, poison, rng):
    """Whatever a masked key or value holds, outputs and gradients are as if it were not there."""
    examples, _, keys, *_ = sizes = SHAPES[shape]
    q, k, v, d_out = inputs(sizes, rng, np.float32)
    mask = make_mask("holes", examples, keys, rng)
    mask[:, 0] = True
    want = definition(q, k, v, d_out, mask, False, 1 / sizes[-1] ** 0.5)
    k[~mask], v[~mask] = poison, poison
    close(run(q, k, v, d_out, mask, implementation=implementation), want, 2e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.skipif(bool(cpu.unavailable()), reason="no native kernel here")
def test_every_instruction_set(shape, rng):
    examples, _, keys, *_ = sizes = SHAPES[shape]
    q, k, v, d_out = (jnp.asarray(x) for x in inputs(sizes, rng, np.float32))
    mask = jnp.asarray(make_mask("holes", examples, keys, rng))
    scale = 1 / sizes[-1] ** 0.5
    want = definition(q, k, v, d_out, mask, False, scale)
    for name in cpu.instruction_sets():
        attend = lambda *a, name=name: cpu.full_attention(  # noqa: E731
            *a, mask=mask, scale=scale, instructions=name
        )
        out, pull = jax.vjp(attend, q, k, v)
        close((out, *pull(d_out)), want, 2e-5)


def test_vmap(implementation, rng):
    q, k, v, d_out = (jnp.asarray(x) for x in inputs((3, 9, 12, 2, 8), rng, np.float32))
    mask = jnp.asarray(make_mask("holes", 3, 12, rng))
    want = run(q, k, v, d_out, mask, implementation=implementation)[0]
    one = lambda q, k, v, mask: full_attention(  # noqa: E731
        q[None], k[None], v[None], mask=mask[None], implementation=implementation
    )[0]
    got = jax.jit(jax.vmap(one))(q, k, v, mask)
    np.testing.assert_allclose(got, want, atol=2e-6)
    shared = jax.vmap(lambda q: full_attention(q, k, v, mask=mask, implementation=implementation))(
        jnp.stack([q, 2 * q])
    )
    np.testing.assert_allclose(shared[0], want, atol=2e-6)


def test_chunks_keep_no_square(rng, monkeypatch):
    """Going backward too, the plain path holds the scores of one chunk, not [B, N, T, S]."""
    monkeypatch.setattr(xla_full, "_MAX_CHUNK_SCORES", 2**14)
    q = jnp.ones((1, 1024, 1, 8))
    loss = lambda q: full_attention(q, q, q, implementation="xla").sum()  # noqa: E731
    program = jax.jit(jax.grad(loss)).lower(q).compile()
    assert temporary_bytes(program) < 1024 * 1024 * 4 / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": (2, 9, 2, 7)}, "q must have shape"),
        ({"k": (2, 9, 3, 8), "v": (2, 9, 3, 8)}, "q must have shape"),
        ({"k": (2, 7, 2, 8), "v": (2, 7, 2, 8), "causal": True}, "as many queries as keys"),
        ({"mask": np.ones((2, 8), bool)}, "mask must be boolean with shape"),
        ({"mask": np.ones((2, 9), np.float32)}, "mask must be boolean"),
        ({"dtype": np.int32}, "floating dtype"),
        ({"implementation": "fast"}, "implementation must be one of"),
    ],
)
def test_bad_calls(change, message):
    shape, dtype = (2, 9, 2, 8), change.pop("dtype", np.float32)
    q, k, v = (jnp.zeros(change.pop(name, shape), dtype) for name in "qkv")
    mask = change.pop("mask", None)
    attend = inspect.unwrap(full_attention)  # without the checks that pytest adds
    with pytest.raises(ValueError, match=message):
        attend(q, k, v, mask=None if mask is None else jnp.asarray(mask), **change)


def test_float64_is_declined_by_the_kernel_and_taken_in_plain_jax(rng):
    with jax.enable_x64(True):
        q, k, v, d_out = (jnp.asarray(x) for x in inputs(SHAPES["short"], rng))
        assert q.dtype == jnp.float64
        want = definition(q, k, v, d_out, None, False, 1 / 5**0.5)
        close(run(q, k, v, d_out, None), want, 1e-12)
