"""Prints what attention under a mesh compiles in the second of two calls outside of `jax.jit`.

`test_meshes.py` runs it with two devices.
"""

import jax
import jax.numpy as jnp
import numpy as np
from compilations import compilations
from meshes import make_mesh

from flax_bigbird.attention import (
    bigbird_pattern,
    block_sparse_attention,
    full_attention,
    sharded_block_sparse_attention,
    sharded_full_attention,
)

CALLS = {
    "block_sparse": (
        lambda q: sharded_block_sparse_attention(q, q, q, bigbird_pattern(8, 4)),
        lambda q: block_sparse_attention(q, q, q, bigbird_pattern(8, 4)),
    ),
    "full": (
        lambda q: sharded_full_attention(q, q, q),
        lambda q: full_attention(q, q, q),
    ),
}


def main() -> None:
    q = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 2, 8)), "float32")
    for axis in ("data", "sequence", "tensor"):
        for name, (attend, on_one_device) in CALLS.items():
            want = on_one_device(q)
            with jax.set_mesh(make_mesh({axis: 2})):
                attend(q)
                with compilations() as second:
                    got = attend(q)
            np.testing.assert_allclose(got, want, atol=1e-5)
            print(f"{axis}, {name}: {second}")


if __name__ == "__main__":
    main()
