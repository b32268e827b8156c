"""The native CPU kernel: tails, tiles, instruction sets, threads and bits."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from attention_suite import make_inputs, make_mask
from named_shapes import Shape

from flax_bigbird.attention import (
    BlockPattern,
    bigbird_pattern,
    block_sparse_attention,
    random_blocks,
)
from flax_bigbird.attention.backends import cpu

pytestmark = pytest.mark.skipif(cpu.unavailable() != "", reason=cpu.unavailable() or "runs")

# Widths and blocks below, at and past a vector (4, 8, 16 floats) and a tile (64 queries and keys).
SHAPES = {
    "one": Shape(B=1, T=1, N=1, H=1, W=1, R=0),
    "tails": Shape(B=2, T=90, N=2, H=9, W=10, R=2),
    "vector": Shape(B=1, T=128, N=2, H=16, W=16, R=2),
    "tile": Shape(B=1, T=640, N=2, H=64, W=64, R=1),
    "past_a_tile": Shape(B=1, T=260, N=1, H=70, W=65, R=0),
    "two_tiles": Shape(B=1, T=520, N=1, H=24, W=130, R=0),
    "split_global_rows": Shape(B=2, T=300, N=1, H=12, W=2, R=3),
}


def pattern_of(shape: Shape, causal: bool = False) -> BlockPattern:
    random = random_blocks.fixed(shape.M, shape.R, shape.N, 0, causal=causal) if shape.R else None
    return bigbird_pattern(shape.M, shape.W, random=random, extra_first=1, causal=causal)


def run(q, k, v, pattern, d_out, mask=None, instructions=""):
    """`(out, d_q, d_k, d_v)`."""

    def attend(q, k, v):
        return cpu.block_sparse_attention(
            q, k, v, pattern, mask=mask, scale=q.shape[-1] ** -0.5, instructions=instructions
        )

    out, pull = jax.vjp(attend, q, k, v)
    return (out, *pull(d_out))


def compare(got, inputs, pattern, mask, tolerance):
    q, k, v, d_out = inputs
    real = np.ones(q.shape[:2], bool) if mask is None else mask
    want = oracle.attend(q, k, v, pattern, mask=real, scale=q.shape[-1] ** -0.5, d_out=d_out)
    for name, ours, theirs in zip(want._fields, got, want, strict=True):
        worst = np.abs(np.asarray(ours, np.float64) - theirs).max()
        bound = tolerance * max(1.0, np.abs(theirs).max())
        assert worst <= bound, f"{name}: differs by {worst:.1e} > {bound:.1e}"


@pytest.mark.parametrize("instructions", cpu.instruction_sets())
@pytest.mark.parametrize("causal", [False, True], ids=["encoder", "causal"])
@pytest.mark.parametrize("name", SHAPES)
def test_every_instruction_set(name, causal, instructions, rng):
    shape = SHAPES[name]
    pattern = pattern_of(shape, causal)
    for kind in ("none", "holes"):
        mask = make_mask(shape, kind, rng)
        inputs = [jnp.asarray(x, "float32") for x in make_inputs(shape, rng)]
        q, k, v, d_out = inputs
        got = run(q, k, v, pattern, d_out, mask, instructions)
        compare(got, inputs, pattern, mask, 5e-6)


@pytest.mark.parametrize("instructions", cpu.instruction_sets())
def test_bfloat16_is_rounded_once(instructions, rng):
    """Sums are float32: the output is within one rounding of the exact one."""
    shape = SHAPES["tails"]
    pattern = pattern_of(shape)
    mask = make_mask(shape, "holes", rng)
    inputs = [jnp.asarray(x, "bfloat16") for x in make_inputs(shape, rng)]
    q, k, v, d_out = inputs
    got = run(q, k, v, pattern, d_out, mask, instructions)
    assert {x.dtype.name for x in got} == {"bfloat16"}
    want = oracle.attend(q, k, v, pattern, mask=mask, scale=shape.H**-0.5, d_out=d_out)
    error = np.abs(np.asarray(got[0], np.float64) - want.out)
    assert (error <= np.abs(want.out) * 2**-8 + 1e-5).all()
    compare(got, inputs, pattern, mask, 1e-2)


def test_every_row_global(rng):
    """More global rows than the kernel cuts into parts: full attention."""
    shape = Shape(B=2, T=36, N=2, H=8, W=4, R=0)
    pattern = BlockPattern.from_lists([[]] * 9, 4, global_rows=tuple(range(9)))
    for kind in ("none", "right_padding"):
        mask = make_mask(shape, kind, rng)
        inputs = [jnp.asarray(x, "float32") for x in make_inputs(shape, rng)]
        q, k, v, d_out = inputs
        compare(run(q, k, v, pattern, d_out, mask), inputs, pattern, mask, 5e-6)


def test_scores_of_any_size(rng):
    """The weights' exponential holds its precision over its whole range, and ends in exact 0."""
    scores = np.concatenate([-np.logspace(-6, 2.3, 200), [-1e4, -1e20], [0.0]])
    pattern = BlockPattern.from_lists([[0]], len(scores))
    k = jnp.asarray(scores, "float32").reshape(1, -1, 1, 1)
    q = jnp.ones_like(k)
    eye = jnp.asarray(np.eye(len(scores)), "float32")[None, :, None, :]
    wide_q, wide_k = (jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, len(scores) - 1))) for x in (q, k))
    got = np.asarray(cpu.block_sparse_attention(wide_q, wide_k, eye, pattern, scale=1.0))[0, 0, 0]
    exact = np.exp(np.asarray(k, np.float64).ravel())
    exact /= exact.sum()
    near = scores > -80
    # A score of size s is itself rounded to s * 2^-24.
    bound = 4e-7 + np.abs(scores) * 2**-22
    assert (np.abs(got[near] / exact[near] - 1) <= bound[near]).all()
    assert (got[scores < -1000] == 0).all()


