"""`bigbird_attention_map`: attention of a long text, without an array of shape `[T, S]`."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.attention import BlockPattern, full_pattern, inspection, sparse_maps
from flax_bigbird.models import argument_checks as checks
from flax_bigbird.models.base import FlaxBigBirdPreTrainedModel
from flax_bigbird.models.programs import model_program
from flax_bigbird.nn.attention import BigBirdSelfAttention
from flax_bigbird.nn.patterns import call_pattern


@dataclasses.dataclass(frozen=True)
class AttentionMap:
    """The attention of some layers and all heads.

    Attributes:
      weights: `[L, B, N, M, M]` between blocks, or `[L, B, N, Q, T]` for selected queries.
      layers: The indices of the L layers.
      rows: The positions of the Q selected queries; None for a map between blocks.
      block_size: The number of tokens per block.
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
    """Returns what the tokens of an encoder attend to, by block or for selected queries.

    Without `rows`, the map holds how much each block of queries attends to each block of keys: the
    mean over the real tokens of the block. With `rows`, it holds the attention probabilities of
    those queries over all keys. In both cases, blocks that a pattern repeats are summed, and the
    weights of a query sum to 1 (0 at padding). The map takes into account what the pattern of a
    call depends on: full attention for short inputs, random blocks, padding,
    `global_attention_mask`, `segment_ids` and `head_mask`, which multiplies the weights of a head.
    `output_attentions=True` returns the same probabilities as one `[B, N, T, T]` array per layer.

    The memory is linear in T for selected queries, and `[B, N, W, T]` besides the result for
    blocks. The time is that of full attention.

    Args:
      model: An encoder of any task except multiple choice.
      input_ids: `[B, T]`.
      attention_mask: `[B, T]`.
      rows: The positions of the selected queries, in `0..T-1`.
      layers: The indices of the layers. The default is all layers.
      params: The parameters. The default is the model's own.
      inputs: Further inputs of the model's call, by name.

    Raises:
      ValueError: If the model is a decoder or for multiple choice, if an index is out of range, or
        if `train` is among the inputs: the map is that of evaluation.
    """
    config, sparsity = model.config, model.sparsity
    if sparsity.causal or model.input_rank != 2:
        raise ValueError(
            "bigbird_attention_map needs an encoder called with [batch, tokens]; got "
            f"{type(model).__name__} with is_decoder={sparsity.causal}: use output_attentions"
        )
    if inputs.get("train"):
        raise ValueError(
            "bigbird_attention_map shows what a model attends to in evaluation; got train=True: "
            "leave it out"
        )
    length = np.shape(input_ids)[-1]
    queries = None if rows is None else _check_indices("rows", rows, length)
    all_layers = range(config.num_hidden_layers)
    layer_ids = _check_indices(
        "layers", all_layers if layers is None else layers, config.num_hidden_layers
    )
    params = model.params if params is None else params
    inputs |= {"input_ids": input_ids, "attention_mask": attention_mask}
    _check_call(model, params, inputs)
    options = {name: x for name, x in inputs.items() if x is None or np.isscalar(x)}
    arrays = {
        name: x if isinstance(x, jax.Array) else np.asarray(x)
        for name, x in inputs.items()
        if name not in options
    }

    def build() -> Callable[..., Array]:
        without_params = model._with_module(gradient_checkpointing=False)
        without_params._params = None  # the program must not keep them
        return jax.jit(functools.partial(_weights, without_params, layer_ids, options))

    key = ("attention map", layer_ids, tuple(sorted(options.items())))
    positions = None if queries is None else np.asarray(queries, np.int32)
    weights = model_program(model, key, build)(params, arrays, positions)
    return AttentionMap(weights, layer_ids, queries, sparsity.block_size)


def _weights(
    model: FlaxBigBirdPreTrainedModel,
    layer_ids: tuple[int, ...],
    options: dict[str, Any],
    params: Any,
    arrays: dict[str, Array],
    positions: Int[Array, " Q"] | None,
) -> Array:
    """Computes the weights of `bigbird_attention_map`; this function is traced.

    Args:
      model: The model, without parameters.
      layer_ids: The indices of the layers.
      options: The inputs of the model's call that are not arrays, by name.
      params: The parameters.
      arrays: The other inputs of the model's call, by name.
      positions: The positions of the selected queries; None for a map between blocks.
    """
    inputs: dict[str, Any] = options | arrays
    input_ids, attention_mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    mask = _key_mask(attention_mask, inputs.get("segment_ids"))
    weights = []
    for layer in _layers(model, params, input_ids, attention_mask, layer_ids, inputs):
        q, k, pattern, scale = layer
        if positions is None:
            weights.append(inspection.block_attention(q, k, pattern, mask=mask, scale=scale))
        else:
            weights.append(
                inspection.token_attention(q, k, pattern, positions, mask=mask, scale=scale)
            )
    stacked = jnp.stack(weights)
    config = model.config
    head_mask = checks.head_mask(
        inputs.get("head_mask"), config.num_hidden_layers, config.num_attention_heads
    )
    if head_mask is None:
        return stacked
    factors = head_mask[jnp.asarray(layer_ids)].astype(stacked.dtype)
    return stacked * factors[:, None, :, None, None]


class _ChecksPassed(Exception):
    """Ends a call of a model whose inputs have been checked."""


