"""The key-value cache: a nested dict with the keys, values and next slot of every layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict, unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.core import Tracer
from jaxtyping import Array, Int

from flax_bigbird._messages import pluralize

Cache = dict[str, Any]


def _first_leaf(cache: Any, name: str) -> Array:
    """Returns the leaf of that name in the first layer.

    Raises:
      ValueError: If `cache` was not created by `init_cache`.
    """
    if isinstance(cache, dict | FrozenDict):
        leaves: dict[Any, Any] = dict(flatten_dict(unfreeze(cache)))
        for path, value in leaves.items():
            if path[-1] == name:
                return value
    raise ValueError(
        "past_key_values must be a cache made by model.init_cache, or the past_key_values of an "
        f"output; got {type(cache).__name__} without {name}"
    )


def next_slot(cache: Any) -> Int[Array, ""]:
    """Returns the number of slots in use, which is the index of the next one."""
    return _first_leaf(cache, "cache_index")


def is_known_empty(cache: Any) -> bool:
    """Returns whether the cache is known to be empty, which is never known under `jit`."""
    used = next_slot(cache)
    return not isinstance(used, Tracer) and int(used) == 0


def check_size(cache: Any, batch: int, length: int) -> int:
    """Returns the number of slots of the cache.

    Args:
      cache: A cache from `init_cache` or an earlier output.
      batch: The batch size of the input.
      length: The number of new tokens.

    Raises:
      ValueError: If `cache` is not a cache, has another batch size, or has fewer slots than there
        are new tokens. Whether the tokens fit behind those that it holds cannot be read without
        stalling the device.
    """
    cache_batch, size = _first_leaf(cache, "cached_key").shape[:2]
    if cache_batch != batch:
        raise ValueError(
            f"past_key_values was created for a batch of {cache_batch}; input_ids has {batch}: "
            f"create it with model.init_cache({batch}, {size})"
        )
    if length > size:
        raise ValueError(
            f"past_key_values holds {pluralize(size, 'position')}; input_ids has {length}: make it "
            f"longer, with model.init_cache({batch}, max_length)"
        )
    return size


def init_cache(
    module: nn.Module, variables: Any, batch: int, length: int, encoder_length: int = 0
) -> Cache:
    """Returns an empty cache of a causal module.

    Args:
      module: The linen module.
      variables: The variables of the module, or their shapes.
      batch: The batch size.
      length: The number of slots.
      encoder_length: The number of encoder states whose keys and values are cached; 0 if
        the module has no cross-attention.
    """
    ids = jax.ShapeDtypeStruct((batch, length), "int32")

    def create(variables, ids):
        return module.apply(
            variables, ids, None, position_ids=ids, init_cache=True, mutable=["cache"]
        )

    shapes = unfreeze(jax.eval_shape(create, variables, ids)[1]["cache"])
    cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return _with_cross_attention(cache, encoder_length) if encoder_length else cache


def _with_cross_attention(cache: Cache, encoder_length: int) -> Cache:
    """Returns the cache with room for the encoder's keys and values in every layer."""
    flat: dict[Any, Any] = dict(flatten_dict(cache))
    for path, x in list(flat.items()):
        if path[-1] in ("cached_key", "cached_value"):
            # .../attention/self/cached_key and .../crossattention/self/cross_key
            *parents, _, owner, name = path
            shape = (x.shape[0], encoder_length, *x.shape[2:])
            cross = (*parents, "crossattention", owner, name.replace("cached", "cross"))
            flat[cross] = jnp.zeros(shape, x.dtype)
    return unflatten_dict(flat)
