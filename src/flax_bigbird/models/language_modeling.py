"""Pretraining, masked language modeling and causal language modeling."""

import warnings
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from flax_bigbird.models import argument_checks as checks
from flax_bigbird.models.apply import RunOptions, compute_loss
from flax_bigbird.models.base import FlaxBigBirdPreTrainedModel
from flax_bigbird.models.bert import Mask
from flax_bigbird.models.inputs import CallArguments, ModelInputs, check_inputs
from flax_bigbird.models.outputs import (
    FlaxBigBirdForPreTrainingOutput,
    FlaxCausalLMOutput,
    FlaxMaskedLMOutput,
)
from flax_bigbird.models.parameterized import Params, ParamsLike
from flax_bigbird.models.task_module import TaskModule, per_layer_fields
from flax_bigbird.nn.context import CallOptions
from flax_bigbird.nn.heads import PreTrainingHeads
from flax_bigbird.nn.losses import IGNORED_LABEL, classification_losses


class LanguageModule(TaskModule):
    """A backbone and the head `cls` of a language model, with its loss."""

    def loss(
        self,
        labels: Int[Array, "B T"],
        next_sentence_label: Int[Array, " B"] | None = None,
        *,
        deterministic: bool = True,
        **inputs: Any,
    ) -> Float[Array, ""]:
        """Returns the loss of the labels; `LanguageModel.loss` documents the arguments."""
        states = self.run_backbone(ModelInputs(**inputs), CallOptions(deterministic))
        head: Any = self.cls  # type: ignore[attr-defined]
        loss = head.loss(states.last_hidden_state, self.word_embeddings(), labels)
        if next_sentence_label is None:
            return loss
        logits = head.seq_relationship(states.pooler_output).astype(loss.dtype)
        return loss + classification_losses(logits, next_sentence_label).mean()


class LanguageModel(FlaxBigBirdPreTrainedModel):
    """A model with logits over the vocabulary, and the loss of its labels.

    Attributes:
      shifts_labels: Whether the label of a token is predicted from the tokens before it.
      takes_next_sentence_labels: Whether the model has a next-sentence head.
    """

    has_language_head = True
    shifts_labels: ClassVar[bool] = False
    takes_next_sentence_labels: ClassVar[bool] = False

    def loss(
        self,
        input_ids: Any,
        labels: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        params: ParamsLike | None = None,
        dropout_rng: Any = None,
        indices_rng: Any = None,
        train: bool = False,
        *,
        next_sentence_label: Any = None,
        global_attention_mask: Any = None,
        segment_ids: Any = None,
    ) -> Float[Array, ""]:
        """Returns the mean cross-entropy of the labels, without the logits of all tokens.

        It is the loss of PyTorch's classes, in value and gradient, in less memory and time than
        from the logits: tokens without a label cost nothing in the output layer, and the logits of
        1,024 tokens are held at a time.

        Args:
          input_ids: See `__call__`, also for the arguments that are not listed here.
          labels: Token ids, or -100 where there is no label, in the shape of input_ids. A causal
            language model predicts each label from the tokens before it: pass the ids themselves.
          next_sentence_label: `[B]`, 0 if the second text follows the first, otherwise 1. Only for
            `FlaxBigBirdForPreTraining`, which then adds the loss of its next-sentence head.

        Raises:
          ValueError: If shapes, dtypes, ranges or options do not fit.
        """
        call = CallArguments(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            global_attention_mask=global_attention_mask,
            segment_ids=segment_ids,
        )
        inputs = check_inputs(self, call)
        shape, num_ids = inputs.input_ids.shape, self.config.vocab_size
        labels = checks.labels("labels", labels, shape, num_ids, IGNORED_LABEL)
        if next_sentence_label is not None:
            if not self.takes_next_sentence_labels:
                raise ValueError(
                    "next_sentence_label needs a FlaxBigBirdForPreTraining; got it for "
                    f"{type(self).__name__}: leave it out"
                )
            next_sentence_label = checks.labels(
                "next_sentence_label", next_sentence_label, shape[:1], 2
            )
        if self.shifts_labels:
            labels = _shift_labels(labels, inputs.segment_ids)
        options = RunOptions(
            params=params, dropout_rng=dropout_rng, indices_rng=indices_rng, train=train
        )
        return compute_loss(
            self, inputs, options, labels=labels, next_sentence_label=next_sentence_label
        )


def _shift_labels(
    labels: Int[Array, "B T"], segment_ids: Int[Array, "B T"] | None
) -> Int[Array, "B T"]:
    """Moves each label to the token before it, if both belong to one example."""
    following = labels[:, 1:]
    if segment_ids is not None:
        same = segment_ids[:, 1:] == segment_ids[:, :-1]
        following = jnp.where(same, following, IGNORED_LABEL)
    return jnp.pad(following, ((0, 0), (0, 1)), constant_values=IGNORED_LABEL)


class FlaxBigBirdForPreTrainingModule(LanguageModule):
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


class FlaxBigBirdForPreTraining(LanguageModel):
    """The model with both heads that it is pretrained with."""

    module_class = FlaxBigBirdForPreTrainingModule
    takes_next_sentence_labels = True


class FlaxBigBirdForMaskedLMModule(LanguageModule):
    """Computes logits over the vocabulary at every position."""

    def setup(self):
        self.bert = self.backbone(add_pooling_layer=False)
        self.cls = PreTrainingHeads(self.config, dtype=self.dtype)

    def head(self, states, inputs, deterministic):
        """Returns the logits."""
        logits = self.cls(states.last_hidden_state, self.word_embeddings())
        return FlaxMaskedLMOutput(logits, **per_layer_fields(states))


class FlaxBigBirdForMaskedLM(LanguageModel):
    """The model with a masked-language-model head."""

    module_class = FlaxBigBirdForMaskedLMModule
    takes_packed_rows = True


class FlaxBigBirdForCausalLMModule(LanguageModule):
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


class FlaxBigBirdForCausalLM(LanguageModel):
    """The model with a next-token head; it is causal if `config.is_decoder` is True."""

    module_class = FlaxBigBirdForCausalLMModule
    takes_encoder_states = True
    takes_packed_rows = True
    shifts_labels = True

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
