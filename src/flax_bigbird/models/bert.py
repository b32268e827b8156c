"""The bare encoder or decoder: embeddings, layers and pooler."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.models.base import FlaxBigBirdPreTrainedModel
from flax_bigbird.models.outputs import FlaxBigBirdModelOutput
from flax_bigbird.nn.context import AttentionInputs, CallOptions
from flax_bigbird.nn.embeddings import BigBirdEmbeddings, dense
from flax_bigbird.nn.layers import BigBirdEncoder

# Masks of 0 and 1, or of booleans, over tokens, cache slots or encoder states.
Mask = Bool[Array, "B _"] | Int[Array, "B _"] | Float[Array, "B _"]


class FlaxBigBirdModule(nn.Module):
    """The embeddings, the layers and, with `add_pooling_layer`, tanh(dense(first token))."""

    config: Any
    dtype: Any = jnp.float32
    add_pooling_layer: bool = True
    gradient_checkpointing: bool | str = False

    def setup(self):
        self.embeddings = BigBirdEmbeddings(self.config, self.dtype)
        self.encoder = BigBirdEncoder(self.config, self.dtype, self.gradient_checkpointing)
        if self.add_pooling_layer:
            self.pooler = dense(self.config, self.config.hidden_size, self.dtype)

    def __call__(
        self,
        input_ids: Int[Array, "B T"],
        attention_mask: Mask | None = None,
        token_type_ids: Int[Array, "B T"] | None = None,
        position_ids: Int[Array, "B T"] | None = None,
        head_mask: Float[Array, "L N"] | None = None,
        encoder_hidden_states: Float[Array, "B S D"] | None = None,
        encoder_attention_mask: Mask | None = None,
        init_cache: bool = False,
        deterministic: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        *,
        global_attention_mask: Mask | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        prefill: bool = False,
    ) -> FlaxBigBirdModelOutput | tuple[Any, ...]:
        """Returns the hidden states and the pooled first token.

        `FlaxBigBirdPreTrainedModel.__call__` documents the inputs.

        Args:
          init_cache: Whether to create a key-value cache of the length of the input.
          deterministic: Whether to disable dropout and to use the evaluation pattern.
          prefill: Whether the key-value cache is known to be empty. The input then attends only to
            itself.
        """
        if token_type_ids is None:
            token_type_ids = jnp.zeros_like(input_ids)
        options = CallOptions(
            deterministic, output_attentions, output_hidden_states, init_cache, prefill
        )
        x = self.embeddings(input_ids, token_type_ids, position_ids, deterministic=deterministic)
        result = self.encoder(
            x,
            mask=_as_boolean(attention_mask),
            head_mask=head_mask,
            encoder_states=encoder_hidden_states,
            encoder_mask=_as_boolean(encoder_attention_mask),
            options=options,
            attention_inputs=AttentionInputs(_as_boolean(global_attention_mask), segment_ids),
        )
        x = result.last_hidden_state
        has_cross_attention = output_attentions and encoder_hidden_states is not None
        output = FlaxBigBirdModelOutput(
            last_hidden_state=x,
            pooler_output=jnp.tanh(self.pooler(x[:, 0])) if self.add_pooling_layer else None,
            hidden_states=result.hidden_states if output_hidden_states else None,
            attentions=result.attentions if output_attentions else None,
            cross_attentions=result.cross_attentions if has_cross_attention else None,
        )
        return output if return_dict else output.to_tuple()


def _as_boolean(mask: Mask | None) -> Bool[Array, "B _"] | None:
    return None if mask is None else mask.astype(bool)


class FlaxBigBirdModel(FlaxBigBirdPreTrainedModel):
    """The bare model: hidden states and a pooled first token, without a head."""

    module_class = FlaxBigBirdModule
    takes_encoder_states = True
    takes_packed_rows = True
