"""The accelerators' kernels on a machine without one: they lower, decline, and run first."""

import functools
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from abstract_devices import abstract_mesh
from attention_suite import make_pattern
from named_shapes import Shape

from flax_bigbird.attention import (
    block_sparse_attention,
    dispatch,
    full_attention,
)
from flax_bigbird.attention.backends import (
    cudnn,
    interpret_mode,
    mosaic_tpu,
    reference,
    self_test,
    triton,
)

BASE = Shape(B=2, T=1024, N=2, H=64, W=64, R=3)


def lowered(module, platform: str, shape: Shape, dtype: str, *, kind="random", masked=True) -> str:
    """The program of forward and gradients for a platform that is not here, as text."""
    pattern = make_pattern(shape, kind)

    def run(q, k, v, mask, d_out):
        def attend(q, k, v):
            mask_or_none = mask if masked else None
            return module._run(q, k, v, pattern, mask=mask_or_none, scale=0.125)

        out, pull = jax.vjp(attend, q, k, v)
        return (out, *pull(d_out))

    x = jax.ShapeDtypeStruct((shape.B, shape.T, shape.N, shape.H), dtype)
    mask = jax.ShapeDtypeStruct((shape.B, shape.T), bool)
    with jax.sharding.use_abstract_mesh(abstract_mesh(platform)):
        traced = jax.jit(run).trace(x, x, x, mask, x)
        return traced.lower(lowering_platforms=(platform,)).as_text()


@functools.cache
def cannot_lower(module, platform: str) -> str:
    """Releases of JAX differ in what they can lower for without a device."""
    shape = Shape(B=1, T=64, N=1, H=32, W=16, R=0)
    try:
        lowered(module, platform, shape, "float32")
    except (RuntimeError, ImportError, NotImplementedError) as error:
        return f"this JAX does not lower for {platform} without one: {error}"
    return ""


@pytest.mark.parametrize(
    ("module", "platform", "calls"),
    [(triton, "cuda", r"gpu\.triton|triton_kernel_call"), (mosaic_tpu, "tpu", "tpu_custom_call")],
    ids=["gpu", "tpu"],
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    "shape",
    [BASE, BASE._replace(T=1280, H=128, W=128), BASE._replace(T=480, H=80, W=16)],
    ids=["base", "large_blocks", "small_blocks"],
)
def test_lowers_to_fused_kernels(module, platform, calls, shape, dtype):
    """Three kernels and nothing gathered: a row's keys are nowhere side by side."""
    reason = cannot_lower(module, platform)
    if reason:
        pytest.skip(reason)
    for kind, masked in (("random", True), ("causal", False)):
        text = lowered(module, platform, shape, dtype, kind=kind, masked=masked)
        assert len(re.findall(calls, text)) >= 3
        sizes = re.findall(r"tensor<([0-9x]+)x(?:bf16|f32)>", text)
        largest = max(np.prod([int(n) for n in size.split("x")]) for size in sizes)
        # Partial results of the global rows are the largest arrays beside the inputs.
        assert largest <= 2 * shape.B * shape.T * shape.N * shape.H


@pytest.mark.parametrize(
    ("module", "platform"), [(triton, "cuda"), (mosaic_tpu, "tpu")], ids=["gpu", "tpu"]
)
@pytest.mark.parametrize("invariant", [False, True], ids=["static", "padding_invariant"])
def test_a_models_step_is_all_on_the_device(module, platform, invariant, monkeypatch):
    """Three kernels per layer, no native CPU code, no call back to the host."""
    reason = cannot_lower(module, platform)
    if reason:
        pytest.skip(reason)
    monkeypatch.setattr(module, "unavailable", lambda: "")
    layers, blocks = 2, 14
    config = tiny_models.config(
        num_hidden_layers=layers,
        hidden_size=64,
        block_size=16,
        max_position_embeddings=16 * blocks,
        padding_invariant=invariant,
    )
    kind = tiny_models.task_class("ForMaskedLM")
    with jax.numpy_dtype_promotion("standard"):
        model = kind(config, dtype=jnp.bfloat16)

    def loss(params, ids, mask, key):
        out = model(ids, mask, params=params, dropout_rng=key, train=True)
        return out.logits.astype(jnp.float32).sum()

    ids = jax.ShapeDtypeStruct((2, 16 * blocks), jnp.int32)
    mesh, key = abstract_mesh(platform), jax.random.PRNGKey(0)
    with jax.numpy_dtype_promotion("standard"), jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(jax.grad(loss)).trace(model.params, ids, ids, key)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    calls = re.findall(r"custom_call @([\w.$]+)", text)
    kernels = [call for call in calls if re.search("triton|tpu_custom_call", call)]
    assert len(kernels) >= 3 * layers
    assert not [call for call in calls if "flax_bigbird" in call or "callback" in call]


@pytest.mark.parametrize("module", [triton, mosaic_tpu], ids=["gpu", "tpu"])
def test_declines_on_a_cpu(module):
    x = jnp.zeros((1, 16, 1, 16))
    pattern = make_pattern(Shape(B=1, T=16, N=1, H=16, W=16, R=0), "random")
    with pytest.raises(NotImplementedError, match="default backend is 'cpu'"):
        module.block_sparse_attention(x, x, x, pattern, scale=1.0)


