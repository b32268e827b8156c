"""The options of tasks: values, names, commands, and the options of earlier versions."""

import ast
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

import flax_bigbird
from flax_bigbird.inference.attention_options import AttentionArguments
from flax_bigbird.inference.options import EngineArguments, ModelArguments, predict_options
from flax_bigbird.inference.search.options import IndexArguments, SearchArguments
from flax_bigbird.server.settings import ServerSettings
from flax_bigbird.tasks.option_names import translate_saved_options
from flax_bigbird.tasks.options import (
    OptionError,
    TaskOptions,
    command_options,
    option_fields,
)
from flax_bigbird.tasks.registry import task_names
from flax_bigbird.tasks.task_options import (
    MaskedLMOptions,
    QuestionAnsweringOptions,
    SequenceClassificationOptions,
)
from flax_bigbird.train.arguments import train_options_class

SOURCE = Path(flax_bigbird.__file__).parent


@pytest.mark.parametrize(
    ("options_class", "values", "message"),
    [
        (TaskOptions, {"max_length": "8"}, "max_length must be of type int; got '8': change it"),
        (TaskOptions, {"max_length": True}, "max_length must be of type int; got True"),
        (TaskOptions, {"max_length": 2.5}, "max_length must be of type int; got 2.5"),
        (TaskOptions, {"max_length": 4}, "max_length must be at least 8; got 4: change it"),
        (TaskOptions, {"dtype": "float23"}, "dtype must be one of float32, .*; got 'float23': did"),
        (
            TaskOptions,
            {"max_length": 4096, "tokens_per_batch": 100},
            "tokens_per_batch must hold one document of max_length=4096 tokens; got 100: raise it",
        ),
        (
            MaskedLMOptions,
            {"mlm_probability": 0.95},
            "mlm_probability must be between 0.01 and 0.9; got 0.95",
        ),
        (
            MaskedLMOptions,
            {"mlm_probability": float("nan")},
            "mlm_probability must be between 0.01 and 0.9; got nan",
        ),
        (MaskedLMOptions, {"whole_word_mask": 1}, "whole_word_mask must be of type bool; got 1"),
        (
            SequenceClassificationOptions,
            {"whole_documents": True, "text_pair_column": "b"},
            "whole_documents reads windows of one text; got text_pair_column='b' beside it",
        ),
        (
            QuestionAnsweringOptions,
            {"max_length": 64, "stride": 32},
            "stride must be less than half of max_length=64; got 32: lower it",
        ),
    ],
)
def test_values_that_are_not_allowed(options_class, values, message):
    with pytest.raises(OptionError, match=message):
        options_class(**values)


@pytest.mark.parametrize(
    ("task", "command", "name", "message"),
    [
        ("masked-lm", "train", "stride", "stride is an option of question-answering; got it for m"),
        ("masked-lm", None, "stride", "stride is an option of question-answering; got it for m"),
        (
            "sequence-classification",
            "predict",
            "choices_column",
            "choices_column is an option of multiple-choice; got it for sequence-classification: l",
        ),
        (
            "causal-lm",
            "train",
            "max_new_tokens",
            "max_new_tokens is an option of bigbird predict; got it for bigbird train: leave",
        ),
        (
            "sequence-classification",
            "predict",
            "label_column",
            "label_column is an option of bigbird train and bigbird evaluate; got it for bigbird p",
        ),
        ("masked-lm", "train", "mask_rate", "mask_rate is now mlm_probability: rename it"),
        (
            "sequence-classification",
            "train",
            "mode",
            "mode is now problem_type: rename it, and give one of single_label_classification,",
        ),
        ("masked-lm", "train", "text_colum", "got 'text_colum': did you mean text_column"),
    ],
)
def test_names_that_are_not_options(task, command, name, message):
    options_class: Any = command_options(task, command) if command else MaskedLMOptions
    with pytest.raises(OptionError, match=message):
        options_class(**{name: 1})


@pytest.mark.parametrize("task", task_names())
@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_the_options_of_a_command(task, command):
    options_class = command_options(task, command)
    assert options_class is command_options(task, command)
    assert (options_class.task, options_class.command) == (task, command)
    assert list(options_class().as_dict()) == list(option_fields(options_class))
    assert ("label_column" in option_fields(options_class)) == (
        command != "predict" and task in ("sequence-classification", "multiple-choice", "reranking")
    )


