"""The common and task-specific flags of `bigbird predict` and `bigbird evaluate`.

Both commands take the task from the checkpoint, so their help lists the options of all tasks; those
of a single task have their own panel.
"""

import inspect
from collections.abc import Collection, Iterable, Mapping

from pydantic.fields import FieldInfo

from flax_bigbird.cli.flags import field_flag, in_panel_order
from flax_bigbird.tasks.options import Command, command_options, option_fields
from flax_bigbird.tasks.registry import task_names


def task_fields(command: Command) -> dict[str, tuple[FieldInfo, tuple[str, ...]]]:
    """Returns the options that a command has for at least one task, each with its tasks."""
    owners: dict[str, list[str]] = {}
    fields: dict[str, FieldInfo] = {}
    for task in task_names(command):
        for name, field in option_fields(command_options(task, command)).items():
            fields.setdefault(name, field)
            owners.setdefault(name, []).append(task)
    return {name: (field, tuple(owners[name])) for name, field in fields.items()}


def inference_flags(
    command: Command,
    more_fields: Mapping[str, FieldInfo],
    more_flags: Iterable[inspect.Parameter],
    without: Collection[str] = (),
) -> list[inspect.Parameter]:
    """Returns the common flags of a command, followed by its task-specific flags.

    Args:
      command: The command.
      more_fields: Additional options of the command, which do not depend on the task.
      more_flags: Additional flags, which are not fields of an options class.
      without: The names of fields without a flag.
    """
    tasks = task_names(command)
    every = {name: (field, tasks) for name, field in more_fields.items()} | task_fields(command)
    common, shared, single = list(more_flags), [], []
    for name, (field, owners) in every.items():
        if name in without:
            continue
        if len(owners) == len(tasks):
            common.append(field_flag(name, field))
            continue
        *others, last = owners
        if others:
            suffix = f"Only for {', '.join(others)} and {last}."
            shared.append(field_flag(name, field, panel="Only for some tasks", suffix=suffix))
        else:
            single.append((last, field_flag(name, field, panel=f"Only for {last}")))
    single.sort(key=lambda entry: entry[0])
    return [*in_panel_order(common), *shared, *(flag for _, flag in single)]
