"""Layer-wise decay of the learning rate: lower layers, which are more general, change less."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict


def layer_scales(params: Any, decay: float) -> Any:
    """Returns the factor of the learning rate of each parameter.

    With L layers, it is `decay**(L - i)` in layer i (from 0), `decay**(L + 1)` in the embeddings,
    and 1 in the head and the pooler, as in the fine-tuning of ELECTRA
    (https://arxiv.org/abs/2003.10555).

    Args:
      params: The parameters of a model.
      decay: The factor from one layer to the one below.
    """
    leaves: dict[Any, Any] = flatten_dict(params)
    layers = {path: _layer_index(path) for path in leaves}
    count = 1 + max((i for i in layers.values() if i is not None), default=-1)

    def scale(path: tuple[str, ...]) -> float:
        if "embeddings" in path:
            return decay ** (count + 1)
        index = layers[path]
        return 1.0 if index is None else decay ** (count - index)

    return unflatten_dict({path: scale(path) for path in leaves})


def scale_by_layer(decay: float) -> optax.GradientTransformation:
    """Returns a transformation that multiplies updates by `layer_scales`."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        scales = layer_scales(updates, decay)
        return jax.tree.map(lambda u, s: u * jnp.asarray(s, u.dtype), updates, scales), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _layer_index(path: tuple[str, ...]) -> int | None:
    """Returns the index of the encoder layer that a parameter belongs to, if there is one."""
    if "encoder" not in path or "layer" not in path:
        return None
    return int(path[path.index("layer") + 1])
