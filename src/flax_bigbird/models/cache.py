"""The key-value cache as callers hold it: a nested dict of keys, values and an index a layer."""

from typing import Any

from flax.core import FrozenDict, unfreeze
from flax.traverse_util import flatten_dict
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
