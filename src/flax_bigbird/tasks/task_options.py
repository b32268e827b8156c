"""The options of the built-in tasks.

They are kept apart from the tasks so that `bigbird predict --help` can list them without importing
JAX. A task of your own may define its options class in its own module.
"""

from typing import Any

import pydantic

from flax_bigbird.data.errors import OptionError
from flax_bigbird.tasks.options import (
    DATA,
    MODEL,
    OPTIMIZATION,
    TASK,
    TaskOptions,
    option,
)

MAX_SEED = 2**31 - 1
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")

CLASS_WEIGHTS = ("none", "balanced")
CLASSIFIER_POOLINGS = ("mean", "cls")

TAG_SCHEMES = ("IOB1", "IOB2", "IOBES", "BILOU", "none")

_LABELED = ("train", "evaluate")


def _text_column() -> Any:
    return option("text", help="The column of the text.", panel=DATA)


def _text_pair_column() -> Any:
    return option(None, help="The column of a second text.", panel=DATA)


def _label_column() -> Any:
    return option("label", help="The column of the label.", panel=DATA, commands=_LABELED)


def _random_position_offset() -> Any:
    return option(
        False,
        help="Start the positions of texts shorter than the position embeddings at a random "
        "offset, so that short examples train all of them.",
        panel=TASK,
        commands=_LABELED,
    )


def _mlm_probability() -> Any:
    return option(
        0.15,
        help="The fraction of tokens to predict.",
        panel=TASK,
        ge=0.01,
        le=0.9,
        commands=_LABELED,
    )


def _whole_word_mask() -> Any:
    return option(
        None,
        help="Mask whole words instead of tokens. By default, words are masked unless every token "
        "is a single character.",
        panel=TASK,
        commands=_LABELED,
    )


def _streaming() -> Any:
    return option(
        False,
        help="Read the training data while training, from files, patterns, URLs or a dataset, "
        "without loading or copying them. max_steps is required.",
        panel=DATA,
        commands=("train",),
    )


def _shuffle_buffer_size() -> Any:
    return option(
        10_000,
        help="With streaming, the number of windows that each process shuffles together.",
        panel=DATA,
        ge=1,
        commands=("train",),
    )


def _preprocessing_num_workers() -> Any:
    return option(
        0,
        help="The number of processes that tokenize with streaming; with 0, a thread does.",
        panel=DATA,
        ge=0,
        commands=("train",),
    )


def _packing() -> Any:
    return option(
        False,
        help="Pack short documents into rows of max_length tokens; none attends to another.",
        panel=TASK,
        commands=("train",),
    )


class MaskedLMOptions(TaskOptions):
    """The options of masked-lm."""

    task = "masked-lm"

    text_column: str = _text_column()
    mlm_probability: float = _mlm_probability()
    whole_word_mask: bool | None = _whole_word_mask()
    random_position_offset: bool = _random_position_offset()
    packing: bool = _packing()
    streaming: bool = _streaming()
    shuffle_buffer_size: int = _shuffle_buffer_size()
    preprocessing_num_workers: int = _preprocessing_num_workers()


class NextSentenceOptions(TaskOptions):
    """The options of next-sentence."""

    task = "next-sentence"

    text_column: str = _text_column()
    mlm_probability: float = _mlm_probability()
    whole_word_mask: bool | None = _whole_word_mask()
    random_position_offset: bool = _random_position_offset()


class CausalLMOptions(TaskOptions):
    """The options of causal-lm."""

    task = "causal-lm"

    text_column: str = _text_column()
    random_position_offset: bool = _random_position_offset()
    packing: bool = _packing()
    streaming: bool = _streaming()
    shuffle_buffer_size: int = _shuffle_buffer_size()
    preprocessing_num_workers: int = _preprocessing_num_workers()
    max_new_tokens: int = option(
        64, help="The maximum number of new tokens.", panel=TASK, ge=1, commands=("predict",)
    )
    temperature: float = option(
        0.0,
        help="The temperature of sampling; 0 takes the most likely token.",
        panel=TASK,
        ge=0,
        le=100,
        commands=("predict",),
    )
    seed: int = option(
        0, help="The seed of sampling.", panel=TASK, ge=0, le=MAX_SEED, commands=("predict",)
    )


