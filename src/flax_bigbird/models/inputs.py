"""The inputs of a call: what the caller passes, and the checked arrays that a module receives."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from flax_bigbird.attention.numerics import Dimension
from flax_bigbird.models import argument_checks as checks
from flax_bigbird.models import cache as kv_cache
from flax_bigbird.models import sparse_inputs
from flax_bigbird.models.parameterized import ParameterizedModel


@dataclasses.dataclass(frozen=True)
class CallArguments:
    """The array arguments of a model's call, as the caller passes them.

    `FlaxBigBirdPreTrainedModel.__call__` documents them.
    """

    input_ids: Any
    attention_mask: Any = None
    token_type_ids: Any = None
    position_ids: Any = None
    head_mask: Any = None
    encoder_hidden_states: Any = None
    encoder_attention_mask: Any = None
    logits_positions: Any = None
    global_attention_mask: Any = None
    segment_ids: Any = None
    past_key_values: Any = None


@dataclasses.dataclass(frozen=True)
class ModelInputs:
    """The array arguments of a linen module's call.

    Attributes:
      input_ids: The token ids; `[B, C, T]` for multiple choice.
      attention_mask: True at the tokens that may be read. With a cache, it covers its slots.
      token_type_ids: The token types.
      position_ids: The positions; None if they are `0..T-1` in each example.
      head_mask: A factor for every head of every layer.
      encoder_hidden_states: The states that cross-attention reads.
      encoder_attention_mask: True at the encoder's real tokens.
      logits_mask: True where no answer may start or end; question answering only.
      logits_positions: The positions whose logits are requested; language models only.
      global_attention_mask: True at the tokens that the user makes global.
      segment_ids: The segments of packed rows, 0 at padding.
    """

    input_ids: Int[Array, "*B T"]
    attention_mask: Shaped[Array, "*B _"] | None
    token_type_ids: Int[Array, "*B T"] | None
    position_ids: Int[Array, "*B T"] | None
    head_mask: Float[Array, "L N"] | None = None
    encoder_hidden_states: Float[Array, "*B S D"] | None = None
    encoder_attention_mask: Shaped[Array, "*B S"] | None = None
    logits_mask: Bool[Array, "*B T 1"] | None = None
    logits_positions: Int[Array, "*B P"] | None = None
    global_attention_mask: Shaped[Array, "*B T"] | None = None
    segment_ids: Int[Array, "*B T"] | None = None

    def to_kwargs(self) -> dict[str, Any]:
        """Returns the arguments by name; those that only some modules take are left out if None."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value for name, value in fields.items() if name in _COMMON or value is not None
        }

    def replace(self, **changes: Any) -> "ModelInputs":
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


_COMMON = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "head_mask")


def check_inputs(model: ParameterizedModel, call: CallArguments) -> ModelInputs:
    """Checks the arguments of a call and fills in their defaults.

    Raises:
      ValueError: If shapes, dtypes or ranges do not fit the model or each other.
    """
    segment_ids, position_ids = None, call.position_ids
    if call.segment_ids is not None:
        _check_packing(model, call)
        segment_ids = sparse_inputs.segment_ids(
            call.segment_ids, np.shape(call.input_ids), model.sparsity
        )
        if position_ids is None:
            position_ids = sparse_inputs.positions_in_segments(segment_ids)
        segment_ids = jnp.asarray(segment_ids)
    inputs = _check_token_inputs(model, dataclasses.replace(call, position_ids=position_ids))
    shape = inputs.input_ids.shape
    attention_mask = inputs.attention_mask
    if segment_ids is not None and attention_mask is not None:
        attention_mask = attention_mask & (segment_ids != 0)
    encoder_states, encoder_mask = check_encoder_inputs(
        model, call.encoder_hidden_states, call.encoder_attention_mask, shape[0]
    )
    return inputs.replace(
        attention_mask=attention_mask,
        encoder_hidden_states=encoder_states,
        encoder_attention_mask=encoder_mask,
        logits_positions=_check_logits_positions(model, call.logits_positions, shape),
        global_attention_mask=None
        if call.global_attention_mask is None
        else sparse_inputs.global_attention_mask(
            call.global_attention_mask, call.attention_mask, shape, model.sparsity
        ),
        segment_ids=segment_ids,
    )


