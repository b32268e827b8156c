"""`resize_position_embeddings`: the same parameters for another maximum length."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import jax.numpy as jnp
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from flax_bigbird.models.base import FlaxBigBirdPreTrainedModel

METHODS = ("tile", "interpolate")
_TABLE = ("embeddings", "position_embeddings", "embedding")

ModelOrParams = TypeVar("ModelOrParams", FlaxBigBirdPreTrainedModel, dict[str, Any])


def resize_position_embeddings(
    model_or_params: ModelOrParams, length: int, method: str = "tile"
) -> ModelOrParams:
    """Returns the model, or the parameters, for up to `length` positions.

    The result is a starting point for further training: it does not by itself process longer texts
    well. With `random_attention="hf"`, the random blocks of training depend on the length of the
    table and change too; with "fixed", they do not.

    Args:
      model_or_params: A model with parameters, or the parameter tree of a task. It is not changed.
      length: The number of positions of the new table.
      method: "tile" repeats the table from its start (or cuts it), which preserves the relation
        between neighboring positions. "interpolate" stretches the table, which preserves the first
        and the last position.

    Returns:
      A new model of the same class whose `config.max_position_embeddings` is `length`; or a new
      tree, for a configuration with that value. Parameters keep their dtype.

    Raises:
      ValueError: If the method is unknown, the length is below 1, or the tree has no such table.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}; got {method!r}")
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise ValueError(
            f"length must be an integer number of positions, 1 or more; got {length!r}"
        )
    if isinstance(model_or_params, FlaxBigBirdPreTrainedModel):
        return _resize_model(model_or_params, length, method)
    return _resize_params(model_or_params, length, method)


def _resize_model(model: Any, length: int, method: str) -> Any:
    params = _resize_params(model.params, length, method)
    config = copy.deepcopy(model.config)
    config.max_position_embeddings = length
    return copy_with_config(model, config, params)


def copy_with_config(model: Any, config: Any, params: dict[str, Any]) -> Any:
    """Returns a model of the same class and settings with another configuration and parameters."""
    module = model.module
    fields = {  # those of a user's own module, too
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)
        if field.name not in ("parent", "name", "config", "dtype")
    }
    resized = type(model)(
        config, input_shape=model.input_shape, dtype=model.dtype, _do_init=False, **fields
    )
    resized.key = model.key
    resized._adopt_params(params)
    if model.can_generate():
        resized.generation_config = copy.deepcopy(model.generation_config)
    return resized


def _resize_params(params: dict[str, Any], length: int, method: str) -> dict[str, Any]:
    leaves = dict(flatten_dict(unfreeze(params)))
    path = find_table(leaves, _TABLE)
    resize = _tile if method == "tile" else _interpolate
    leaves[path] = resize(jnp.asarray(leaves[path]), length)
    return unflatten_dict(leaves)


def find_table(leaves: Mapping[Any, Any], suffix: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the path of the one leaf whose path ends in `suffix`.

    Raises:
      ValueError: If there is none, or if there are several.
    """
    paths = [path for path in leaves if path[-len(suffix) :] == suffix]
    if len(paths) != 1:
        raise ValueError(
            f"the parameters must hold one table .../{'/'.join(suffix)}; got {len(paths)}: pass a "
            "model, or the params of one"
        )
    return paths[0]


def _tile(table: Float[Array, "P D"], length: int) -> Float[Array, "Q D"]:
    return table[jnp.arange(length) % table.shape[0]]


def _interpolate(table: Float[Array, "P D"], length: int) -> Float[Array, "Q D"]:
    """Interpolates linearly: row i of the new table is row i (P - 1) / (Q - 1) of the old one."""
    last = table.shape[0] - 1
    coordinate = jnp.linspace(0, last, length, dtype=jnp.float32)
    low = jnp.clip(jnp.floor(coordinate).astype(jnp.int32), 0, last)
    high = jnp.minimum(low + 1, last)
    fraction = (coordinate - low.astype(jnp.float32))[:, None]
    rows = table.astype(jnp.float32)
    return ((1 - fraction) * rows[low] + fraction * rows[high]).astype(table.dtype)
