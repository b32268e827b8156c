"""What the modules of all tasks share: one backbone call, one output structure."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Int

from flax_bigbird.models.bert import FlaxBigBirdModule
from flax_bigbird.models.outputs import FlaxBigBirdModelOutput


class TaskModule(nn.Module):
    """A backbone under `bert` and a head; a task defines `setup` and `head`."""

    config: Any
    dtype: Any = jnp.float32
    gradient_checkpointing: bool | str = False

    def backbone(self, *, pooling: bool, prefill: bool = False) -> FlaxBigBirdModule:
        """The encoder a task's `setup` assigns to `self.bert`."""
        return FlaxBigBirdModule(
            self.config,
            dtype=self.dtype,
            add_pooling_layer=pooling,
            gradient_checkpointing=self.gradient_checkpointing,
            prefill=prefill,
        )

    def head(self, states: FlaxBigBirdModelOutput, deterministic: bool) -> Any:
        """The task's output from the backbone's."""
        raise NotImplementedError

    def word_table(self) -> nn.Embed:
        """The word embeddings that a tied decoder reads."""
        return self.bert.embeddings.word_embeddings  # type: ignore[attr-defined]

    def __call__(
        self,
        input_ids: Array,
        attention_mask: Array | None,
        token_type_ids: Array | None,
        position_ids: Array | None,
        head_mask: Array | None = None,
        deterministic: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        *,
        logits_positions: Array | None = None,
        global_attention_mask: Array | None = None,
        segment_ids: Array | None = None,
    ) -> Any:
        states = self.bert(  # type: ignore[attr-defined]
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            deterministic=deterministic,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            global_attention_mask=global_attention_mask,
            segment_ids=segment_ids,
        )
        if logits_positions is not None:
            states = at_positions(states, logits_positions)
        output = self.head(states, deterministic)
        return output if return_dict else output.to_tuple()


def at_positions(
    states: FlaxBigBirdModelOutput, positions: Int[Array, "B P"]
) -> FlaxBigBirdModelOutput:
    """The states with the last hidden state at those positions alone, `[B, P, D]`."""
    chosen = jnp.take_along_axis(states.last_hidden_state, positions[:, :, None], axis=1)
    return states.replace(last_hidden_state=chosen)


def layers(states: FlaxBigBirdModelOutput) -> dict[str, Any]:
    """The per-layer fields every output carries on."""
    return {"hidden_states": states.hidden_states, "attentions": states.attentions}