def _check_token_inputs(model: ParameterizedModel, call: CallArguments) -> ModelInputs:
    """Checks the arguments that every model takes."""
    config, cache = model.config, call.past_key_values
    ids = checks.token_ids(
        "input_ids",
        call.input_ids,
        ndim=model.input_rank,
        num_ids=config.vocab_size,
        limit_name="vocab_size",
    )
    shape = ids.shape
    checks.check_symbolic_length(model.sparsity, shape[-1])
    position_ids = call.position_ids
    mask_shape = shape if cache is None else (shape[0], _check_cache(model, cache, shape))
    if position_ids is None:
        checks.check_length(config, shape[-1])
    if position_ids is None and cache is not None:
        position_ids = jnp.broadcast_to(kv_cache.next_slot(cache) + jnp.arange(shape[-1]), shape)

    def token_ids(name: str, value: Any, limit_name: str) -> Array:
        if value is None:
            return jnp.zeros(shape, jnp.int32)
        value = checks.broadcast_to_tokens(name, value, shape)
        num_ids = getattr(config, limit_name)
        return checks.token_ids(
            name, value, ndim=len(shape), num_ids=num_ids, limit_name=limit_name
        )

    token_type_ids = token_ids("token_type_ids", call.token_type_ids, "type_vocab_size")
    if position_ids is not None:
        position_ids = token_ids("position_ids", position_ids, "max_position_embeddings")
    if call.attention_mask is None:
        attention_mask = jnp.ones(mask_shape, bool)
    else:
        attention_mask = checks.key_mask("attention_mask", call.attention_mask, mask_shape)
    head_mask = checks.head_mask(
        call.head_mask, config.num_hidden_layers, config.num_attention_heads
    )
    return ModelInputs(ids, attention_mask, token_type_ids, position_ids, head_mask)


def _check_cache(model: ParameterizedModel, cache: Any, shape: tuple[Dimension, ...]) -> int:
    """Returns the number of slots of the cache; raises `ValueError` if the model takes none."""
    if not (model.sparsity.causal and model.takes_encoder_states):
        raise ValueError(
            "past_key_values needs a FlaxBigBirdModel or FlaxBigBirdForCausalLM with "
            f"config.is_decoder=True; got {type(model).__name__} with "
            f"is_decoder={model.sparsity.causal}: leave it out"
        )
    return kv_cache.check_size(cache, shape[0], shape[-1])


def _check_logits_positions(
    model: ParameterizedModel, positions: Any, shape: tuple[Dimension, ...]
) -> Int[Array, "B P"] | None:
    if positions is None:
        return None
    if not model.has_language_head:
        raise ValueError(
            f"logits_positions needs a model with a language-model head; got it for "
            f"{type(model).__name__}: leave it out"
        )
    return checks.logits_positions(positions, *shape)


def check_encoder_inputs(
    model: ParameterizedModel, states: Any, mask: Any, batch: Dimension
) -> tuple[Float[Array, "B S D"] | None, Bool[Array, "B S"] | None]:
    """Returns the encoder's hidden states and their mask, which is all ones by default.

    Raises:
      ValueError: If the model has no cross-attention, or if the arrays do not fit.
    """
    if states is None:
        if mask is not None:
            raise ValueError(
                "encoder_attention_mask needs encoder_hidden_states; got the mask alone: pass "
                "both, or neither"
            )
        return None, None
    if not (model.config.add_cross_attention and model.takes_encoder_states):
        raise ValueError(
            f"{type(model).__name__} has no cross-attention to read encoder_hidden_states "
            "with: set config.add_cross_attention=True on a FlaxBigBirdModel or "
            "FlaxBigBirdForCausalLM"
        )
    states = checks.encoder_states(states, batch, model.config.hidden_size)
    shape = states.shape[:2]
    mask = jnp.ones(shape, bool) if mask is None else mask
    return states, checks.key_mask("encoder_attention_mask", mask, shape)


def _check_packing(model: ParameterizedModel, call: CallArguments) -> None:
    """Raises `ValueError` if the model or another argument rules out packed rows."""
    for name in ("past_key_values", "global_attention_mask", "encoder_hidden_states"):
        if getattr(call, name) is not None:
            raise ValueError(
                f"segment_ids packs whole examples into rows; got {name} as well: leave one of "
                "them out"
            )
    if not model.takes_packed_rows:
        raise ValueError(
            "segment_ids needs a model with one output per token; got it for "
            f"{type(model).__name__}: give every example a row of its own"
        )
