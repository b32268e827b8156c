"""Reads and writes the options of a training run as YAML."""

import re
import typing
from pathlib import Path
from typing import Any

from flax_bigbird.data.errors import OptionError
from flax_bigbird.tasks.option_names import check_option_names
from flax_bigbird.tasks.options import option_fields
from flax_bigbird.tasks.registry import task_names
from flax_bigbird.train.arguments import TrainingArguments, train_options_class

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?e[-+]?\d+", re.IGNORECASE)


def read_yaml(path: str | Path, task: str | None = None) -> dict[str, Any]:
    """Returns the options that a YAML file holds, with `task` among them if the file names it.

    Numbers such as `3e-5`, which YAML reads as text, become numbers.

    Args:
      path: The file.
      task: The task that the options are for. By default, the file names it.

    Raises:
      OptionError: if the file is missing or not a mapping, names another task than `task`, or holds
        a key that is not an option.
    """
    values = _load_mapping(path)
    named = values.get("task", task)
    if named is None:
        raise OptionError(
            f"must be given; {path} names none: choose one of {', '.join(task_names())}",
            option="task",
        )
    if task is not None and named != task:
        raise OptionError(
            f"must be that of {path}, {named!r}; got {task!r}: give one of them", option="task"
        )
    options_class = train_options_class(named)
    fields = option_fields(options_class)
    check_option_names(
        (str(name) for name in values if name != "task"), fields, task=named, command="train"
    )
    for name, value in values.items():
        if isinstance(value, str) and name in fields and _is_float(fields[name].annotation):
            try:
                values[name] = float(value)
            except ValueError:
                continue  # the options class raises the error
        elif isinstance(value, dict):  # of config_overrides, for example
            values[name] = {key: parse_number(item) for key, item in value.items()}
    return values


def parse_number(value: Any) -> Any:
    """Returns a value of a YAML file, in which `1e-12` without a point is a text, as a number."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def to_yaml(options: TrainingArguments) -> str:
    """Returns the options as YAML, in the order of their definition."""
    import yaml

    return yaml.safe_dump(options.as_dict(), sort_keys=False, allow_unicode=True)


def _load_mapping(path: str | Path) -> dict[str, Any]:
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"the file of options must be readable; {path} is not ({error}): check the path"
        ) from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise OptionError(
            f"the file of options must be YAML; {path} is not: {error}: correct it"
        ) from error
    if not isinstance(values, dict):
        raise OptionError(
            f"the file of options must be a mapping; {path} holds {values!r}: write lines such as "
            "'seed: 1'"
        )
    return values


def _is_float(annotation: Any) -> bool:
    return annotation is float or float in typing.get_args(annotation)
