"""`bigbird train TASK`: builds flags from the options of the task, and trains."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from flax_bigbird._messages import pluralize
from flax_bigbird.cli.errors import CommandError, InterruptedWork, require
from flax_bigbird.cli.flags import (
    command_from_parameters,
    field_flag,
    flag,
    in_panel_order,
    parse_flags,
)
from flax_bigbird.cli.terminal import print_plainly
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.tasks.options import DATA, MODEL, RUN, field_metadata, option_fields
from flax_bigbird.train.arguments import TrainingArguments, train_options, train_options_class
from flax_bigbird.train.option_files import read_yaml

REQUIRED_MODULES = (
    "optax",
    "orbax.checkpoint",
    "datasets",
    "grain",
    "sklearn",
    "matplotlib",
    "tensorboardX",
)

SAVING_MESSAGE = "the run is saved after this step; a second signal ends it at once"


def train_command(task: str) -> Callable[..., None]:
    """Returns the function of `bigbird train TASK`, with the flags that the task uses."""

    def command(config: str | None, **flags: Any) -> None:
        run_training(gather_options(task, Path(config) if config else None, flags))

    config_flag = flag(
        "config",
        str,
        "A YAML file with options by name; flags take precedence over it.",
        RUN,
        metavar="FILE",
    )
    fields = _in_help_order(option_fields(train_options_class(task)))
    flags = [field_flag(name, field) for name, field in fields.items()]
    return command_from_parameters(command, in_panel_order([*flags, config_flag]))


def _in_help_order(fields: Mapping[str, FieldInfo]) -> dict[str, FieldInfo]:
    """Orders the fields so that the most used options come first in each panel.

    These are the options of `TrainingArguments` in the panels of data and model (where the columns
    and the dtype come later), and those of the task in the other panels.
    """

    def is_secondary(name: str) -> bool:
        is_general = name in TrainingArguments.__annotations__
        return is_general != (field_metadata(fields[name])["panel"] in (DATA, MODEL))

    return {name: fields[name] for name in sorted(fields, key=is_secondary)}


def gather_options(task: str, config: Path | None, flags: Mapping[str, Any]) -> TrainingArguments:
    """Merges the flags with the options of the YAML file; flags take precedence.

    Args:
      task: The name of the task.
      config: The YAML file.
      flags: The values of the flags; flags that were not given are None or [].

    Raises:
      CommandError: if an option is missing, unknown or invalid.
    """
    try:
        values = read_yaml(config, task) if config else {}
        values.pop("task", None)
        values |= parse_flags(flags, option_fields(train_options_class(task)))
        if "output_dir" not in values:
            raise OptionError(
                "must be given; got none: add --output-dir DIRECTORY", option="output_dir"
            )
        return train_options(task, **values)
    except OptionError as error:
        raise CommandError(str(error)) from error


def run_training(options: TrainingArguments) -> None:
    """Trains with a progress bar, and prints the results.

    Raises:
      CommandError: if an extra is missing, or if the run cannot be started or finished.
      InterruptedWork: if Ctrl-C, SIGTERM or SIGUSR1 stopped the run, which is saved.
    """
    from rich.console import Console

    from flax_bigbird._signals import deferred_signals
    from flax_bigbird.cli.compilation import enable_compilation_cache

    for module in REQUIRED_MODULES:
        require(module, "train")
    enable_compilation_cache()
    from flax_bigbird.cli.progress import ProgressBarCallback
    from flax_bigbird.parallel.initialization import initialize_processes
    from flax_bigbird.parallel.lost_processes import LostProcessError, end_after_loss
    from flax_bigbird.parallel.processes import is_main_process
    from flax_bigbird.train import TrainingError, TrainingInterrupted, train

    try:
        initialize_processes(options)
    except LostProcessError as error:
        end_after_loss(error)
    except OptionError as error:
        raise CommandError(str(error)) from error
    console = Console(quiet=not is_main_process())
    with deferred_signals(SAVING_MESSAGE) as is_stopped:
        progress_bar = ProgressBarCallback(console, is_stopped)
        try:
            report = train(options, [progress_bar])
        except LostProcessError as error:
            progress_bar.close()
            end_after_loss(error)
        except (OptionError, DataError, TrainingError) as error:
            raise CommandError(str(error)) from error
        except TrainingInterrupted as error:
            raise InterruptedWork(
                f"{is_stopped.reason} after step {error.step}, which is saved; the same command "
                "resumes the run",
                is_stopped.exit_code,
            ) from error
        finally:
            progress_bar.close()
    for name, value in report["metrics"].items():
        print_plainly(console, f"{name}: {value:.4f}")
    print_plainly(
        console,
        f"{pluralize(report['steps'], 'step')}, {report['tokens_per_second']:,.0f} tokens/s, "
        f"{report['mfu']:.0%} of the machine's matmul rate. The model and the report are in "
        f"{options.output_dir}.",
    )
