"""Sequence classification, multiple choice and token classification."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int, Shaped

from flax_bigbird.config import classifier_pooling
from flax_bigbird.models.base import FlaxBigBirdPreTrainedModel
from flax_bigbird.models.inputs import ModelInputs
from flax_bigbird.models.outputs import (
    FlaxMultipleChoiceModelOutput,
    FlaxSequenceClassifierOutput,
    FlaxTokenClassifierOutput,
)
from flax_bigbird.models.task_module import TaskModule, per_layer_fields
from flax_bigbird.nn.context import CallOptions
from flax_bigbird.nn.dropout import Dropout
from flax_bigbird.nn.heads import ClassificationHead, MeanPoolingHead, classifier_dropout


class FlaxBigBirdForSequenceClassificationModule(TaskModule):
    """Computes `num_labels` logits from the first token or the mean, without the pooler."""

    def setup(self):
        # The pooler is not used, but published checkpoints have its parameters.
        self.bert = self.backbone(add_pooling_layer=True)
        heads = {"cls": ClassificationHead, "mean": MeanPoolingHead}
        self.classifier = heads[classifier_pooling(self.config)](self.config, self.dtype)

    def head(self, states, inputs, deterministic):
        """Returns the logits of every sequence."""
        x = states.last_hidden_state
        if isinstance(self.classifier, MeanPoolingHead):
            mask = inputs.attention_mask
            mask = None if mask is None else mask.astype(bool)
            logits = self.classifier(x, mask, deterministic=deterministic)
        else:
            logits = self.classifier(x, deterministic=deterministic)
        return FlaxSequenceClassifierOutput(logits, **per_layer_fields(states))


class FlaxBigBirdForSequenceClassification(FlaxBigBirdPreTrainedModel):
    """The model with a classification or regression head on the whole sequence.

    `config.classifier_pooling` says what the head reads: the first token ("cls", the default, which
    is the head of `transformers`), or the mean over the tokens that are not padding ("mean", the
    default of `bigbird train`; `ModernBertConfig` has the same key).
    """

    module_class = FlaxBigBirdForSequenceClassificationModule


class FlaxBigBirdForMultipleChoiceModule(TaskModule):
    """Computes one logit per choice; `[B, C, T]` is processed as B*C sequences."""

    def setup(self):
        self.bert = self.backbone(add_pooling_layer=True)
        self.dropout = Dropout(self.config.hidden_dropout_prob)
        self.classifier = nn.Dense(1, dtype=self.dtype)

    def __call__(  # type: ignore[override]
        self,
        input_ids: Int[Array, "B C T"],
        attention_mask: Shaped[Array, "B C T"] | None,
        token_type_ids: Int[Array, "B C T"] | None,
        position_ids: Int[Array, "B C T"] | None,
        head_mask: Float[Array, "L N"] | None = None,
        deterministic: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        *,
        global_attention_mask: Shaped[Array, "B C T"] | None = None,
    ) -> Any:
        """Returns the logits `[B, C]`."""

        def merge_axes(x: Array | None) -> Any:
            return None if x is None else x.reshape(-1, x.shape[-1])

        inputs = ModelInputs(
            merge_axes(input_ids),
            merge_axes(attention_mask),
            merge_axes(token_type_ids),
            merge_axes(position_ids),
            head_mask,
            global_attention_mask=merge_axes(global_attention_mask),
        )
        options = CallOptions(deterministic, output_attentions, output_hidden_states)
        output: Any = self.run(inputs, options)
        output = output.replace(logits=output.logits.reshape(-1, input_ids.shape[1]))
        return output if return_dict else output.to_tuple()

    def head(self, states, inputs, deterministic):
        """Returns the logit of every sequence, `[B*C, 1]`."""
        assert states.pooler_output is not None  # `setup` adds the pooling layer
        pooled = self.dropout(states.pooler_output, deterministic=deterministic)
        return FlaxMultipleChoiceModelOutput(self.classifier(pooled), **per_layer_fields(states))


class FlaxBigBirdForMultipleChoice(FlaxBigBirdPreTrainedModel):
    """The model with a head that scores each of several choices."""

    module_class = FlaxBigBirdForMultipleChoiceModule
    input_rank = 3


class FlaxBigBirdForTokenClassificationModule(TaskModule):
    """Computes `num_labels` logits per token."""

    def setup(self):
        self.bert = self.backbone(add_pooling_layer=False)
        self.dropout = Dropout(classifier_dropout(self.config))
        self.classifier = nn.Dense(self.config.num_labels, dtype=self.dtype)

    def head(self, states, inputs, deterministic):
        """Returns the logits of every token."""
        x = self.dropout(states.last_hidden_state, deterministic=deterministic)
        return FlaxTokenClassifierOutput(self.classifier(x), **per_layer_fields(states))


class FlaxBigBirdForTokenClassification(FlaxBigBirdPreTrainedModel):
    """The model with a head that labels every token."""

    module_class = FlaxBigBirdForTokenClassificationModule
    takes_packed_rows = True