@pytest.mark.parametrize(
    ("module", "shape", "dtype", "words"),
    [
        (triton, BASE._replace(W=256), "float32", "blocks of at most 128; got 256"),
        (triton, BASE._replace(H=160), "float32", "at most 128; got 160"),
        (triton, BASE, "float64", "takes bfloat16, float16, float32; got float64"),
        (triton, BASE._replace(B=2**16, T=64, N=1, H=1), "float32", "65,535"),
        (triton, BASE._replace(B=2**15, N=1, H=64), "bfloat16", r"2\^31 - 1 entries"),
        (mosaic_tpu, BASE._replace(W=8), "bfloat16", "a multiple of 16 tokens in bfloat16; got 8"),
        (mosaic_tpu, BASE, "float16", "takes float32 and bfloat16; got float16"),
        (mosaic_tpu, BASE._replace(W=512), "float32", "at most 256; got 512"),
    ],
)
def test_declines_name_rule_and_value(module, shape, dtype, words, monkeypatch):
    monkeypatch.setattr(module, "unavailable", lambda: "")
    pattern = make_pattern(shape._replace(B=1), "random")
    with jax.enable_x64(dtype == "float64"):
        x = jax.ShapeDtypeStruct((shape.B, shape.T, shape.N, shape.H), dtype)
        with pytest.raises(NotImplementedError, match=words):
            jax.eval_shape(lambda x: module.block_sparse_attention(x, x, x, pattern, scale=1.0), x)


class TestSelfTest:
    """A kernel that does not work is not used."""

    def good(self, q, k, v, mask):
        pattern = make_pattern(Shape(B=2, T=64, N=2, H=64, W=16, R=0), "random")
        return reference.block_sparse_attention(q, k, v, pattern, mask=mask, scale=0.125)

    def test_a_correct_kernel_passes(self):
        assert self_test.failure(self.good, self.good, 64) == ""

    @pytest.mark.parametrize("module", [triton, mosaic_tpu], ids=["gpu", "tpu"])
    def test_the_trial_call_of_each_kernel(self, module):
        """The trial call runs, interpreted, while another program is traced."""
        failures = []
        module._failure.cache_clear()
        with interpret_mode.interpreted():
            jax.jit(lambda x: failures.append(module._failure()) or x)(1.0)
        module._failure.cache_clear()
        assert failures == [""]

    def test_a_kernel_that_raises(self):
        def bad(q, k, v, mask):
            raise RuntimeError("no plan\nsecond line")

        assert self_test.failure(bad, self.good, 64) == "a trial call failed: RuntimeError: no plan"

    @pytest.mark.parametrize("wrong", ["output", "dk"])
    def test_a_wrong_kernel(self, wrong):
        def bad(q, k, v, mask):
            out = self.good(q, jax.lax.stop_gradient(k) if wrong == "dk" else k, v, mask)
            return jnp.where(out > 1, jnp.nan, out) if wrong == "output" else out

        assert f"a wrong {wrong}" in self_test.failure(bad, self.good, 64)


def test_the_first_that_accepts_the_call_runs(monkeypatch, caplog):
    """On each accelerator its own kernel, and a decline is reported once."""
    shape = Shape(B=1, T=16, N=1, H=16, W=4, R=0)
    pattern = make_pattern(shape, "random")
    x = jnp.zeros((1, 16, 1, 16))
    dispatch._log_once.cache_clear()
    ran = []
    monkeypatch.setattr(triton, "_run", lambda q, *_, **__: ran.append("gpu") or q)
    monkeypatch.setattr(triton, "unavailable", lambda: "")
    block_sparse_attention(x, x, x, pattern)
    assert ran == ["gpu"]
    monkeypatch.setattr(triton, "unavailable", lambda: "the driver is too old")
    with caplog.at_level(logging.DEBUG, "flax_bigbird.attention"):
        for _ in range(3):
            block_sparse_attention(x, x, x, pattern)
    assert ran == ["gpu"]
    assert caplog.text.count("the driver is too old") == 1


def test_cudnn_is_tried_first_and_declines(monkeypatch):
    x = jnp.ones((1, 4, 1, 8), jnp.bfloat16)
    given = []

    def attend(q, k, v, *, mask, scale, is_causal, implementation):
        given.append((implementation, None if mask is None else mask.shape))
        return q

    monkeypatch.setattr(cudnn, "unavailable", lambda: "")
    monkeypatch.setattr(jax.nn, "dot_product_attention", attend)
    out = full_attention(x, x, x, mask=jnp.zeros((1, 4), bool))
    assert given == [("cudnn", (1, 1, 4, 4))]
    assert not out.any(), "an example without real keys gives 0"
    full_attention(x.astype(jnp.float32), *[x.astype(jnp.float32)] * 2)
    full_attention(*[jnp.ones((1, 4, 1, 9), jnp.bfloat16)] * 3)
    assert len(given) == 1
