"""Classification of sequences, of choices and of tokens."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array

from flax_bigbird.models.base import FlaxBigBirdPreTrainedModel
from flax_bigbird.models.outputs import (
    FlaxMultipleChoiceModelOutput,
    FlaxSequenceClassifierOutput,
    FlaxTokenClassifierOutput,
)
from flax_bigbird.models.task import TaskModule, layers
from flax_bigbird.nn.dropout import Dropout
from flax_bigbird.nn.heads import ClassificationHead, classifier_dropout


class FlaxBigBirdForSequenceClassificationModule(TaskModule):
    """`num_labels` logits from the first token, which is not pooled."""

    def setup(self):
        # The pooler is not read; published checkpoints have it, so the tree keeps it.
        self.bert = self.backbone(pooling=True)
        self.classifier = ClassificationHead(self.config, self.dtype)

    def head(self, states, deterministic):
        logits = self.classifier(states.last_hidden_state, deterministic=deterministic)
        return FlaxSequenceClassifierOutput(logits, **layers(states))


class FlaxBigBirdForSequenceClassification(FlaxBigBirdPreTrainedModel):
    """The model with a classification or regression head on the whole sequence."""

    module_class = FlaxBigBirdForSequenceClassificationModule


class FlaxBigBirdForMultipleChoiceModule(TaskModule):
    """One logit per choice: [B, C, T] is read as B*C texts."""

    def setup(self):
        self.bert = self.backbone(pooling=True)
        self.dropout = Dropout(self.config.hidden_dropout_prob)
        self.classifier = nn.Dense(1, dtype=self.dtype)

    def __call__(  # type: ignore[override]
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
        global_attention_mask: Array | None = None,
    ) -> Any:
        def flat(x: Array | None) -> Array | None:
            return None if x is None else x.reshape(-1, x.shape[-1])

        choices = input_ids.shape[1]
        output = super().__call__(
            flat(input_ids),  # type: ignore[arg-type]
            flat(attention_mask),
            flat(token_type_ids),
            flat(position_ids),
            head_mask,
            deterministic,
            output_attentions,
            output_hidden_states,
            global_attention_mask=flat(global_attention_mask),
        )
        output = output.replace(logits=output.logits.reshape(-1, choices))
        return output if return_dict else output.to_tuple()

    def head(self, states, deterministic):
        pooled = self.dropout(states.pooler_output, deterministic=deterministic)
        return FlaxMultipleChoiceModelOutput(self.classifier(pooled), **layers(states))


class FlaxBigBirdForMultipleChoice(FlaxBigBirdPreTrainedModel):
    """The model with a head that scores each of several texts."""

    module_class = FlaxBigBirdForMultipleChoiceModule
    input_rank = 3


class FlaxBigBirdForTokenClassificationModule(TaskModule):
    """`num_labels` logits per token."""

    def setup(self):
        self.bert = self.backbone(pooling=False)
        self.dropout = Dropout(classifier_dropout(self.config))
        self.classifier = nn.Dense(self.config.num_labels, dtype=self.dtype)

    def head(self, states, deterministic):
        x = self.dropout(states.last_hidden_state, deterministic=deterministic)
        return FlaxTokenClassifierOutput(self.classifier(x), **layers(states))


class FlaxBigBirdForTokenClassification(FlaxBigBirdPreTrainedModel):
    """The model with a head that labels every token."""

    module_class = FlaxBigBirdForTokenClassificationModule

    @classmethod
    def takes_packed_rows(cls) -> bool:
        return True
