"""Small models that tests share: built once, compiled once per way of calling.

Sparse calls start past (5 + 2R) W = 28 tokens; `T` is one of them and no multiple of W.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from transformers import BigBirdConfig

import flax_bigbird

TASKS = (
    "Model",
    "ForPreTraining",
    "ForMaskedLM",
    "ForCausalLM",
    "ForSequenceClassification",
    "ForMultipleChoice",
    "ForTokenClassification",
    "ForQuestionAnswering",
)

B, T, D, V, LAYERS, HEADS, W, R, LABELS = 2, 30, 16, 40, 1, 2, 4, 1, 3
TWO_LAYERS = {"num_hidden_layers": 2}  # where one does not show what is tested
SEP = 3

TINY: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 24,
    "max_position_embeddings": 48,
    "block_size": W,
    "num_random_blocks": R,
    "num_labels": LABELS,
    "sep_token_id": SEP,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.3,  # large enough for every part to matter
}


def config(**changes: Any) -> BigBirdConfig:
    """A tiny configuration without dropout."""
    return BigBirdConfig(**(TINY | changes))


def task_class(task: str) -> Any:
    return getattr(flax_bigbird, f"FlaxBigBird{task}")


def module_class(task: str) -> Any:
    return getattr(
        flax_bigbird, "FlaxBigBirdModule" if task == "Model" else f"FlaxBigBird{task}Module"
    )


@functools.cache
def model(task: str = "Model", *, dtype: Any = jnp.float32, **changes: Any) -> Any:
    """A model of that task; tests must not change it."""
    if task == "ForCausalLM":
        changes.setdefault("is_decoder", True)
    made = task_class(task)(config(**changes), dtype=dtype, _do_init=False)
    # To compile the initialisers takes longer than most tests; and here no bias is 0.
    made._params = drawn_params(made)
    return made


def drawn_params(model: Any, seed: int = 0) -> dict[str, Any]:
    """Parameters from NumPy: kernels and tables of `initializer_range`, the rest near its start."""
    rng = np.random.default_rng(seed)
    leaves = {}
    for path, leaf in sorted(flatten_dict(model.params_shape_tree).items()):
        draw = rng.standard_normal(leaf.shape).astype(np.float32)
        if path[-1] in ("scale", "bias"):
            leaves[path] = jnp.asarray(0.1 * draw + (path[-1] == "scale"))
        else:
            leaves[path] = jnp.asarray(model.config.initializer_range * draw)
    return unflatten_dict(leaves)


def input_shape(task: str, length: int = T) -> tuple[int, ...]:
    return (B, 2, length) if task == "ForMultipleChoice" else (B, length)


def inputs(task: str = "Model", length: int = T, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ids from 4 up (no separator), right padding and holes in the mask."""
    rng = np.random.default_rng(seed)
    shape = input_shape(task, length)
    mask = rng.random(shape) < 0.8
    mask[..., 0] = True
    mask[0, ..., (2 * length + 2) // 3 :] = False
    return {
        "input_ids": rng.integers(4, V, shape).astype(np.int32),
        "attention_mask": mask.astype(np.int32),
    }


_compiled: dict[Any, Any] = {}


def run(model: Any, arrays: dict[str, Any], params: Any = None, **options: Any) -> Any:
    """The model's output under jit; `options` are static, `arrays` and parameters traced."""
    key = (id(model), tuple(sorted(options.items())))
    if key not in _compiled:

        def call(params, arrays):
            return model(**arrays, params=params, **options)

        _compiled[key] = jax.jit(call)
    return _compiled[key](model.params if params is None else params, arrays)


def close(a: Any, b: Any, atol: float = 2e-5) -> None:
    """Two outputs or trees agree leaf by leaf."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(
            np.asarray(x, np.float32), np.asarray(y, np.float32), atol=atol, rtol=atol
        )


def differ(a: Any, b: Any) -> bool:
    """Whether two arrays differ by more than rounding."""
    return bool(np.abs(np.asarray(a) - np.asarray(b)).max() > 1e-3)


def flat(tree: Any) -> dict[str, Any]:
    """Leaves by "/"-joined path."""
    return flatten_dict(tree, sep="/")
