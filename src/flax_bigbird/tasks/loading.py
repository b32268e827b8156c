"""A task from a checkpoint: which one it is, how it was trained to read rows."""

import dataclasses
import importlib
import warnings
from pathlib import Path
from typing import Any

import flax_bigbird
from flax_bigbird._transformers import bigbird_config_class
from flax_bigbird.checkpoint import CheckpointError, CheckpointWarning
from flax_bigbird.pretrained import DEFAULT_MODEL, local_path
from flax_bigbird.tasks.base import Task
from flax_bigbird.tasks.errors import OptionError
from flax_bigbird.tasks.options import AnswerOptions, RowOptions, check_names
from flax_bigbird.tasks.text import load_tokenizer

MODULES = {
    "causal-lm": "continue_text.Continue",
    "masked-lm": "fill_mask.FillMask",
    "multiple-choice": "choose.Choose",
    "question-answering": "answer.Answer",
    "sequence-classification": "classify.Classify",
    "token-classification": "tag.Tag",
}
RUN_OPTIONS = "options.yaml"  # which `bigbird train` leaves beside its model


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    task: str | None = None,
    dtype: Any = "float32",
    **options: Any,
) -> Task:
    """A model with its tokenizer, as a task that answers rows.

        classify = load("folder")
        classify("The jury finds ...")

    Args:
      model: a folder, a shipped model's name or a Hub id.
      task: one of `MODULES`; default: the one the checkpoint was made for.
      dtype: of the computation.
      options: fields of `AnswerOptions`; the default is what a training run in the folder had.

    Raises:
      OptionError: the checkpoint or its tokenizer cannot be loaded, the task is not known, or the
        checkpoint has no head for it.
    """
    name = str(Path(model).expanduser()) if Path(model).expanduser().is_dir() else str(model)
    config = read_config(name)
    task = task or task_of(config, name)
    check_names([task], MODULES, f"task must be one of {', '.join(MODULES)}", "choose one of them")
    kind = task_class(task)
    kind.check_config(config)
    known = {spec.name for spec in dataclasses.fields(AnswerOptions)}
    of_runs = {spec.name for spec in dataclasses.fields(RowOptions)}
    rule = f"options must be among {', '.join(sorted(known))}"
    check_names(options, known, rule, "choose one of them")
    reading = AnswerOptions(**with_run_options(name, of_runs, options))
    made = load_model(name, kind.model_class, dtype=dtype)
    table = made.config.max_position_embeddings
    if reading.max_length and reading.max_length > table:
        raise OptionError(
            f"max_length must be at most the model's position table, {table}; got "
            f"{reading.max_length}: lower it"
        )
    return kind(made, load_tokenizer(name), reading)


def read_config(model: str) -> Any:
    """The configuration of a checkpoint.

    Raises:
      OptionError: there is none.
    """
    model = local_path(model)
    folder = Path(model)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise OptionError(
            f"model must be a BigBird checkpoint; the folder {model} has no config.json: name "
            "another"
        )
    try:
        return bigbird_config_class().from_pretrained(model)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"model must be a BigBird checkpoint; {model}: {str(error).splitlines()[0]}: name a "
            "folder or Hub id that is one"
        ) from error


def task_class(task: str) -> type[Task]:
    """The class behind a task's name."""
    module, _, name = MODULES[task].partition(".")
    return getattr(importlib.import_module(f"flax_bigbird.tasks.{module}"), name)


def task_of(config: Any, model: str) -> str:
    """The task whose head the checkpoint was saved with.

    Raises:
      OptionError: its configuration does not say.
    """
    saved = {name.removeprefix("Flax") for name in config.architectures or ()}
    for task in MODULES:
        if task_class(task).model_class.removeprefix("Flax") in saved:
            return task
    raise OptionError(
        f"task must be given for {model}, which was saved as {', '.join(saved) or 'no class'}: "
        f"choose one of {', '.join(MODULES)}"
    )


def load_model(model: str, model_class: str, *, dtype: Any, **config: Any) -> Any:
    """A checkpoint with the head that a task needs; its results do not depend on padding.

    Raises:
      OptionError: it cannot be loaded, or lacks parameters.
    """
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CheckpointWarning)
            loaded = getattr(flax_bigbird, model_class).from_pretrained(
                model, dtype=dtype, **({"padding_invariant": True} | config)
            )
    except (CheckpointError, OSError, ValueError) as error:
        raise OptionError(f"model must be a BigBird checkpoint; {model}: {error}") from error
    # Leaves of another head that the file has besides do no harm.
    missing = [m for m in (str(w.message) for w in caught) if "were not read" not in m]
    if missing:
        raise OptionError(
            f"the checkpoint must have all parameters of {model_class}; {model}: {missing[0]}: "
            "train it for the task first, or name another task"
        )
    return loaded


def with_run_options(model: str, names: set[str], given: dict[str, Any]) -> dict[str, Any]:
    """`given`, and for the rest of `names` what the model was trained with.

    A longer `max_length` than the run's makes a batch that holds one such document.
    """
    options = run_options(model, names) | given
    if "tokens_per_batch" in options and "tokens_per_batch" not in given:
        longest = given.get("max_length") or 0
        options["tokens_per_batch"] = max(options["tokens_per_batch"], longest)
    return options


def run_options(model: str, names: set[str]) -> dict[str, Any]:
    """Of the options that the model was trained with here, those of `names`; {} if it was not."""
    import yaml

    path = Path(local_path(model)) / RUN_OPTIONS
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise OptionError(
            f"{path} must be the options of a run; it is broken ({error}): mend or remove it"
        ) from error
    if not isinstance(found, dict):
        raise OptionError(f"{path} must be the options of a run; it is broken: remove it")
    return {name: value for name, value in found.items() if name in names}
