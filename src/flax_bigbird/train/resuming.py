"""Which options may change when a run is resumed, and the batches that its steps are made of.

Options may change if the parameters after each step stay the same. This includes smaller batches
with as many more gradient accumulation steps: the examples of an optimizer step are those of the
batches that the run was started with, whose gradients are computed in parts and added.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax_bigbird.data.errors import OptionError
from flax_bigbird.tasks.registry import get_task
from flax_bigbird.train.argument_checks import PROCESS_OPTIONS
from flax_bigbird.train.arguments import TrainingArguments

CHANGEABLE = frozenset(
    {
        "distributed",
        "gradient_checkpointing",
        "logging_steps",
        "mesh",
        "output_dir",
        "overwrite_output_dir",
        "preprocessing_num_workers",
        "save_steps",
        *PROCESS_OPTIONS,
    }
)
"""The options that may always change. With early stopping, `eval_steps` decides when a run ends, so
it may change only without."""

BATCH_OPTIONS = ("tokens_per_batch", "gradient_accumulation_steps")
"""The options that may change together, see `check_resumed_options`; not if the examples of a batch
depend on each other, see `Task.splits_batches`."""


def check_resumed_options(
    root: Path, before: Mapping[str, Any], options: TrainingArguments
) -> None:
    """Checks that a run may be resumed with other options than those that it was started with.

    Args:
      root: The run directory, for messages.
      before: The options that the run was started with.
      options: The options now.

    Raises:
      OptionError: if an option has changed that changes what is learned.
    """
    now = options.as_dict()
    changeable = {*CHANGEABLE}
    if get_task(str(options.task)).splits_batches:
        changeable |= {*BATCH_OPTIONS}
    if options.early_stopping_patience is None:
        changeable.add("eval_steps")
    # Options that a run of an earlier version does not have had their defaults in it.
    defaults = {name: field.default for name, field in type(options).model_fields.items()}
    before = {name: defaults[name] for name in now if name in defaults} | dict(before)
    different = [name for name in now if name not in changeable and before.get(name) != now[name]]
    if different:
        shown = "; ".join(
            f"{name} {before.get(name)!r}, now {now[name]!r}" for name in different[:5]
        )
        raise OptionError(
            f"a run resumes with the options that it was started with; {root} has "
            f"{shown}: use those, choose another output_dir, or start again with "
            "overwrite_output_dir"
        )
    _check_batches(root, _batches(before), options)


def original_batches(before: Mapping[str, Any], options: TrainingArguments) -> TrainingArguments:
    """Returns the options with the batches that a run was started with.

    Args:
      before: The options that the run was started with.
      options: The options now, which `check_resumed_options` has checked.
    """
    return options.replace(**dict(zip(BATCH_OPTIONS, _batches(before), strict=True)))


def _batches(values: Mapping[str, Any]) -> tuple[int, int]:
    """Returns `tokens_per_batch` and `gradient_accumulation_steps` of saved options."""
    fields = TrainingArguments.model_fields
    tokens, steps = (values.get(name, fields[name].default) for name in BATCH_OPTIONS)
    return tokens, steps


def _check_batches(root: Path, before: tuple[int, int], options: TrainingArguments) -> None:
    tokens, steps = before
    now = options.tokens_per_batch, options.gradient_accumulation_steps
    if before == now:
        return
    parts = tokens // now[0]
    if tokens % now[0] or now[1] != steps * parts:
        example = (
            f"gradient_accumulation_steps={steps * parts}, which belongs to "
            f"tokens_per_batch={now[0]}"
            if parts and not tokens % now[0]
            else f"tokens_per_batch={tokens // 2} with gradient_accumulation_steps={2 * steps}"
        )
        raise OptionError(
            "a run resumes with its tokens_per_batch, or with a whole fraction of it and as many "
            f"times its gradient_accumulation_steps; {root} has tokens_per_batch {tokens}, now "
            f"{now[0]}, and gradient_accumulation_steps {steps}, now {now[1]}: give {example}"
        )
