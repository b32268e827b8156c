"""`TaskModule`: the base class of the modules with a head, which calls the backbone for them."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_bigbird.models.bert import FlaxBigBirdModule, Mask
from flax_bigbird.models.inputs import ModelInputs
from flax_bigbird.models.outputs import FlaxBigBirdModelOutput, ModelOutput
from flax_bigbird.nn.context import CallOptions


class TaskModule(nn.Module):
    """A backbone named `bert`, and a head.

    A subclass defines `setup`, which assigns `self.bert`, and `head`.
    """

    config: Any
    dtype: Any = jnp.float32
    gradient_checkpointing: bool | str = False

    def backbone(self, *, add_pooling_layer: bool) -> FlaxBigBirdModule:
        """Returns the module that `setup` assigns to `self.bert`."""
        return FlaxBigBirdModule(
            self.config,
            dtype=self.dtype,
            add_pooling_layer=add_pooling_layer,
            gradient_checkpointing=self.gradient_checkpointing,
        )

    def head(
        self, states: FlaxBigBirdModelOutput, inputs: ModelInputs, deterministic: bool
    ) -> ModelOutput:
        """Returns the output of the task.

        Args:
          states: The output of the backbone.
          inputs: The inputs of the call.
          deterministic: Whether to disable dropout.
        """
        raise NotImplementedError

    def word_embeddings(self) -> nn.Embed:
        """Returns the embedding table that a tied output layer shares."""
        return self.bert.embeddings.word_embeddings  # type: ignore[attr-defined]

    def run(self, inputs: ModelInputs, options: CallOptions, *, return_dict: bool = True) -> Any:
        """Runs the backbone and the head.

        Returns:
          The output of the task, or a tuple if `return_dict` is False.
        """
        states = self.run_backbone(inputs, options)
        output = self.head(states, inputs, options.deterministic)
        return output if return_dict else output.to_tuple()

    def run_backbone(self, inputs: ModelInputs, options: CallOptions) -> FlaxBigBirdModelOutput:
        """Runs the backbone, and selects `inputs.logits_positions` of its output."""
        backbone_inputs = inputs.replace(logits_mask=None, logits_positions=None)
        states = self.bert(  # type: ignore[attr-defined]
            **backbone_inputs.to_kwargs(),
            init_cache=options.init_cache,
            deterministic=options.deterministic,
            output_attentions=options.output_attentions,
            output_hidden_states=options.output_hidden_states,
            prefill=options.prefill,
        )
        if inputs.logits_positions is not None:
            states = select_positions(states, inputs.logits_positions)
        return states

    def __call__(
        self,
        input_ids: Int[Array, "B T"],
        attention_mask: Mask | None,
        token_type_ids: Int[Array, "B T"] | None,
        position_ids: Int[Array, "B T"] | None,
        head_mask: Float[Array, "L N"] | None = None,
        deterministic: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        *,
        logits_positions: Int[Array, "B P"] | None = None,
        global_attention_mask: Mask | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ) -> Any:
        """Returns the output of the task; `FlaxBigBirdPreTrainedModel` documents the arguments."""
        inputs = ModelInputs(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            logits_positions=logits_positions,
            global_attention_mask=global_attention_mask,
            segment_ids=segment_ids,
        )
        options = CallOptions(deterministic, output_attentions, output_hidden_states)
        return self.run(inputs, options, return_dict=return_dict)


def select_positions(
    states: FlaxBigBirdModelOutput, positions: Int[Array, "B P"]
) -> FlaxBigBirdModelOutput:
    """Returns the states with the last hidden state at some positions only, `[B, P, D]`."""
    selected = jnp.take_along_axis(states.last_hidden_state, positions[:, :, None], axis=1)
    return states.replace(last_hidden_state=selected)


def per_layer_fields(states: FlaxBigBirdModelOutput) -> dict[str, Any]:
    """Returns the per-layer fields that every task's output has."""
    return {"hidden_states": states.hidden_states, "attentions": states.attentions}