def _check_call(model: FlaxBigBirdPreTrainedModel, params: Any, inputs: dict[str, Any]) -> None:
    """Raises what a call of the model raises for its inputs, without running its module.

    The values of host arrays are unknown in a compiled program, whose arguments they are.
    """

    def stop(call, args, kwargs, context):
        raise _ChecksPassed

    with contextlib.suppress(_ChecksPassed), nn.intercept_methods(stop):
        model(**inputs, params=params)


def attention_of_token(
    model: FlaxBigBirdPreTrainedModel,
    params: Any,
    input_ids: Int[Array, "1 T"],
    attention_mask: Int[Array, "1 T"],
    position: Int[Array, ""],
) -> tuple[Float[Array, "L N T"], Float[Array, "L N T"]]:
    """Returns what a token reads, and what reads it, in all layers. This function is traced.

    Time and memory are linear in T, as those of the model.

    Args:
      model: An encoder of any task except multiple choice.
      params: The parameters.
      input_ids: The token ids of one text.
      attention_mask: 0 at padding.
      position: The position of the token.

    Returns:
      The probabilities with which the token attends to every token, and those with which every
      token attends to it.
    """
    layer_ids = tuple(range(model.config.num_hidden_layers))
    mask = attention_mask.astype(bool)
    reads, read_by = [], []
    for q, k, pattern, scale in _layers(model, params, input_ids, attention_mask, layer_ids, {}):
        row = inspection.token_attention(q, k, pattern, position[None], mask=mask, scale=scale)
        reads.append(row[0, :, 0])
        read_by.append(sparse_maps.attention_to_key(q, k, pattern, position, mask, scale))
    return jnp.stack(reads), jnp.stack(read_by)


def sparse_block_map(
    model: FlaxBigBirdPreTrainedModel,
    params: Any,
    input_ids: Int[Array, "1 T"],
    attention_mask: Int[Array, "1 T"],
) -> Float[Array, "L N M M"]:
    """Returns the map between blocks of `bigbird_attention_map` in linear time; it is traced.

    Args:
      model: An encoder of any task except multiple choice.
      params: The parameters.
      input_ids: The token ids of one text.
      attention_mask: 0 at padding.
    """
    layer_ids = tuple(range(model.config.num_hidden_layers))
    mask = attention_mask.astype(bool)
    return jnp.stack(
        [
            sparse_maps.block_map(q, k, pattern, mask, scale)
            for q, k, pattern, scale in _layers(
                model, params, input_ids, attention_mask, layer_ids, {}
            )
        ]
    )


def _layers(
    model: FlaxBigBirdPreTrainedModel,
    params: Any,
    input_ids: Any,
    attention_mask: Any,
    layer_ids: tuple[int, ...],
    inputs: dict[str, Any],
) -> Iterator[tuple[Array, Array, BlockPattern, float]]:
    """Yields the queries and keys `[B, T, N, H]`, the pattern and the scale of some layers."""
    sparsity, length = model.sparsity, np.shape(input_ids)[-1]
    segment_ids = inputs.get("segment_ids")
    mask = _key_mask(attention_mask, segment_ids)
    segment_ids = None if segment_ids is None else jnp.asarray(segment_ids)
    user_global = inputs.get("global_attention_mask")
    user_global = None if user_global is None else jnp.asarray(user_global).astype(bool)
    plain_model = model._with_module(gradient_checkpointing=False)
    projections = _queries_and_keys(plain_model, params, input_ids, attention_mask, inputs)
    for layer in layer_ids:
        q, k = projections[layer]
        if segment_ids is None and sparsity.uses_full_attention(length):
            pattern = full_pattern(-(-length // sparsity.block_size), sparsity.block_size)
        else:
            pattern, invalid = call_pattern(
                sparsity,
                layer,
                length,
                mask=mask,
                user_global=user_global,
                segment_ids=segment_ids,
            )
            if invalid is not None:  # as the outputs of the model
                q = jnp.where(invalid[:, None, None, None], jnp.nan, q)
        yield q, k, pattern, 1 / math.sqrt(q.shape[-1])


def _key_mask(attention_mask: Any, segment_ids: Any) -> Bool[Array, "B T"] | None:
    """Returns which tokens a call reads, or None for all."""
    mask = None if attention_mask is None else jnp.asarray(attention_mask).astype(bool)
    if segment_ids is None:
        return mask
    in_segment = jnp.asarray(segment_ids) != 0
    return in_segment if mask is None else mask & in_segment


def _check_indices(name: str, values: Sequence[int], size: int) -> tuple[int, ...]:
    indices = tuple(int(x) for x in values)
    bad = [x for x in indices if not 0 <= x < size]
    if bad or not indices:
        raise ValueError(
            f"{name} must hold indices in 0..{size - 1}, at least one; got {bad or list(indices)}"
        )
    return indices


def _queries_and_keys(
    model: Any, params: Any, input_ids: Any, attention_mask: Any, inputs: dict[str, Any]
) -> dict[int, tuple[Array, Array]]:
    """Returns the queries and keys `[B, T, N, H]` of the self-attention of every layer."""
    projections: dict[int, tuple[Array, Array]] = {}

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "project" and isinstance(context.module, BigBirdSelfAttention):
            projections[context.module.layer] = out[:2]
        return out

    with nn.intercept_methods(record):
        model(input_ids, attention_mask, params=params, **inputs)
    return projections