def test_a_nan_that_is_read_is_shown(rng):
    shape = SHAPES["vector"]
    q, k, v, _ = (jnp.asarray(x, "float32") for x in make_inputs(shape, rng))
    pattern = pattern_of(shape)
    out = cpu.block_sparse_attention(q, k.at[0, 0].set(jnp.nan), v, pattern, scale=0.25)
    assert np.isnan(out).all()


def test_ids_out_of_range_raise_when_run(rng):
    """A traced pattern cannot be checked before; memory outside the arrays is never read."""
    shape = SHAPES["vector"]
    q, k, v, _ = (jnp.asarray(x, "float32") for x in make_inputs(shape, rng))

    @jax.jit
    def attend(blocks, rows):
        pattern = BlockPattern(blocks, jnp.ones_like(blocks), rows, shape.W)
        return block_sparse_attention(q, k, v, pattern, implementation="cpu")

    blocks, rows = jnp.zeros((1, 1, shape.M, 1), jnp.int32), jnp.zeros((1, 1), jnp.int32)
    assert np.isfinite(attend(blocks, rows)).all()
    for bad in (shape.M, -1, 2**30):
        with pytest.raises(Exception, match=r"must lie in 0\.\.7"):
            attend(blocks.at[0, 0, 3].set(bad), rows).block_until_ready()
        with pytest.raises(Exception, match=r"must lie in 0\.\.7"):
            attend(blocks, rows.at[0, 0].set(bad)).block_until_ready()


def test_nested_vmap_and_shared_operands(rng):
    """Axes in front of any operand, alone or together, are examples to the kernel."""
    shape = Shape(B=2, T=24, N=2, H=4, W=4, R=0)
    pattern = pattern_of(shape)
    q, k, v, _ = (jnp.asarray(x, "float32") for x in make_inputs(shape, rng))
    many = jnp.stack([q, 2 * q, 3 * q])
    masks = jnp.asarray(rng.random((2, *q.shape[:2])) < 0.7)

    def attend(q, mask):
        return cpu.block_sparse_attention(q, k, v, pattern, mask=mask, scale=0.5)

    got = jax.vmap(lambda q: jax.vmap(lambda mask: attend(q, mask))(masks))(many)
    for i in range(3):
        for j in range(2):
            np.testing.assert_array_equal(got[i, j], attend(many[i], masks[j]))


def test_export(rng):
    shape = SHAPES["vector"]
    pattern = pattern_of(shape)
    q, k, v, _ = (jnp.asarray(x, "float32") for x in make_inputs(shape, rng))

    @jax.jit
    def gradient(q, k, v):
        def loss(q):
            return block_sparse_attention(q, k, v, pattern, implementation="cpu").sum()

        return jax.grad(loss)(q)

    allowed = [
        jax.export.DisabledSafetyCheck.custom_call(target)
        for target in (cpu.FORWARD_TARGET, cpu.BACKWARD_TARGET)
    ]
    exported = jax.export.export(gradient, disabled_checks=allowed)(q, k, v)
    np.testing.assert_array_equal(exported.call(q, k, v), gradient(q, k, v))


def test_declines(monkeypatch, rng):
    shape = SHAPES["one"]
    pattern = pattern_of(shape)
    x = jnp.zeros((1, 1, 1, 1), jnp.float16)
    with pytest.raises(NotImplementedError, match=r"float32 and bfloat16; got float16"):
        block_sparse_attention(x, x, x, pattern, implementation="cpu")
    x = x.astype("float32")
    with pytest.raises(ValueError, match=r"instructions must be one of .*got 'sse9'"):
        cpu.block_sparse_attention(x, x, x, pattern, scale=1.0, instructions="sse9")
    monkeypatch.setattr(cpu, "_library", lambda: "the native library was not built")
    assert cpu.instruction_sets() == ()
    with pytest.raises(NotImplementedError, match="was not built"):
        block_sparse_attention(x, x, x, pattern, implementation="cpu")
    assert block_sparse_attention(x, x, x, pattern).shape == x.shape
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert "'tpu'" in cpu.unavailable()


