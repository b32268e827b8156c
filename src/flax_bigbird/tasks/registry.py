"""The table of tasks: where each task is implemented and what it is for.

This module is the only place that lists the tasks. It imports none of them, so the command line can
show them without waiting for JAX. To add a task, write one module with a subclass of
`flax_bigbird.tasks.base.Task` and add one line to `TASKS`, or call `register_task`.
"""

import difflib
import importlib
from typing import Any, NamedTuple

from flax_bigbird.data.errors import OptionError


class TaskEntry(NamedTuple):
    """One entry of the table.

    Attributes:
      task: The task's class, a subclass of `Task`, or its import string `"module:Class"`.
      summary: One line for `bigbird train --help`.
      options: The import string of the task's options class, if it can be imported without JAX.
        By default, it is the `options_class` of the task.
      commands: The commands of `bigbird` that the task has.
    """

    task: str | type[Any]
    summary: str
    options: str | None = None
    commands: tuple[str, ...] = ("train", "evaluate", "predict")


_TASKS = "flax_bigbird.tasks"
_OPTIONS = f"{_TASKS}.task_options"
_RETRIEVAL_OPTIONS = f"{_TASKS}.retrieval_options"

TASKS: dict[str, TaskEntry] = {
    "masked-lm": TaskEntry(
        f"{_TASKS}.masked_lm:MaskedLM",
        "Pretrain an encoder to predict masked tokens.",
        f"{_OPTIONS}:MaskedLMOptions",
    ),
    "causal-lm": TaskEntry(
        f"{_TASKS}.causal_lm:CausalLM",
        "Pretrain a decoder to predict the next token.",
        f"{_OPTIONS}:CausalLMOptions",
    ),
    "next-sentence": TaskEntry(
        f"{_TASKS}.next_sentence:NextSentence",
        "Pretrain as BERT does: masked tokens and next-sentence prediction.",
        f"{_OPTIONS}:NextSentenceOptions",
    ),
    "sequence-classification": TaskEntry(
        f"{_TASKS}.sequence_classification:SequenceClassification",
        "Predict a class, a set of labels, or a value for each document.",
        f"{_OPTIONS}:SequenceClassificationOptions",
    ),
    "token-classification": TaskEntry(
        f"{_TASKS}.token_classification:TokenClassification",
        "Predict a tag for each word.",
        f"{_OPTIONS}:TokenClassificationOptions",
    ),
    "question-answering": TaskEntry(
        f"{_TASKS}.question_answering:QuestionAnswering",
        "Find the answer to a question in a document.",
        f"{_OPTIONS}:QuestionAnsweringOptions",
    ),
    "multiple-choice": TaskEntry(
        f"{_TASKS}.multiple_choice:MultipleChoice",
        "Choose one of several texts for each document.",
        f"{_OPTIONS}:MultipleChoiceOptions",
    ),
    "embedding": TaskEntry(
        f"{_TASKS}.embedding:Embedding",
        "Represent documents, or their chunks, by vectors.",
        f"{_RETRIEVAL_OPTIONS}:EmbeddingOptions",
        ("train", "evaluate", "embed"),
    ),
    "reranking": TaskEntry(
        f"{_TASKS}.reranking:Reranking",
        "Score how relevant documents are to a query.",
        f"{_RETRIEVAL_OPTIONS}:RerankingOptions",
    ),
}


def task_names(command: str | None = "train") -> tuple[str, ...]:
    """Returns the names of the tasks that a command has, in alphabetical order.

    Args:
      command: The command of `bigbird`; None stands for all of them.
    """
    return tuple(
        name for name in sorted(TASKS) if command is None or command in TASKS[name].commands
    )


def task_summary(name: str) -> str:
    """Returns the one-line summary of a task."""
    return _get_entry(name).summary


def get_task(name: str) -> type[Any]:
    """Imports a task and returns its class, a subclass of `flax_bigbird.tasks.base.Task`.

    Raises:
      OptionError: if there is no task of this name.
    """
    return _resolve(_get_entry(name).task)


def get_options_class(name: str) -> type[Any]:
    """Returns the options class of a task, a subclass of `flax_bigbird.tasks.options.TaskOptions`.

    The options classes of the built-in tasks are imported without JAX, Flax, and NumPy.

    Raises:
      OptionError: if there is no task of this name.
    """
    options = _get_entry(name).options
    return _resolve(options) if options else get_task(name).options_class


def register_task(
    name: str, task: str | type[Any], summary: str, *, options: str | None = None
) -> None:
    """Adds a task, which `bigbird` and the Python API then treat like the built-in ones.

        class Reversal(MaskedLM):
            name = "reversal"
            ...

        register_task("reversal", Reversal, "Predict masked tokens from right to left.")

    Args:
      name: The name that users give, for example `"masked-lm"`.
      task: The subclass of `flax_bigbird.tasks.base.Task`, or its import string `"module:Class"`.
      summary: One line for `bigbird train --help`.
      options: The import string of the options class, if it can be imported without JAX.

    Raises:
      ValueError: if there is a task of this name already.
    """
    if name in TASKS:
        raise ValueError(f"the name of a task must be new; got {name!r}: choose another name")
    TASKS[name] = TaskEntry(task, summary, options)


def task_for_config(config: Any, model: str, command: str = "predict") -> str:
    """Returns the task whose head a checkpoint was saved with.

    Args:
      config: The model's configuration.
      model: The name of the checkpoint, for messages.
      command: The command that the checkpoint is used by.

    Raises:
      OptionError: if the configuration names no model class that belongs to a task.
    """
    saved = {name.removeprefix("Flax") for name in config.architectures or ()}
    for name in task_names(command):
        task = get_task(name)
        if task.owns_model_class and task.model_class.removeprefix("Flax") in saved:
            return name
    raise OptionError(
        f"must be given for {model}, which was saved as {', '.join(saved) or 'no class'}: "
        f"choose one of {', '.join(task_names(command))}",
        option="task",
    )


def _get_entry(name: str) -> TaskEntry:
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, 1)
        remedy = f"did you mean {near[0]}?" if near else "choose one of them"
        raise OptionError(
            f"must be one of {', '.join(task_names())}; got {name!r}: {remedy}", option="task"
        )
    return TASKS[name]


def check_command(name: str, command: str) -> None:
    """Checks that a command can be used for a task.

    Raises:
      OptionError: if there is no task of this name, or it has other commands.
    """
    commands = _get_entry(name).commands
    if command not in commands:
        raise OptionError(
            f"must be one of {', '.join(task_names(command))} for bigbird {command}; got "
            f"{name!r}: use bigbird {' or '.join(commands)}",
            option="task",
        )


def _resolve(target: str | type[Any]) -> type[Any]:
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
