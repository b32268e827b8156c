"""What the parity tests share: opening a golden call, names of leaves, comparison."""

import functools
import pathlib
import warnings
from typing import Any

import golden_format
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

import flax_bigbird

GOLDENS = golden_format.HERE

# Float32 outputs of order 1 to 10. The promise is 1e-4; goldens differ by 3e-6 at most, and a
# LayerNorm epsilon of 1e-5 in the place of 1e-12 by 2e-4.
TOLERANCE = 3e-5


def golden_calls(port: str) -> list[Any]:
    """`pytest.param(folder, call name)`-like pairs of a port's goldens."""
    folders = sorted(path.parent for path in (GOLDENS / port).glob("*/calls.json"))
    return [(folder, name) for folder in folders for name in golden_format.read_calls(folder)]


def call_id(value: Any) -> str:
    """A test id: the folder's name, or the call's."""
    return value.name if isinstance(value, pathlib.Path) else str(value)


def open_call(folder: pathlib.Path, call: dict[str, Any]) -> tuple[Any, Any]:
    """`(model, params)` of a golden call, read from the folder by `from_pretrained`."""
    cls = getattr(flax_bigbird, f"Flax{call['class']}")
    with warnings.catch_warnings():
        # A causal class run as an encoder says so.
        warnings.filterwarnings("ignore", ".*is bidirectional.*", UserWarning)
        return cls.from_pretrained(
            folder, _do_init=False, **call["overrides"], **call["model_kwargs"]
        )


# Machine code that is not optimised compiles in half the time and computes the same; tests of
# models and benchmarks run the optimised one.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def random_params(model: Any, seed: int = 0) -> dict[str, Any]:
    """Kernels, tables and biases around 0, LayerNorm scales around 1, drawn by NumPy.

    No term of the model is trivially 0 or 1 then, and nothing is compiled to draw them.
    """
    rng = np.random.RandomState(seed)
    shapes: dict[tuple[str, ...], Any] = flatten_dict(model.params_shape_tree)
    draw = {path: 0.2 * rng.standard_normal(shapes[path].shape) for path in sorted(shapes)}
    values = {path: (x + (path[-1] == "scale")).astype(np.float32) for path, x in draw.items()}
    return unflatten_dict({path: jnp.asarray(x) for path, x in values.items()})


def run(model: Any, params: Any, inputs: dict[str, Any], **kwargs: Any) -> Any:
    """The model's output under `jit`: inputs and parameters are arguments, as users have it."""

    def forward(params, inputs):
        return model(**inputs, params=params, **kwargs)

    return compiled(forward)(params, {key: jnp.asarray(value) for key, value in inputs.items()})


def named_outputs(output: Any) -> dict[str, np.ndarray]:
    """`NAME`, or `NAME/i` for one array a layer."""
    out: dict[str, np.ndarray] = {}
    for name, value in output.items():
        if isinstance(value, tuple | list):
            out |= {f"{name}/{i}": np.asarray(part) for i, part in enumerate(value)}
        elif not isinstance(value, dict):
            out[name] = np.asarray(value)
    return out


def close(ours: Any, theirs: Any, what: str, tolerance: float = TOLERANCE) -> None:
    """Fails unless shapes agree and no entry differs by more than `tolerance`."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, f"{what}: shape {ours.shape}, oracle {theirs.shape}"
    assert np.isfinite(ours).all(), f"{what}: not finite"
    # Logits pushed down by 1e6 keep two decimals in float32.
    scale = np.maximum(1, np.abs(theirs) / 1e3)
    worst = float((np.abs(ours - theirs) / scale).max(initial=0))
    assert worst <= tolerance, f"{what}: differs by {worst:.1e} > {tolerance:.0e}"


def gradients(model: Any, params: Any, inputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Gradient of the golden loss by "/"-joined leaf path."""

    def loss(params, inputs):
        output = model(**inputs, params=params, **kwargs)
        own = [value for value in output.values() if not isinstance(value, tuple | dict)]
        return sum(jnp.sum(x * golden_format.cotangent(x.shape)) for x in own)

    arrays = {key: jnp.asarray(value) for key, value in inputs.items()}
    tree = compiled(jax.grad(loss))(params, arrays)
    return {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(tree).items()}


def close_gradients(ours: dict[str, Any], theirs: dict[str, np.ndarray], pad: int) -> None:
    """Every leaf within 1e-4 of its own largest entry, and all leaves are there.

    PyTorch zeroes the gradient of the word table's pad row, which is left out, and leaves out
    parameters that the loss does not depend on. The bias of keys moves no softmax: its gradient
    is rounding noise, hence the small share of the largest leaf in the tolerance.
    """
    theirs = {path: leaf for path, leaf in map(flax_leaf, theirs, theirs.values()) if path}
    largest = max(np.abs(leaf).max() for leaf in theirs.values())
    assert set(theirs) <= set(ours), sorted(set(theirs) - set(ours))
    for path in set(ours) - set(theirs):
        assert not ours[path].any(), f"{path} has a gradient here and none in PyTorch"
    for path, leaf in theirs.items():
        mine = ours[path]
        assert mine.shape == leaf.shape, path
        if path.endswith("word_embeddings/embedding"):
            mine, leaf = np.delete(mine, pad, 0), np.delete(leaf, pad, 0)
        bound = 1e-4 * np.abs(leaf).max() + 1e-6 * largest
        worst = np.abs(mine - leaf).max()
        assert worst <= bound, f"gradient of {path} differs by {worst:.1e} > {bound:.1e}"


def flax_leaf(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """A PyTorch parameter's Flax path and value; written apart from the package's own table."""
    *parents, last = name.split(".")
    if last == "weight":
        if "embeddings" in parents[-1]:
            last = "embedding"
        elif parents[-1] == "LayerNorm":
            last = "scale"
        else:
            last, value = "kernel", value.T
    if parents[-1] == "decoder" and last == "bias":
        parents.pop()  # untied, the decoder's own bias is the one that counts
    return "/".join([*parents, last]), value
