"""Pretraining, masked language modeling and causal language modeling."""

import warnings
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from flax_bigbird.models.base import FlaxBigBirdPreTrainedModel
from flax_bigbird.models.bert import Mask
from flax_bigbird.models.inputs import ModelInputs
from flax_bigbird.models.outputs import (
    FlaxBigBirdForPreTrainingOutput,
    FlaxCausalLMOutput,
    FlaxMaskedLMOutput,
)
from flax_bigbird.models.parameterized import Params
from flax_bigbird.models.task_module import TaskModule, per_layer_fields
from flax_bigbird.nn.context import CallOptions
from flax_bigbird.nn.heads import PreTrainingHeads


class FlaxBigBirdForPreTrainingModule(TaskModule):
    """Computes masked-language-model logits and next-sentence logits."""

    def setup(self):
        self.bert = self.backbone(add_pooling_layer=True)
        self.cls = PreTrainingHeads(self.config, next_sentence=True, dtype=self.dtype)

    def head(self, states, inputs, deterministic):
        """Returns the logits of both heads."""
        return FlaxBigBirdForPreTrainingOutput(
            self.cls(states.last_hidden_state, self.word_embeddings()),
            self.cls.seq_relationship(states.pooler_output),
            **per_layer_fields(states),
        )


class FlaxBigBirdForPreTraining(FlaxBigBirdPreTrainedModel):
    """The model with both heads that it is pretrained with."""

    module_class = FlaxBigBirdForPreTrainingModule
    has_language_head = True


class FlaxBigBirdForMaskedLMModule(TaskModule):
    """Computes logits over the vocabulary at every position."""

    def setup(self):
        self.bert = self.backbone(add_pooling_layer=False)
        self.cls = PreTrainingHeads(self.config, dtype=self.dtype)

    def head(self, states, inputs, deterministic):
        """Returns the logits."""
        logits = self.cls(states.last_hidden_state, self.word_embeddings())
        return FlaxMaskedLMOutput(logits, **per_layer_fields(states))


class FlaxBigBirdForMaskedLM(FlaxBigBirdPreTrainedModel):
    """The model with a masked-language-model head."""

    module_class = FlaxBigBirdForMaskedLMModule
    has_language_head = True
    takes_packed_rows = True


class FlaxBigBirdForCausalLMModule(TaskModule):
    """Computes next-token logits.

    `position_ids` comes before `token_type_ids` in the signature, as in HF-Flax.
    """

    def setup(self):
        self.bert = self.backbone(add_pooling_layer=False)
        self.cls = PreTrainingHeads(self.config, dtype=self.dtype)

    def __call__(  # type: ignore[override]
        self,
        input_ids: Int[Array, "B T"],
        attention_mask: Mask | None,
        position_ids: Int[Array, "B T"] | None,
        token_type_ids: Int[Array, "B T"] | None = None,
        head_mask: Float[Array, "L N"] | None = None,
        encoder_hidden_states: Float[Array, "B S D"] | None = None,
        encoder_attention_mask: Mask | None = None,
        init_cache: bool = False,
        deterministic: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        *,
        logits_positions: Int[Array, "B P"] | None = None,
        global_attention_mask: Mask | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        prefill: bool = False,
    ) -> Any:
        """Returns the logits; `FlaxBigBirdModule` documents the options of the cache."""
        inputs = ModelInputs(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            logits_positions=logits_positions,
            global_attention_mask=global_attention_mask,
            segment_ids=segment_ids,
        )
        options = CallOptions(
            deterministic, output_attentions, output_hidden_states, init_cache, prefill
        )
        return self.run(inputs, options, return_dict=return_dict)

    def head(self, states, inputs, deterministic):
        """Returns the logits."""
        return FlaxCausalLMOutput(
            self.cls(states.last_hidden_state, self.word_embeddings()),
            cross_attentions=states.cross_attentions,
            **per_layer_fields(states),
        )


class FlaxBigBirdForCausalLM(FlaxBigBirdPreTrainedModel):
    """The model with a next-token head; it is causal if `config.is_decoder` is True."""

    module_class = FlaxBigBirdForCausalLMModule
    takes_encoder_states = True
    takes_packed_rows = True
    has_language_head = True

    def __init__(self, config: Any, *args: Any, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        if not self.sparsity.causal:
            _warn_once(
                "FlaxBigBirdForCausalLM with config.is_decoder=False is bidirectional: every "
                "position attends to the tokens after it. Set is_decoder=True for a causal "
                "language model"
            )

    @classmethod
    def can_generate(cls) -> bool:
        """Returns True: the model generates text."""
        return True

    def prepare_inputs_for_generation(
        self,
        input_ids: Any,
        max_length: int,
        attention_mask: Any = None,
    ) -> Params:
        """Returns the first arguments of a decoding loop: cache, mask and positions.

        Args:
          input_ids: The prompts, `[B, T]`.
          max_length: The length of prompt and continuation, in tokens.
          attention_mask: 1 at real tokens, `[B, T]`. Positions count real tokens only, so that
            left padding has no effect.
        """
        batch, length = input_ids.shape
        mask = jnp.ones((batch, max_length), jnp.int32)
        positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
        if attention_mask is not None:
            prompt_mask = jnp.asarray(attention_mask, jnp.int32)
            positions = jnp.maximum(prompt_mask.cumsum(-1) - 1, 0)
            mask = lax.dynamic_update_slice(mask, prompt_mask, (0, 0))
        return {
            "past_key_values": self.init_cache(batch, max_length),
            "attention_mask": mask,
            "position_ids": positions,
        }

    def update_inputs_for_generation(self, model_outputs: Any, model_kwargs: Params) -> Params:
        """Returns the arguments of the next step, which processes one token per example."""
        return model_kwargs | {
            "past_key_values": model_outputs.past_key_values,
            "position_ids": model_kwargs["position_ids"][:, -1:] + 1,
        }


_given_warnings: set[str] = set()


def _warn_once(message: str) -> None:
    """Gives a `UserWarning` the first time that a message occurs in this process."""
    if message not in _given_warnings:
        _given_warnings.add(message)
        warnings.warn(message, UserWarning, stacklevel=3)
