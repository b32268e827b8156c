"""The bare encoder (or decoder): embeddings, layers, pooler."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from flax_bigbird.models.base import FlaxBigBirdPreTrainedModel
from flax_bigbird.models.outputs import FlaxBigBirdModelOutput
from flax_bigbird.nn.context import Call, Reading
from flax_bigbird.nn.embeddings import BigBirdEmbeddings, dense
from flax_bigbird.nn.layers import BigBirdEncoder


class FlaxBigBirdModule(nn.Module):
    """Embeddings, layers and, with `add_pooling_layer`, tanh(dense(first token)).

    `prefill` promises that a cache given to it is empty: the input then attends to itself alone.
    """

    config: Any
    dtype: Any = jnp.float32
    add_pooling_layer: bool = True
    gradient_checkpointing: bool | str = False
    prefill: bool = False

    def setup(self):
        self.embeddings = BigBirdEmbeddings(self.config, self.dtype)
        self.encoder = BigBirdEncoder(self.config, self.dtype, self.gradient_checkpointing)
        if self.add_pooling_layer:
            self.pooler = dense(self.config, self.config.hidden_size, self.dtype)

    def __call__(
        self,
        input_ids: Array,
        attention_mask: Array | None,
        token_type_ids: Array | None,
        position_ids: Array | None,
        head_mask: Array | None = None,
        encoder_hidden_states: Array | None = None,
        encoder_attention_mask: Array | None = None,
        init_cache: bool = False,
        deterministic: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        *,
        global_attention_mask: Array | None = None,
        segment_ids: Array | None = None,
    ) -> Any:
        if token_type_ids is None:
            token_type_ids = jnp.zeros_like(input_ids)
        if position_ids is None:
            position_ids = jnp.broadcast_to(jnp.arange(input_ids.shape[-1]), input_ids.shape)
        x = self.embeddings(input_ids, token_type_ids, position_ids, deterministic=deterministic)
        call = Call(deterministic, output_attentions, init_cache, self.prefill)
        result = self.encoder(
            x,
            None if attention_mask is None else attention_mask != 0,
            head_mask,
            encoder_hidden_states,
            None if encoder_attention_mask is None else encoder_attention_mask != 0,
            call,
            Reading(
                None if global_attention_mask is None else global_attention_mask != 0, segment_ids
            ),
        )
        x = result.last_hidden_state
        crossed = output_attentions and encoder_hidden_states is not None
        output = FlaxBigBirdModelOutput(
            last_hidden_state=x,
            pooler_output=jnp.tanh(self.pooler(x[:, 0])) if self.add_pooling_layer else None,
            hidden_states=result.hidden_states if output_hidden_states else None,
            attentions=result.attentions if output_attentions else None,
            cross_attentions=result.cross_attentions if crossed else None,
        )
        return output if return_dict else output.to_tuple()


class FlaxBigBirdModel(FlaxBigBirdPreTrainedModel):
    """The bare model: hidden states and a pooled first token, without a head."""

    module_class = FlaxBigBirdModule

    @classmethod
    def takes_packed_rows(cls) -> bool:
        return True

    @classmethod
    def takes_encoder_states(cls) -> bool:
        return True
