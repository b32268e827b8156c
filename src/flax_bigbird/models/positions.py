"""A longer (or shorter) position table, so that a checkpoint can be continued at another length."""

import copy
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
    """The same model, or parameters, for up to `length` positions.

    Args:
      model_or_params: a model with parameters, or a task's parameter tree. Left as it is.
      length: positions of the new table.
      method: "tile" repeats the learned table from its beginning (cuts it when shorter), so that
        neighbours stay what they were to each other; "interpolate" stretches it between its ends,
        so that the first and the last position stay what they were.

    Returns:
      A new model of the same class whose `config.max_position_embeddings` is `length`; or a new
      tree, for a configuration that says so too. Parameters keep their dtype.

    Raises:
      ValueError: an unknown method, a length below 1, a tree without the table.

    Both give a start to train on from, not a model that reads longer texts as well. With
    `random_attention="hf"` the random blocks of training are cut from a table of that length, so
    they change too; "fixed" does not depend on it.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}; got {method!r}")
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise ValueError(f"length must be a whole number of positions, 1 or more; got {length!r}")
    if isinstance(model_or_params, FlaxBigBirdPreTrainedModel):
        return _resized_model(model_or_params, length, method)
    return _resized_params(model_or_params, length, method)


def _resized_model(model: Any, length: int, method: str) -> Any:
    params = _resized_params(model.params, length, method)
    config = copy.deepcopy(model.config)
    config.max_position_embeddings = length
    module = model.module
    fields = {"gradient_checkpointing": module.gradient_checkpointing}
    if "add_pooling_layer" in getattr(module, "__dataclass_fields__", {}):
        fields["add_pooling_layer"] = module.add_pooling_layer
    resized = type(model)(
        config, input_shape=model.input_shape, dtype=model.dtype, _do_init=False, **fields
    )
    resized.key = model.key
    resized._is_initialized = True
    resized.params = params
    if model.can_generate():
        resized.generation_config = copy.deepcopy(model.generation_config)
    return resized


def _resized_params(params: dict[str, Any], length: int, method: str) -> dict[str, Any]:
    leaves = dict(flatten_dict(unfreeze(params)))
    paths = [path for path in leaves if path[-len(_TABLE) :] == _TABLE]
    if len(paths) != 1:
        raise ValueError(
            f"the parameters must hold one leaf .../{'/'.join(_TABLE)}; got {len(paths)}: pass a "
            "model, or the params of one"
        )
    resize = _tiled if method == "tile" else _interpolated
    leaves[paths[0]] = resize(jnp.asarray(leaves[paths[0]]), length)
    return unflatten_dict(leaves)


def _tiled(table: Float[Array, "P D"], length: int) -> Float[Array, "Q D"]:
    return table[jnp.arange(length) % table.shape[0]]


def _interpolated(table: Float[Array, "P D"], length: int) -> Float[Array, "Q D"]:
    """Row i of the new table lies at i (P - 1) / (Q - 1) of the old; a single row is the first."""
    last = table.shape[0] - 1
    at = jnp.linspace(0, last, length, dtype=jnp.float32)
    low = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, last)
    share = (at - low)[:, None]
    wide = table.astype(jnp.float32)
    high = jnp.minimum(low + 1, last)
    return ((1 - share) * wide[low] + share * wide[high]).astype(table.dtype)
