"""The key-value cache as callers hold it: a nested dict of keys, values and an index a layer."""

from typing import Any

import jax
import jax.numpy as jnp
from flax.core import FrozenDict, unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.core import Tracer
from jaxtyping import Array

Cache = dict[str, Any]


def leaf(cache: Cache, name: str) -> Any:
    """The first layer's leaf of that name.

    Raises:
      ValueError: `cache` is none that `init_cache` made.
    """
    if isinstance(cache, dict | FrozenDict):
        for path, value in flatten_dict(unfreeze(cache)).items():
            if path[-1] == name:
                return value
    raise ValueError(
        "past_key_values must be a cache made by model.init_cache, or the past_key_values of an "
        f"output; got {type(cache).__name__} without {name}"
    )


def index(cache: Cache) -> Array:
    """How many positions are filled."""
    return leaf(cache, "cache_index")


def is_empty(cache: Cache) -> bool:
    """Whether it is known to hold nothing; under `jit` nothing is known."""
    filled = index(cache)
    return not isinstance(filled, Tracer) and int(filled) == 0


def check(cache: Cache, batch: int, length: int) -> int:
    """The cache's length, in positions; see `leaf` for what it raises, and

    Raises:
      ValueError: made for another batch, or shorter than the `length` new tokens. Whether the
        tokens still fit behind those it holds cannot be read without stalling the device.
    """
    rows, size = leaf(cache, "cached_key").shape[:2]
    if rows != batch:
        raise ValueError(
            f"past_key_values was made for a batch of {rows}; input_ids has {batch}: make it "
            f"with model.init_cache({batch}, {size})"
        )
    if length > size:
        raise ValueError(
            f"past_key_values holds {size} positions; input_ids has {length}: make it longer, "
            f"with model.init_cache({batch}, max_length)"
        )
    return size


def empty(module: Any, params: Any, batch: int, length: int, encoder_length: int = 0) -> Cache:
    """A causal module's empty cache for `length` positions.

    Args:
      encoder_length: keys of cross-attention to have room for, computed once then; 0 for none.
    """
    ids = jax.ShapeDtypeStruct((batch, length), "int32")

    def make(params, ids):
        return module.apply(
            {"params": params}, ids, None, position_ids=ids, init_cache=True, mutable=["cache"]
        )

    made = unfreeze(jax.eval_shape(make, params, ids)[1]["cache"])
    cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), made)
    return _with_cross(cache, encoder_length) if encoder_length else cache


def _with_cross(cache: Cache, encoder_length: int) -> Cache:
    """With room for the encoder's keys and values in each layer."""
    flat: dict[Any, Any] = dict(flatten_dict(cache))
    for path, x in list(flat.items()):
        if path[-1] in ("cached_key", "cached_value"):
            # .../attention/self/cached_key and .../crossattention/self/cross_key
            *parents, _, owner, name = path
            shape = (x.shape[0], encoder_length, *x.shape[2:])
            cross = (*parents, "crossattention", owner, name.replace("cached", "cross"))
            flat[cross] = jnp.zeros(shape, x.dtype)
    return unflatten_dict(flat)
