"""`bigbird_attention_map`: what a long document attended to, without a `[T, S]` array."""

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flax_bigbird.attention import full_pattern, inspection
from flax_bigbird.config import SparsityConfig
from flax_bigbird.models.base import FlaxBigBirdPreTrainedModel
from flax_bigbird.nn.patterns import call_pattern


@dataclasses.dataclass(frozen=True)
class AttentionMap:
    """Attention of some layers, all heads.

    Attributes:
      weights: `[L, B, N, M, M]` between blocks, or `[L, B, N, Q, T]` of chosen rows.
      layers: the layers' indices, L of them.
      rows: the chosen queries, Q of them; None for blocks.
      block_size: W, tokens a block.
    """

    weights: Float[Array, "L B N Q S"]
    layers: tuple[int, ...]
    rows: tuple[int, ...] | None
    block_size: int


def bigbird_attention_map(
    model: FlaxBigBirdPreTrainedModel,
    input_ids: Any,
    attention_mask: Any = None,
    *,
    rows: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    params: Any = None,
    **inputs: Any,
) -> AttentionMap:
    """What an encoder's tokens attended to, by block or for chosen tokens.

    Without `rows`: how much each block of queries reads of each block of keys, the mean over its
    real tokens. With `rows`: the probabilities of those tokens over all keys. Either way repeated
    blocks are summed, rows sum to 1 (0 at padding), and what a call's own pattern depends on is
    respected: full attention for short inputs, random blocks, padding, `global_attention_mask`.
    `output_attentions=True` gives the same as one `[B, N, T, T]` array a layer.

    Args:
      model: an encoder of any task but multiple choice.
      input_ids, attention_mask: `[B, T]`, and further `inputs` of the model's call by name.
      rows: token indices, `0..T-1`.
      layers: layer indices; default all.
      params: default the model's own.

    Raises:
      ValueError: a decoder, multiple choice, or indices out of range.

    Memory is linear in T for rows, and `[B, N, W, T]` beside the result for blocks; time is that of
    full attention.
    """
    config = model.config
    sparsity = SparsityConfig.from_hf(config)
    if config.is_decoder or model.input_rank != 2:
        raise ValueError(
            "bigbird_attention_map needs an encoder called with [batch, tokens]; got "
            f"{type(model).__name__} with is_decoder={config.is_decoder}: use output_attentions"
        )
    length = np.shape(input_ids)[-1]
    rows = None if rows is None else _indices("rows", rows, length)
    chosen = range(config.num_hidden_layers) if layers is None else layers
    layers = _indices("layers", chosen, config.num_hidden_layers)
    own = copy.copy(model)
    own._module = model.module.clone(gradient_checkpointing=False)
    params = model.params if params is None else params
    mask = None if attention_mask is None else jnp.asarray(attention_mask) != 0
    marked = inputs.get("global_attention_mask")
    marked = None if marked is None else jnp.asarray(marked) != 0

    def compute(params: Any) -> Array:
        heads = _queries_and_keys(own, params, input_ids, attention_mask, inputs)
        weights = []
        for layer in layers:
            q, k = (x.reshape(*x.shape[:2], config.num_attention_heads, -1) for x in heads[layer])
            if sparsity.uses_full_attention(length):
                pattern = full_pattern(-(-length // config.block_size), config.block_size)
            else:
                pattern, _ = call_pattern(sparsity, layer, length, mask=mask, user_global=marked)
            options = {"mask": mask, "scale": 1 / math.sqrt(q.shape[-1])}
            if rows is None:
                weights.append(inspection.block_attention(q, k, pattern, **options))
            else:
                at = jnp.asarray(rows)
                weights.append(inspection.token_attention(q, k, pattern, at, **options))
        return jnp.stack(weights)

    return AttentionMap(jax.jit(compute)(params), layers, rows, config.block_size)


def _indices(name: str, values: Sequence[int], size: int) -> tuple[int, ...]:
    found = tuple(int(x) for x in values)
    bad = [x for x in found if not 0 <= x < size]
    if bad or not found:
        raise ValueError(
            f"{name} must hold indices in 0..{size - 1}, one at least; got {bad or list(found)}"
        )
    return found


def _queries_and_keys(
    model: Any, params: Any, input_ids: Any, attention_mask: Any, inputs: dict[str, Any]
) -> dict[int, tuple[Array, Array]]:
    """`[B, T, D]` queries and keys of every layer's self-attention, from one call of the model."""
    found: dict[tuple[int, str], Array] = {}

    def listen(call, args, kwargs, context):
        out = call(*args, **kwargs)
        path = context.module.path
        if context.method_name == "__call__" and path[-3:-1] == ("attention", "self"):
            found[int(path[-4]), path[-1]] = out
        return out

    with nn.intercept_methods(listen):
        model(input_ids, attention_mask, params=params, **inputs)
    layers = {layer for layer, _ in found}
    return {layer: (found[layer, "query"], found[layer, "key"]) for layer in layers}
