"""Extractive question answering: where in the document the answer starts and ends."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool

from flax_bigbird.models import extra_inputs, inputs
from flax_bigbird.models.base import FlaxBigBirdPreTrainedModel, Params
from flax_bigbird.models.bert import FlaxBigBirdModule
from flax_bigbird.models.outputs import FlaxBigBirdForQuestionAnsweringModelOutput
from flax_bigbird.nn.heads import QuestionAnsweringHead


class FlaxBigBirdForQuestionAnsweringModule(nn.Module):
    """Start and end logits; the question's own tokens are out of the running."""

    config: Any
    dtype: Any = jnp.float32
    add_pooling_layer: bool = False
    gradient_checkpointing: bool | str = False

    def setup(self):
        self.bert = FlaxBigBirdModule(
            self.config,
            dtype=self.dtype,
            add_pooling_layer=self.add_pooling_layer,
            gradient_checkpointing=self.gradient_checkpointing,
        )
        self.qa_classifier = QuestionAnsweringHead(self.config, self.dtype)

    def __call__(
        self,
        input_ids: Array,
        attention_mask: Array | None,
        token_type_ids: Array | None,
        position_ids: Array | None,
        head_mask: Array | None = None,
        logits_mask: Array | None = None,
        deterministic: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        *,
        global_attention_mask: Array | None = None,
    ) -> Any:
        """`logits_mask`, [B, T, 1], is true where no answer may start or end."""
        states = self.bert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            deterministic=deterministic,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            global_attention_mask=global_attention_mask,
        )
        logits = self.qa_classifier(states.last_hidden_state, deterministic=deterministic)
        if logits_mask is not None:
            # 1e6 does not fit float16; half its range leaves room for the logit itself.
            penalty = min(1e6, float(jnp.finfo(logits.dtype).max) / 2)
            logits = logits - logits_mask.astype(logits.dtype) * jnp.asarray(penalty, logits.dtype)
        output = FlaxBigBirdForQuestionAnsweringModelOutput(
            start_logits=logits[..., 0],
            end_logits=logits[..., 1],
            pooled_output=states.pooler_output,
            hidden_states=states.hidden_states,
            attentions=states.attentions,
        )
        return output if return_dict else output.to_tuple()


class FlaxBigBirdForQuestionAnswering(FlaxBigBirdPreTrainedModel):
    """The model with a span head; `add_pooling_layer=True` adds the pooled first token."""

    module_class = FlaxBigBirdForQuestionAnsweringModule

    def _own_config(self, config: Any) -> Any:
        config = super()._own_config(config)
        config.num_labels = 2  # on the model's copy: the caller's object stays as it is
        return config

    def __call__(  # type: ignore[override]
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        question_lengths: Any = None,
        params: Params | None = None,
        dropout_rng: Array | None = None,
        indices_rng: Array | None = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        global_attention_mask: Any = None,
    ) -> Any:
        """Runs the model; see `FlaxBigBirdPreTrainedModel.__call__` for what they share.

        Args:
          token_type_ids: default 0 on the question and 1 elsewhere, padding included.
          question_lengths: [B, 1] tokens from the start to the separator, inclusive. Default: up
            to the first `config.sep_token_id`; without one, the first token only.
          global_attention_mask: 1 on the question, say: every token then reads it.
        """
        arrays = self._arrays(input_ids, attention_mask, token_type_ids, position_ids, head_mask)
        ids = arrays["input_ids"]
        if question_lengths is None:
            found = (ids == self.config.sep_token_id).astype(jnp.int32)
            question_lengths = jnp.argmax(found, axis=-1)[:, None] + 1
        else:
            question_lengths = inputs.question_lengths(question_lengths, *ids.shape)
        question = self.prepare_question_mask(question_lengths, ids.shape[1])
        if token_type_ids is None and self.config.type_vocab_size > 1:
            arrays["token_type_ids"] = (~question).astype(jnp.int32)
        arrays["logits_mask"] = question.at[:, 0].set(False)[..., None]
        arrays |= extra_inputs.global_tokens(self, global_attention_mask, attention_mask, ids.shape)
        return self._apply(
            arrays,
            params,
            dropout_rng,
            indices_rng,
            train,
            output_attentions,
            output_hidden_states,
            return_dict,
        )

    @staticmethod
    def prepare_question_mask(q_lengths: Array, maxlen: int) -> Bool[Array, "B T"]:
        """True on the first `q_lengths` [B, 1] tokens of each row of `maxlen`."""
        return inputs.question_mask(q_lengths, maxlen)
