"""Small models that tests share, which are built once and compiled once per kind of call.

Inputs of more than (5 + 2R) W = 28 tokens use sparse attention. `T` is such a length, and not a
multiple of W.
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
TWO_LAYERS = {"num_hidden_layers": 2}  # for tests that need more than one
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
    "initializer_range": 0.3,  # large enough that every module affects the output
}


def config(**changes: Any) -> BigBirdConfig:
    """Returns a tiny configuration without dropout."""
    return BigBirdConfig(**(TINY | changes))


def task_class(task: str) -> Any:
    return getattr(flax_bigbird, f"FlaxBigBird{task}")


def module_class(task: str) -> Any:
    return getattr(
        flax_bigbird, "FlaxBigBirdModule" if task == "Model" else f"FlaxBigBird{task}Module"
    )


@functools.cache
def model(task: str = "Model", *, dtype: Any = jnp.float32, **changes: Any) -> Any:
    """Returns a model of that task, which tests must not change."""
    if task == "ForCausalLM":
        changes.setdefault("is_decoder", True)
    result = task_class(task)(config(**changes), dtype=dtype, _do_init=False)
    # Compiling the initializers would take longer than most tests, and would leave biases at 0.
    result._adopt_params(random_params(result))
    return result


def random_params(model: Any, seed: int = 0) -> dict[str, Any]:
    """Returns parameters drawn with NumPy.

    Kernels and tables have the standard deviation `initializer_range`; biases lie near 0, scales
    near 1.
    """
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


def inputs(task: str = "Model", length: int = T, seed: int = 0) -> dict[str, Any]:
    """Returns random ids from 4 up (no separator), with right padding and holes in the mask."""
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
    """Runs the model under jit; `options` are static, `arrays` and parameters are traced."""
    key = (id(model), tuple(sorted(options.items())))
    if key not in _compiled:

        def call(params, arrays):
            return model(**arrays, params=params, **options)

        _compiled[key] = jax.jit(call)
    return _compiled[key](model.params if params is None else params, arrays)


def close(a: Any, b: Any, atol: float = 2e-5) -> None:
    """Asserts that two outputs or trees agree leaf by leaf."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(
            np.asarray(x, np.float32), np.asarray(y, np.float32), atol=atol, rtol=atol
        )


def differ(a: Any, b: Any) -> bool:
    """Returns whether two arrays differ by more than rounding errors."""
    return bool(np.abs(np.asarray(a) - np.asarray(b)).max() > 1e-3)


def flat(tree: Any) -> dict[str, Any]:
    """Returns the leaves by "/"-joined path."""
    return flatten_dict(tree, sep="/")
