"""The tasks that `train` knows, by name."""

from flax_bigbird.train.objectives.base import Objective
from flax_bigbird.train.objectives.causal_lm import CausalLM
from flax_bigbird.train.objectives.masked_lm import MaskedLM
from flax_bigbird.train.objectives.multiple_choice import MultipleChoice
from flax_bigbird.train.objectives.next_sentence import NextSentence
from flax_bigbird.train.objectives.question_answering import QuestionAnswering
from flax_bigbird.train.objectives.sequence_classification import SequenceClassification
from flax_bigbird.train.objectives.token_classification import TokenClassification

OBJECTIVES: dict[str, type[Objective]] = {
    "causal-lm": CausalLM,
    "masked-lm": MaskedLM,
    "multiple-choice": MultipleChoice,
    "next-sentence": NextSentence,
    "question-answering": QuestionAnswering,
    "sequence-classification": SequenceClassification,
    "token-classification": TokenClassification,
}
