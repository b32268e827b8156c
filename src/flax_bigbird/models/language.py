"""Language modelling: pretraining, masked and causal."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from flax_bigbird.models.base import FlaxBigBirdPreTrainedModel, Params, warn_once
from flax_bigbird.models.outputs import (
    FlaxBigBirdForPreTrainingOutput,
    FlaxCausalLMOutput,
    FlaxMaskedLMOutput,
)
from flax_bigbird.models.task import TaskModule, at_positions, layers
from flax_bigbird.nn.heads import PreTrainingHeads


class FlaxBigBirdForPreTrainingModule(TaskModule):
    """Masked-language-model and next-sentence logits."""

    def setup(self):
        self.bert = self.backbone(pooling=True)
        self.cls = PreTrainingHeads(self.config, next_sentence=True, dtype=self.dtype)

    def head(self, states, deterministic):
        return FlaxBigBirdForPreTrainingOutput(
            self.cls(states.last_hidden_state, self.word_table()),
            self.cls.seq_relationship(states.pooler_output),
            **layers(states),
        )


class FlaxBigBirdForPreTraining(FlaxBigBirdPreTrainedModel):
    """The model with both heads it is pretrained with."""

    module_class = FlaxBigBirdForPreTrainingModule

    @classmethod
    def has_language_head(cls) -> bool:
        return True


class FlaxBigBirdForMaskedLMModule(TaskModule):
    """Logits of every position over the vocabulary."""

    def setup(self):
        self.bert = self.backbone(pooling=False)
        self.cls = PreTrainingHeads(self.config, dtype=self.dtype)

    def head(self, states, deterministic):
        logits = self.cls(states.last_hidden_state, self.word_table())
        return FlaxMaskedLMOutput(logits, **layers(states))


class FlaxBigBirdForMaskedLM(FlaxBigBirdPreTrainedModel):
    """The model with a masked-language-model head."""

    module_class = FlaxBigBirdForMaskedLMModule

    @classmethod
    def takes_packed_rows(cls) -> bool:
        return True

    @classmethod
    def has_language_head(cls) -> bool:
        return True


class FlaxBigBirdForCausalLMModule(TaskModule):
    """Next-token logits; `position_ids` stands before `token_type_ids`, as it always has.

    With `prefill`, a cache given to it is empty.
    """

    prefill: bool = False

    def setup(self):
        self.bert = self.backbone(pooling=False, prefill=self.prefill)
        self.cls = PreTrainingHeads(self.config, dtype=self.dtype)

    def __call__(  # type: ignore[override]
        self,
        input_ids: Array,
        attention_mask: Array | None,
        position_ids: Array | None,
        token_type_ids: Array | None = None,
        head_mask: Array | None = None,
        encoder_hidden_states: Array | None = None,
        encoder_attention_mask: Array | None = None,
        init_cache: bool = False,
        deterministic: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        *,
        logits_positions: Array | None = None,
        global_attention_mask: Array | None = None,
        segment_ids: Array | None = None,
    ) -> Any:
        states = self.bert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            init_cache,
            deterministic,
            output_attentions,
            output_hidden_states,
            global_attention_mask=global_attention_mask,
            segment_ids=segment_ids,
        )
        if logits_positions is not None:
            states = at_positions(states, logits_positions)
        output = FlaxCausalLMOutput(
            self.cls(states.last_hidden_state, self.word_table()),
            cross_attentions=states.cross_attentions,
            **layers(states),
        )
        return output if return_dict else output.to_tuple()


class FlaxBigBirdForCausalLM(FlaxBigBirdPreTrainedModel):
    """The model with a next-token head; causal with `config.is_decoder=True`."""

    module_class = FlaxBigBirdForCausalLMModule

    @classmethod
    def takes_packed_rows(cls) -> bool:
        return True

    def __init__(self, config: Any, *args: Any, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        if not config.is_decoder:
            warn_once(
                "FlaxBigBirdForCausalLM with config.is_decoder=False is bidirectional: every "
                "position sees the tokens after it. Set is_decoder=True for a language model"
            )

    @classmethod
    def takes_encoder_states(cls) -> bool:
        return True

    @classmethod
    def can_generate(cls) -> bool:
        return True

    @classmethod
    def has_language_head(cls) -> bool:
        return True

    def prepare_inputs_for_generation(
        self, input_ids: Array, max_length: int, attention_mask: Array | None = None
    ) -> Params:
        """The call's arguments that a decoding loop starts with: cache, mask and positions.

        Args:
          input_ids: [B, T], the prompt.
          max_length: of prompt and continuation.
          attention_mask: [B, T]; positions count real tokens, so that padding on the left is free.
        """
        batch, length = input_ids.shape
        mask = jnp.ones((batch, max_length), jnp.int32)
        positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
        if attention_mask is not None:
            given = jnp.asarray(attention_mask, jnp.int32)
            positions = jnp.maximum(given.cumsum(-1) - 1, 0)
            mask = lax.dynamic_update_slice(mask, given, (0, 0))
        return {
            "past_key_values": self.init_cache(batch, max_length),
            "attention_mask": mask,
            "position_ids": positions,
        }

    def update_inputs_for_generation(self, model_outputs: Any, model_kwargs: Params) -> Params:
        """The arguments of the next step, of one token a row."""
        return model_kwargs | {
            "past_key_values": model_outputs.past_key_values,
            "position_ids": model_kwargs["position_ids"][:, -1:] + 1,
        }
