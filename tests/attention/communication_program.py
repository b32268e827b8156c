"""Prints, as JSON, what attention on eight devices sends for texts of two lengths.

`test_meshes.py` runs it. It compiles, and runs nothing. The first argument is the folder of the
benchmarks.
"""

import importlib
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
from attention_suite import make_pattern
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import make_mesh
from named_shapes import Shape

from flax_bigbird.attention import sharded_block_sparse_attention
from flax_bigbird.attention.sequence_parallel import prepare_lists

DEVICES = 8


def compiled(shape: Shape, pattern: Any, implementation: str) -> jax.stages.Compiled:
    """Compiles the output and the gradients of arrays that are split by tokens."""
    mesh = make_mesh({"sequence": DEVICES})
    split = NamedSharding(mesh, P(None, "sequence"))
    size = (shape.B, shape.T, shape.N, shape.H)
    x = jax.ShapeDtypeStruct(size, jnp.float32, sharding=split)
    mask = jax.ShapeDtypeStruct(size[:2], bool, sharding=split)

    def step(q, k, v, d_out, mask):
        def attend(q, k, v):
            return sharded_block_sparse_attention(
                q, k, v, pattern, mask=mask, implementation=implementation
            )

        out, pull = jax.vjp(attend, q, k, v)
        return (out, *pull(d_out))

    with jax.set_mesh(mesh):
        return jax.jit(step).lower(x, x, x, x, mask).compile()


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    collective_bytes = importlib.import_module("collectives").collective_bytes
    for kind in ("hf_evaluation", "random", "traced"):
        for length in (1024,) if kind == "traced" else (1024, 4096):
            shape = Shape(B=1, T=length, N=2, H=8, W=8, R=2)
            pattern: Any = make_pattern(shape, "random" if kind == "traced" else kind)
            plan: Any = prepare_lists(pattern, DEVICES)[1]
            if kind == "traced":
                pattern = jax.tree.map(jnp.asarray, pattern)
            program = compiled(shape, pattern, "xla")
            memory: Any = program.memory_analysis()
            result = {
                "kind": kind,
                "length": length,
                "sent": collective_bytes(program.as_text()),
                "shared": len(plan.shared),
                "edges": plan.num_before + plan.num_after,
                "scattered": DEVICES * plan.send.shape[-1],
                "temporary": memory.temp_size_in_bytes,
                "shape": shape._asdict(),
            }
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
