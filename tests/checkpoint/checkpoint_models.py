"""Tiny models with random parameters for the checkpoint tests; nothing is compiled."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tiny_models
from flax.traverse_util import flatten_dict, unflatten_dict
from transformers import BigBirdConfig

GOLDENS = Path(__file__).parent.parent / "goldens"


def tiny_config(**changes: Any) -> BigBirdConfig:
    """Returns a configuration with one layer."""
    return tiny_models.config(**({"num_hidden_layers": 1} | changes))


def random_model(cls: Any, config: Any, seed: int = 0, **kwargs: Any) -> tuple[Any, Any]:
    """Returns `(model, params)`: a model without parameters, and random ones from NumPy."""
    model = cls(config, _do_init=False, **kwargs)
    rng = np.random.default_rng(seed)
    shapes: dict[tuple[str, ...], Any] = flatten_dict(model.params_shape_tree)
    flat = {p: rng.standard_normal(shapes[p].shape).astype(np.float32) for p in sorted(shapes)}
    return model, unflatten_dict({path: jnp.asarray(leaf) for path, leaf in flat.items()})


def save_random_model(cls: Any, folder: Any, seed: int = 0, **changes: Any) -> Any:
    """Saves a random model of a class to a folder and returns its parameters, flat.

    Args:
      changes: configuration keys; `module_kwargs` are passed to the model and `options` to
        `save_pretrained`.
    """
    kwargs = changes.pop("module_kwargs", {})
    options = changes.pop("options", {})
    model, params = random_model(cls, tiny_config(**changes), seed, **kwargs)
    model.save_pretrained(folder, params=params, **options)
    return flatten_dict(params)