def test_max_length_is_that_of_the_model_unless_it_is_given():
    options = MaskedLMOptions(mlm_probability=0.3)
    assert options.with_max_length(512) == MaskedLMOptions(mlm_probability=0.3, max_length=512)
    assert options.replace(max_length=64).with_max_length(512).length == 64
    assert options.with_max_length(20_000).tokens_per_batch == 20_000
    with pytest.raises(OptionError, match="tokens_per_batch must hold one document"):
        options.replace(tokens_per_batch=10_000).with_max_length(20_000)
    with pytest.raises(ValueError, match="call with_max_length first"):
        options.length  # noqa: B018
    with pytest.raises(OptionError, match="stride must be less than half of max_length=64"):
        QuestionAnsweringOptions(stride=256).with_max_length(64)


@pytest.mark.parametrize(
    ("length", "overlap"),
    [(4096, 256), (1024, 256), (514, 256), (513, 128), (512, 128), (384, 128), (64, 21)],
)
def test_the_default_stride_fits_max_length(length, overlap):
    assert QuestionAnsweringOptions(max_length=length).window_overlap == overlap
    assert QuestionAnsweringOptions().with_max_length(length).window_overlap == overlap


def test_an_int_is_a_float_and_options_cannot_be_changed():
    options = command_options("causal-lm", "predict")(temperature=1)
    assert options.as_dict()["temperature"] == 1.0
    with pytest.raises(Exception, match="frozen"):
        options.temperature = 2.0  # type: ignore[attr-defined]


def test_options_of_earlier_runs_are_translated():
    saved = {
        "task": "sequence-classification",
        "mode": "multi-label",
        "mask_rate": 0.15,
        "stride": 256,
        "smallest_bucket": 64,
        "seed": 3,
        "whole_documents": True,
        "gradient_checkpointing": True,
        "keep_attention": True,
    }
    assert translate_saved_options(saved) == {
        "task": "sequence-classification",
        "problem_type": "multi_label_classification",
        "min_bucket_length": 64,
        "seed": 3,
        "whole_documents": True,
        "gradient_checkpointing": "attention",
    }
    for saved, mode in [({}, None), ({"gradient_checkpointing": False}, "none")]:
        assert translate_saved_options(saved).get("gradient_checkpointing") == mode
    kept = {"gradient_checkpointing": True, "keep_attention": False}
    assert translate_saved_options(kept) == {"gradient_checkpointing": "full"}
    present = {"task": "masked-lm", "mlm_probability": 0.2, "gradient_checkpointing": "full"}
    assert translate_saved_options(present) == present


@pytest.mark.parametrize(
    ("name", "value"), [("max_answer_length", 0), ("max_answer_length", "3"), ("dtype", "int8")]
)
def test_errors_know_the_option_that_they_begin_with(name, value):
    """The server calls some options otherwise. Processes send each other errors by pickle."""
    with pytest.raises(OptionError) as error:
        predict_options("question-answering", **{name: value})
    for received in (error.value, pickle.loads(pickle.dumps(error.value))):
        assert received.option == name
        assert str(received) == f"{name} {received.rule}"
        assert received.rule.startswith("must be ")
    assert OptionError("the data must exist").option is None


def test_errors_that_begin_with_an_option_know_it():
    """A server names the option as its clients know it, and must find it without reading text."""
    classes = [*map(train_options_class, task_names()), AttentionArguments, EngineArguments]
    classes += [ModelArguments, IndexArguments, SearchArguments, ServerSettings]
    names = {name for options_class in classes for name in options_class.model_fields}
    names |= {"name", "option"}  # variables that hold one
    unknown = []
    calls = 0
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "OptionError" and node.args:
                calls += 1
                begin = re.match(r"f?['\"](\w+|\{\w+\}) must ", ast.unparse(node.args[0]))
                if begin and not node.keywords and begin[1].strip("{}") in names:
                    unknown.append(f"{path.name}:{node.lineno}: {begin[0]}")
    assert calls > 100
    assert not unknown
