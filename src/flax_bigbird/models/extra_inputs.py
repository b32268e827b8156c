"""What a call may take beside tokens and mask: another sequence, global tokens, packed rows."""

from typing import Any

import jax.numpy as jnp

from flax_bigbird.config import SparsityConfig
from flax_bigbird.models import inputs


def encoder_inputs(model: Any, states: Any, mask: Any, batch: int) -> dict[str, Any]:
    """The module's encoder_hidden_states and their mask, all ones by default."""
    if not (model.config.add_cross_attention and model.takes_encoder_states()):
        raise ValueError(
            f"{type(model).__name__} has no cross-attention to read encoder_hidden_states "
            "with: set config.add_cross_attention=True on a FlaxBigBirdModel or "
            "FlaxBigBirdForCausalLM"
        )
    states = inputs.encoder_states(states, batch, model.config.hidden_size)
    shape = states.shape[:2]
    mask = jnp.ones(shape, bool) if mask is None else mask
    mask = inputs.key_mask("encoder_attention_mask", mask, shape)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


def global_tokens(model: Any, chosen: Any, mask: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """The module's global_attention_mask, if there is one; see `__call__`."""
    if chosen is None:
        return {}
    config = model.config
    sparsity = SparsityConfig.from_hf(config)
    if config.is_decoder:
        raise ValueError(
            "global_attention_mask needs an encoder, whose tokens read those after them; got "
            "is_decoder=True: leave it out"
        )
    if not sparsity.layout.global_rows(1).size:
        raise ValueError(
            "global_attention_mask needs a leading or trailing global block; got "
            "num_leading_global_blocks=0 and num_trailing_global_blocks=0: set one of them to 1"
        )
    checked = inputs.key_mask("global_attention_mask", chosen, shape)
    if not sparsity.uses_full_attention(shape[-1]):
        limit = sparsity.max_user_global_blocks
        inputs.chosen_blocks(chosen, mask, config.block_size, limit)
    return {"global_attention_mask": checked}


def segments(
    model: Any, given: Any, shape: tuple[int, ...], cache: Any, chosen: Any, states: Any
) -> Any:
    """segment_ids, checked, for input_ids of that shape; see `__call__`."""
    names = ("past_key_values", "global_attention_mask", "encoder_hidden_states")
    for name, value in zip(names, (cache, chosen, states), strict=True):
        if value is not None:
            raise ValueError(
                f"segment_ids packs whole documents into rows; got {name} beside it: leave "
                "one of them out"
            )
    if not model.takes_packed_rows():
        raise ValueError(
            f"segment_ids needs a model whose outputs are by token; got it for "
            f"{type(model).__name__}: give every document a row of its own"
        )
    sparsity = SparsityConfig.from_hf(model.config)
    return inputs.segment_ids(given, shape, sparsity.block_size, sparsity.max_packed_blocks)