def test_the_default_device_decides_where_there_is_a_gpu(monkeypatch):
    """A program of the CPU on a machine with a GPU has no use for the kernels of the GPU."""
    from flax_bigbird.attention.backends import cudnn, triton

    device = jax.devices("cpu")[0]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "'gpu'" in cpu.unavailable()
    for chosen in (device, "cpu"):
        with jax.default_device(chosen):
            assert cpu.unavailable() == ""
            for accelerator in (triton, cudnn):
                assert "default backend is 'cpu'" in accelerator.unavailable()


def script(code: str, *, flags: str = "", cores: set[int] | None = None) -> str:
    """Runs a program of its own and returns what it prints."""
    path = os.pathsep.join(sys.path)
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    if cores:
        code = f"import os; os.sched_setaffinity(0, {cores})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


BITS = """
import hashlib
import jax, jax.numpy as jnp, numpy as np
from flax_bigbird.attention import bigbird_pattern, random_blocks
from flax_bigbird.attention.backends import cpu
rng = np.random.default_rng(0)
for B, M, W, N, H in [(1, 100, 8, 1, 16), (2, 12, 16, 3, 8), (1, 16, 64, 2, 64)]:
    pattern = bigbird_pattern(M, W, random=random_blocks.fixed(M, 3, N, 0))
    q, k, v, d = (jnp.asarray(rng.standard_normal((B, M * W, N, H)), "float32") for _ in range(4))
    attend = lambda q, k, v: cpu.block_sparse_attention(q, k, v, pattern, scale=0.2)
    for _ in range(3):
        out, pull = jax.vjp(attend, q, k, v)
        digest = hashlib.sha256()
        for x in (out, *pull(d)):
            digest.update(np.asarray(x).tobytes())
        print(digest.hexdigest())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no way to set the cores here")
def test_one_and_many_threads_give_the_same_bits():
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("one core only")
    one = script(BITS, cores={min(cores)})
    many = script(BITS, cores=cores)
    assert one == many
    assert len(set(one.split())) == 3  # runs of the same program agree too


SHARDS = """
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.sharding import PartitionSpec as P
from flax_bigbird.attention import bigbird_pattern, random_blocks
from flax_bigbird.attention.backends import cpu
rng = np.random.default_rng(0)
B, M, W, N, H = 2, 12, 4, 4, 8
pattern = bigbird_pattern(M, W, random=random_blocks.fixed(M, 3, N, 0))
pattern = jax.tree.map(jnp.asarray, pattern)
q, k, v, d = (jnp.asarray(rng.standard_normal((B, M * W, N, H)), "float32") for _ in range(4))
mask = jnp.asarray(rng.random((B, M * W)) < 0.7)

def run(q, k, v, mask, pattern, d):
    attend = lambda q, k, v: cpu.block_sparse_attention(q, k, v, pattern, mask=mask, scale=0.2)
    out, pull = jax.vjp(attend, q, k, v)
    return (out, *pull(d))

want = jax.jit(run)(q, k, v, mask, pattern, d)
auto = (jax.sharding.AxisType.Auto,) * 2
mesh = jax.make_mesh((2, 2), ("b", "n"), axis_types=auto)
rows = P("b", None, "n")
lists = jax.tree.map(lambda x: P(None, "n") if x.ndim == 4 else P(), pattern)
specs = (rows, rows, rows, P("b"), lists, rows)
mapped = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False))
put = lambda x, spec: jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
arguments = [put(x, spec) for x, spec in zip((q, k, v, mask), specs)] + [pattern, put(d, rows)]
for name, function in {"shard_map": mapped, "jit": jax.jit(run)}.items():
    for ours, theirs in zip(function(*arguments), want):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    print(name)
"""


def test_sharded_examples_and_heads():
    """Under shard_map, and under jit with sharded arrays."""
    flags = "--xla_force_host_platform_device_count=4"
    assert script(SHARDS, flags=flags).split() == ["shard_map", "jit"]


NO_MEMORY = """
import resource
import jax.numpy as jnp
from flax_bigbird.attention import bigbird_pattern
from flax_bigbird.attention.backends import cpu

def attend(M, W, H):
    x = jnp.ones((1, M * W, 1, H), jnp.float32)
    pattern = bigbird_pattern(M, W)
    return cpu.block_sparse_attention(x, x, x, pattern, scale=1.0).block_until_ready()

attend(16, 64, 64)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
# Blocks of one token are packed as 16 keys: 2 GiB for arrays of 128 MiB.
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, resource.RLIM_INFINITY))
try:
    attend(2**17, 1, 256)
except Exception as error:
    print(error)
print(float(attend(16, 64, 64).sum()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_too_little_memory_is_an_error_of_the_call():
    """`csrc/tests/native_test.cc` lets each allocation fail, in the threads of the pool too."""
    message, after = script(NO_MEMORY).strip().rsplit("\n", 1)
    assert re.search(r"allocating \d{10} bytes failed: use smaller batches", message), message
    assert float(after) == 16 * 64 * 64
