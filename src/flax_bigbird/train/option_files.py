"""Reads and writes the options of a training run as YAML."""

import re
import typing
from pathlib import Path
from typing import Any

from flax_bigbird._messages import on_one_line
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
        a key twice or a key that is not an option.
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


def parse_yaml(text: str) -> Any:
    """Returns the value of a YAML text, none of whose mappings holds a key twice.

    PyYAML takes the last of several values for a key, so that the others would be ignored silently.

    Raises:
      ValueError: if the text is not YAML, or holds a key twice, or a value that Python cannot
        represent, such as the date 2024-13-45. The message is short, and names the line if it is
        known.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _check_keys_are_unique(node)
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        raise ValueError(_describe(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise ValueError(on_one_line(error)) from error


def to_yaml(options: TrainingArguments) -> str:
    """Returns the options as YAML, in the order of their definition."""
    import yaml

    return yaml.safe_dump(options.as_dict(), sort_keys=False, allow_unicode=True)


def _load_mapping(path: str | Path) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"the file of options must be readable; {path} is not ({error}): check the path"
        ) from error
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise OptionError(
            f"the file of options must be YAML; {path} is not ({error}): correct it"
        ) from error
    if not isinstance(values, dict):
        raise OptionError(
            f"the file of options must be a mapping; {path} holds {values!r}: write lines such as "
            "'seed: 1'"
        )
    return values


def _check_keys_are_unique(root: Any) -> None:
    """Raises `ValueError` if a mapping below a node of YAML holds a key twice."""
    import yaml

    nodes, visited = [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in visited:  # an alias
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            _check_keys_of_mapping(node)
            nodes += [value for _, value in node.value]


def _check_keys_of_mapping(node: Any) -> None:
    first_lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key.value, str):  # no scalar
            continue
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in first_lines:
            lines = f"lines {first_lines[name]} and {line}"
            raise ValueError(f"the key {key.value!r} is given twice, {lines}")
        first_lines[name] = line


def _describe(error: Any) -> str:
    """Returns what is wrong with a YAML text, and where, without the excerpt that PyYAML adds."""
    mark = error.problem_mark or error.context_mark
    problem = error.problem or error.context or on_one_line(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def _is_float(annotation: Any) -> bool:
    return annotation is float or float in typing.get_args(annotation)
