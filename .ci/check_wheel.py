"""Checks an installed wheel: its native CPU kernel loads and agrees with plain JAX."""

import sys

import numpy as np

from flax_bigbird.attention import (
    available_implementations,
    bigbird_pattern,
    block_sparse_attention,
)

reason = available_implementations()["cpu"]
if reason:
    sys.exit(f"the wheel must contain a working CPU kernel; got: {reason}")
q, k, v = np.random.default_rng(0).standard_normal((3, 1, 8 * 16, 2, 32), np.float32)
pattern = bigbird_pattern(num_blocks=8, block_size=16)
native, plain = (
    np.asarray(block_sparse_attention(q, k, v, pattern, implementation=name))
    for name in ("cpu", "xla")
)
np.testing.assert_allclose(native, plain, atol=1e-5)
print("The CPU kernel of this wheel works.")
