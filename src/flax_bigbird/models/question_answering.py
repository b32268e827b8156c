"""Extractive question answering: where the answer starts and ends in the context."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.models import argument_checks as checks
from flax_bigbird.models.apply import RunOptions, apply_module
from flax_bigbird.models.base import FlaxBigBirdPreTrainedModel
from flax_bigbird.models.bert import Mask
from flax_bigbird.models.inputs import CallArguments, ModelInputs, check_inputs
from flax_bigbird.models.outputs import FlaxBigBirdForQuestionAnsweringModelOutput
from flax_bigbird.models.parameterized import ParamsLike
from flax_bigbird.models.task_module import TaskModule, per_layer_fields
from flax_bigbird.nn.context import CallOptions
from flax_bigbird.nn.heads import QuestionAnsweringHead


class FlaxBigBirdForQuestionAnsweringModule(TaskModule):
    """Computes start and end logits; no answer may lie in the question itself."""

    add_pooling_layer: bool = False

    def setup(self):
        self.bert = self.backbone(add_pooling_layer=self.add_pooling_layer)
        self.qa_classifier = QuestionAnsweringHead(self.config, self.dtype)

    def __call__(  # type: ignore[override]
        self,
        input_ids: Int[Array, "B T"],
        attention_mask: Mask | None,
        token_type_ids: Int[Array, "B T"] | None,
        position_ids: Int[Array, "B T"] | None,
        head_mask: Float[Array, "L N"] | None = None,
        logits_mask: Bool[Array, "B T 1"] | None = None,
        deterministic: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        *,
        global_attention_mask: Mask | None = None,
    ) -> Any:
        """Returns the logits; `logits_mask` is True where no answer may start or end."""
        inputs = ModelInputs(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            logits_mask=logits_mask,
            global_attention_mask=global_attention_mask,
        )
        options = CallOptions(deterministic, output_attentions, output_hidden_states)
        return self.run(inputs, options, return_dict=return_dict)

    def head(self, states, inputs, deterministic):
        """Returns the start and end logits."""
        logits = self.qa_classifier(states.last_hidden_state, deterministic=deterministic)
        if inputs.logits_mask is not None:
            # float16 cannot hold 1e6; half of its range leaves room for the logit itself.
            penalty = min(1e6, float(jnp.finfo(logits.dtype).max) / 2)
            masked = inputs.logits_mask.astype(logits.dtype)
            logits = logits - masked * jnp.asarray(penalty, logits.dtype)
        return FlaxBigBirdForQuestionAnsweringModelOutput(
            start_logits=logits[..., 0],
            end_logits=logits[..., 1],
            pooled_output=states.pooler_output,
            **per_layer_fields(states),
        )


class FlaxBigBirdForQuestionAnswering(FlaxBigBirdPreTrainedModel):
    """The model with a span head; `add_pooling_layer=True` adds the pooled first token."""

    module_class = FlaxBigBirdForQuestionAnsweringModule

    def _copy_config(self, config: Any) -> Any:
        config = super()._copy_config(config)
        config.num_labels = 2  # only in the model's copy: the caller's object stays as it is
        return config

    def __call__(  # type: ignore[override]
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        question_lengths: Any = None,
        params: ParamsLike | None = None,
        dropout_rng: Any = None,
        indices_rng: Any = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        global_attention_mask: Any = None,
    ) -> Any:
        """Runs the model; `FlaxBigBirdPreTrainedModel.__call__` documents the other arguments.

        Args:
          token_type_ids: The default is 0 on the question and 1 elsewhere, padding included.
          question_lengths: The number of tokens of each question, its separator included, `[B, 1]`.
            By default, the question ends with the first `config.sep_token_id`; without one, it is
            the first token.
          global_attention_mask: 1 at the tokens that all tokens attend to, such as the question.
        """
        arguments = CallArguments(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            global_attention_mask=global_attention_mask,
        )
        options = RunOptions(
            params=params,
            dropout_rng=dropout_rng,
            indices_rng=indices_rng,
            train=train,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        inputs = check_inputs(self, arguments)
        return apply_module(self, self._mask_question(inputs, arguments, question_lengths), options)

    def _mask_question(
        self, inputs: ModelInputs, arguments: CallArguments, question_lengths: Any
    ) -> ModelInputs:
        """Adds the mask of the question's logits and the default token types."""
        ids = inputs.input_ids
        if question_lengths is None:
            separator = self.config.sep_token_id
            separator = -1 if separator is None else separator  # no token
            lengths = jnp.argmax(ids == separator, axis=-1)[:, None] + 1
        else:
            lengths = checks.question_lengths(question_lengths, *ids.shape)
        question = self.prepare_question_mask(lengths, ids.shape[1])
        if arguments.token_type_ids is None and self.config.type_vocab_size > 1:
            inputs = inputs.replace(token_type_ids=(~question).astype(jnp.int32))
        return inputs.replace(logits_mask=question.at[:, 0].set(False)[..., None])

    @staticmethod
    def prepare_question_mask(q_lengths: Int[Array, "B 1"], maxlen: int) -> Bool[Array, "B T"]:
        """Returns a mask that is True at the first `q_lengths` of `maxlen` tokens."""
        return jnp.arange(maxlen) < q_lengths
