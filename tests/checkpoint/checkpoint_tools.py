"""What the checkpoint tests share: trees of numbers and models that cost nothing to make."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tiny_models
from flax.traverse_util import flatten_dict, unflatten_dict
from transformers import BigBirdConfig

from flax_bigbird import checkpoint

GOLDENS = Path(__file__).parent.parent / "goldens"
SHARDED = 500  # bytes: small enough to split `leaves()` and any tiny model


def leaves(value: float = 0.0) -> dict[tuple[str, ...], np.ndarray]:
    """A flat tree in which every leaf is `value` and a little of its own."""
    shapes = {
        ("bert", "embeddings", "word_embeddings", "embedding"): (40, 16),
        ("bert", "encoder", "layer", "0", "output", "dense", "kernel"): (24, 16),
        ("bert", "encoder", "layer", "0", "output", "dense", "bias"): (16,),
        ("bert", "encoder", "layer", "0", "output", "LayerNorm", "scale"): (16,),
        ("cls", "kernel"): (16, 5),
        ("temperature",): (),
    }
    return {
        path: np.asarray(value + np.arange(np.prod(shape)).reshape(shape) / 1000, np.float32)
        for path, shape in shapes.items()
    }


def read(folder: Any, expected: Any = None) -> dict[tuple[str, ...], np.ndarray]:
    """The weights that a reader finds in a folder."""
    return checkpoint.load_weights(checkpoint.Source(str(folder)), expected or leaves())[0]


def same(ours: Any, theirs: Any) -> None:
    """Two flat trees hold the same leaves, bit for bit and of the same type."""
    assert set(ours) == set(theirs)
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=str(path), strict=True)


def config(**changes: Any) -> BigBirdConfig:
    return tiny_models.config(**({"num_hidden_layers": 1} | changes))


def random_params(cls: Any, config: Any, seed: int = 0, **kwargs: Any) -> tuple[Any, Any]:
    """`(model, params)`: a model that holds no parameters, and some drawn by NumPy."""
    model = cls(config, _do_init=False, **kwargs)
    rng = np.random.RandomState(seed)
    shapes = flatten_dict(model.params_shape_tree)
    drawn = {p: rng.standard_normal(shapes[p].shape).astype(np.float32) for p in sorted(shapes)}
    return model, unflatten_dict({path: jnp.asarray(leaf) for path, leaf in drawn.items()})


def saved(cls: Any, folder: Any, seed: int = 0, **changes: Any) -> Any:
    """Saves a random model of that class and configuration; its parameters, flat."""
    kwargs = changes.pop("module_kwargs", {})
    options = changes.pop("options", {})
    model, params = random_params(cls, config(**changes), seed, **kwargs)
    model.save_pretrained(folder, params=params, **options)
    return flatten_dict(params)