class SequenceClassificationOptions(TaskOptions):
    """The options of sequence-classification."""

    task = "sequence-classification"

    text_column: str = _text_column()
    text_pair_column: str | None = _text_pair_column()
    label_column: str = _label_column()
    problem_type: str | None = option(
        None,
        help="The kind of labels. By default, it follows from the labels: floats are a "
        "regression, lists are multi-label, and all others are single-label.",
        panel=TASK,
        choices=PROBLEM_TYPES,
        commands=_LABELED,
    )
    whole_documents: bool = option(
        False,
        help="Split documents longer than max_length into windows and average their scores; "
        "otherwise they are truncated. In training, up to 8 windows of a document are an example.",
        panel=TASK,
    )
    window_scores: bool = option(
        False,
        help="Also return the scores of each window of a whole document, with the characters of "
        "the text that it covers.",
        panel=TASK,
        commands=("predict",),
    )
    classifier_pooling: str | None = option(
        None,
        help="What a new head reads: the mean over all tokens, or the first token (cls), as in "
        "`transformers`. By default, it is the mean, and a model that has a head keeps its own.",
        panel=MODEL,
        choices=CLASSIFIER_POOLINGS,
        commands=("train",),
    )
    linear_probing: bool = option(
        True,
        help="Start a new head from a linear classifier of the model's features, instead of random "
        "parameters; at most 4,096 training documents are read for it.",
        panel=OPTIMIZATION,
        commands=("train",),
    )
    label_smoothing_factor: float = option(
        0.0,
        help="The probability that the training targets of a classifier share equally among all "
        "classes.",
        panel=OPTIMIZATION,
        ge=0,
        le=0.99,
        commands=("train",),
    )
    class_weights: str = option(
        "none",
        help="How much the examples of a class count in training: all the same (none), or "
        "inversely to the frequency of the class (balanced).",
        panel=OPTIMIZATION,
        choices=CLASS_WEIGHTS,
        commands=("train",),
    )

    @pydantic.model_validator(mode="after")
    def _check_whole_documents(self) -> "SequenceClassificationOptions":
        if self.window_scores and not self.whole_documents:
            raise OptionError(
                "needs whole_documents; got true without it: set whole_documents too, or leave "
                "window_scores out",
                option="window_scores",
            )
        if self.whole_documents and self.text_pair_column:
            raise OptionError(
                "whole_documents reads windows of one text; got text_pair_column="
                f"{self.text_pair_column!r} beside it: leave one of them out"
            )
        return self


class TokenClassificationOptions(TaskOptions):
    """The options of token-classification."""

    task = "token-classification"

    words_column: str = option("tokens", help="The column of the lists of words.", panel=DATA)
    tags_column: str = option(
        "tags", help="The column of the lists of tags.", panel=DATA, commands=_LABELED
    )
    tag_scheme: str | None = option(
        None,
        help="The scheme in which tags mark entities. By default, it follows from the tags of the "
        "training data. With a scheme, entities are scored; with none, tags.",
        panel=TASK,
        choices=TAG_SCHEMES,
        commands=_LABELED,
    )
    text_column: str = option(
        "text",
        help="The column of the text, which is split into words and punctuation marks if there is "
        "no column of words.",
        panel=DATA,
        commands=("predict",),
    )
    aggregation: str = option(
        "none",
        help="What is predicted: a tag per word (none), or the entities that the tags mark "
        "(simple), as in the pipeline of `transformers`.",
        panel=TASK,
        choices=("none", "simple"),
        commands=("predict",),
    )


class QuestionAnsweringOptions(TaskOptions):
    """The options of question-answering."""

    task = "question-answering"

    question_column: str = option("question", help="The column of the question.", panel=DATA)
    context_column: str = option("context", help="The column of the context.", panel=DATA)
    answers_column: str = option(
        "answers",
        help="The column of the answers: lists of their texts and of where they start.",
        panel=DATA,
        commands=_LABELED,
    )
    stride: int | None = option(
        None,
        help="The number of tokens that neighboring windows of a context have in common. By "
        "default, it is 256; if that is half of max_length or more, it is 128, and at most a "
        "third of max_length.",
        panel=TASK,
        ge=0,
    )
    max_answer_length: int = option(
        30, help="The maximum number of tokens of an answer.", panel=TASK, ge=1
    )
    handle_impossible_answer: bool | None = option(
        None,
        help="Whether a question may have no answer. If not, the best span is the answer, however "
        "likely no answer is. By default, it follows from the training data.",
        panel=TASK,
    )
    skip_bad_rows: bool = option(
        False,
        help="Drop the rows whose answer is not in the context where answer_start says. Otherwise, "
        "they are an error.",
        panel=DATA,
        commands=("train",),
    )

    @pydantic.model_validator(mode="after")
    def _check_stride(self) -> "QuestionAnsweringOptions":
        if self.max_length is None or self.stride is None:
            return self
        if self.stride >= self.max_length // 2:
            raise OptionError(
                f"must be less than half of max_length={self.max_length}; got "
                f"{self.stride}: lower it",
                option="stride",
            )
        return self

    @property
    def window_overlap(self) -> int:
        """`stride`, or its default for `max_length`, in tokens.

        The default for short windows is that of `run_qa.py` of `transformers`, 128 of 384 tokens.
        """
        if self.stride is not None:
            return self.stride
        return 256 if self.length // 2 > 256 else min(128, self.length // 3)


class MultipleChoiceOptions(TaskOptions):
    """The options of multiple-choice."""

    task = "multiple-choice"

    text_column: str = _text_column()
    text_pair_column: str | None = _text_pair_column()
    choices_column: str = option(
        "choices",
        help="The column of the lists of texts to choose from, or the columns of the single texts "
        "with commas between them, as in ending0,ending1.",
        panel=DATA,
    )
    label_column: str = _label_column()
