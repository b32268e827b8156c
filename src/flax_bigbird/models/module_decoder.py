"""Runs a causal linen module as the `Decoder` of the generation loops."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.generation.decoder import Decoder
from flax_bigbird.models import cache as kv_cache
from flax_bigbird.models.apply import prefill_argument, takes_keyword
from flax_bigbird.models.parameterized import ParamsLike


def module_decoder(
    module: nn.Module,
    params: ParamsLike,
    ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"] | None,
    max_slots: int,
    encoder_hidden_states: Float[Array, "B S D"] | None = None,
    encoder_attention_mask: Bool[Array, "B S"] | None = None,
) -> Decoder:
    """Returns a decoder with a cache for the prompts and `max_slots` more tokens.

    Its state is a dict with the cache, the mask over its slots, the next positions and the mask of
    the encoder.

    Args:
      module: The causal module.
      params: Its parameters.
      ids: The left-padded prompts.
      mask: True at the real tokens of the prompts; None if there is no padding.
      max_slots: The number of slots after the prompts.
      encoder_hidden_states: The states that cross-attention reads.
      encoder_attention_mask: True at the encoder's real tokens.
    """
    batch, length = ids.shape
    # A module that is not told which call is the first cannot know when to fill the cache.
    caches_encoder = bool(prefill_argument(module))

    def call(tokens, positions, state, **kwargs):
        if encoder_hidden_states is not None:
            kwargs["encoder_hidden_states"] = _match_batch(
                encoder_hidden_states, len(tokens), is_cached=caches_encoder
            )
            kwargs["encoder_attention_mask"] = state["encoder_mask"]
        output, updated = module.apply(
            {"params": params, "cache": state["cache"]},
            tokens,
            state["mask"],
            position_ids=positions,
            mutable=["cache"],
            **_last_position(module, tokens),
            **kwargs,
        )
        scores = output[0][:, -1]  # the output of a user's module may be a tuple
        state = state | {"cache": updated["cache"], "positions": positions[:, -1] + 1}
        return scores, state

    def prefill():
        positions = jnp.broadcast_to(jnp.arange(length), ids.shape)
        full_mask = None
        if mask is not None:
            positions = jnp.maximum(mask.cumsum(-1) - 1, 0)
            full_mask = jnp.pad(mask, ((0, 0), (0, max_slots)), constant_values=True)
        num_states = 0
        if encoder_hidden_states is not None and caches_encoder:
            num_states = encoder_hidden_states.shape[1]
        variables = {"params": params}
        state = {
            "cache": kv_cache.init_cache(module, variables, batch, length + max_slots, num_states),
            "mask": full_mask,
            "encoder_mask": encoder_attention_mask,
            "positions": positions[:, -1],
        }
        return call(ids, positions, state, **prefill_argument(module))

    def step(state, tokens):
        return call(tokens[:, None], state["positions"][:, None], state)

    def repeat(state, copies):
        return jax.tree.map(lambda x: jnp.repeat(x, copies, axis=0) if x.ndim else x, state)

    def reorder(state, rows):
        def select(path, x):
            # All copies of an example have the same prompt: only what follows it is moved.
            if path[-1].key not in ("cached_key", "cached_value"):
                return x
            return x.at[:, length:].set(x[rows, length:])

        cache = jax.tree_util.tree_map_with_path(select, state["cache"])
        return state | {"cache": cache}

    return Decoder(prefill, step, repeat, reorder)


def _match_batch(
    states: Float[Array, "B S D"], batch: int, *, is_cached: bool
) -> Float[Array, "batch S D"]:
    """Returns states of the given batch size: those of the prompts, or of their copies.

    Args:
      states: The states of the prompts.
      batch: The number of sequences, a multiple of the number of prompts.
      is_cached: Whether the copies read keys and values from the cache, and never the states, which
        are then zeros.
    """
    if len(states) == batch:
        return states
    if is_cached:
        return jnp.zeros((batch, *states.shape[1:]), states.dtype)
    return jnp.repeat(states, batch // len(states), axis=0)


def _last_position(module: nn.Module, tokens: Int[Array, "B T"]) -> dict[str, Any]:
    """Returns the argument that asks for the logits of the last token only, if it is accepted."""
    if tokens.shape[1] == 1 or not takes_keyword(module, "logits_positions"):
        return {}
    return {"logits_positions": jnp.full((len(tokens), 1), tokens.shape[1] - 1)}
