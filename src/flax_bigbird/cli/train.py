"""`bigbird train`: flags made from the options' dataclass, and the screen of a run."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flax_bigbird.cli.errors import CommandError, InterruptedWork, require
from flax_bigbird.train.options import TASKS, OptionError, TrainOptions, read_yaml

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

MODULES = (
    "optax",
    "orbax.checkpoint",
    "datasets",
    "grain",
    "sklearn",
    "matplotlib",
    "tensorboardX",
)
SHORT = {"output_dir": "-o"}


def command(task: str, config: Path | None, **flags: Any) -> None:
    """Train a model on files: from pretraining to a fine-tuned classifier.

    A run that was broken off goes on when the same command is given again. Options may also stand
    in a YAML file; flags win over it.
    """
    from rich.console import Console

    from flax_bigbird.cli.compilation import keep_compiled_programs
    from flax_bigbird.cli.interrupts import held_interrupt

    options = gather(task, config, flags)
    for module in MODULES:
        require(module, "train")
    keep_compiled_programs()
    from flax_bigbird.train.loop import Interrupted, TrainingError
    from flax_bigbird.train.reading import DataError
    from flax_bigbird.train.run import train

    console = Console()
    with held_interrupt() as pressed:
        screen = TrainingScreen(console, pressed)
        try:
            found = train(options, screen)
        except (OptionError, DataError, TrainingError) as error:
            raise CommandError(str(error)) from error
        except Interrupted as stop:
            raise InterruptedWork(
                f"interrupted after step {stop.step}, which is saved; the same command goes on"
            ) from stop
        finally:
            screen.close()
    for name, value in found["metrics"].items():
        console.print(f"{name}: {value:.4f}", highlight=False)
    console.print(
        f"{found['steps']:,} steps, {found['tokens_per_second']:,.0f} tokens/s, "
        f"{found['mfu']:.0%} of the machine's matmul rate. Model and report: {options.output_dir}",
        highlight=False,
    )


def gather(task: str, config: Path | None, flags: Mapping[str, Any]) -> TrainOptions:
    """The options of flags that were given, over those of the file.

    Raises:
      CommandError: what `OptionError` says, or an option that is missing.
    """
    try:
        values = read_yaml(config) if config else {}
        if values.get("task", task) != task:
            raise OptionError(
                f"task must be that of {config}, {values['task']!r}; got {task!r}: give one"
            )
        given = {name: value for name, value in flags.items() if value not in (None, [])}
        if "model_config" in given:
            given["model_config"] = _pairs(given["model_config"])
        values |= {"task": task, **given}
        if "output_dir" not in values:
            raise OptionError("output_dir must be given; got none: add --output-dir FOLDER")
        return TrainOptions(**values)
    except OptionError as error:
        raise CommandError(str(error)) from error


def _pairs(texts: list[str]) -> dict[str, Any]:
    """`["num_hidden_layers=2"]` as a mapping, values as YAML reads them."""
    import yaml

    found = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise OptionError(f"model_config must be key=value; got {text!r}: add the value")
        found[key.strip()] = yaml.safe_load(value)
    return found


def signature(function: Callable[..., None]) -> Callable[..., None]:
    """`function` with one flag an option, as typer reads it; None means not given."""
    parameters = [
        inspect.Parameter(
            "task",
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            annotation=typing.Annotated[str, typer.Argument(help=_task_help())],
        ),
        _flag("config", Path | None, "YAML file of options.", "Run", ["--config", "-c"]),
    ]
    hints = typing.get_type_hints(TrainOptions)
    for spec in dataclasses.fields(TrainOptions):
        if spec.name == "task":
            continue
        kind, meta = hints[spec.name], spec.metadata
        dashed = spec.name.replace("_", "-")
        names = [f"--{dashed}"]
        if kind is bool:
            names = [f"--{dashed}/--no-{dashed}"]
        elif spec.name in SHORT:
            names.append(SHORT[spec.name])
        text = meta["help"] + _choices(meta) + _default(spec)
        parameters.append(_flag(spec.name, _cli_kind(kind), text, meta["group"], names))

    def wrapped(**values: Any) -> None:
        function(**values)

    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__doc__ = function.__doc__
    wrapped.__name__ = "train"
    return wrapped


def _task_help() -> str:
    return f"One of {', '.join(TASKS)}."


def _flag(name: str, kind: Any, text: str, group: str, names: list[str]) -> inspect.Parameter:
    made = typer.Option(*names, help=text, rich_help_panel=group, show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=typing.Annotated[kind, made],
    )


def _cli_kind(kind: Any) -> Any:
    """The type of a flag: texts for lists and mappings, else the option's own, or None."""
    if kind is list or typing.get_origin(kind) in (list, dict):
        return list[str] | None
    return kind if isinstance(kind, types.UnionType) else kind | None


def _choices(meta: Mapping[str, Any]) -> str:
    return f" One of {', '.join(meta['choices'])}." if meta.get("choices") else ""


def _default(spec: dataclasses.Field[Any]) -> str:
    value = spec.default
    if value is dataclasses.MISSING or value is None:
        return ""
    return f" [{'on' if value is True else 'off' if value is False else value}]"


class TrainingScreen:
    """A bar with loss, rate, speed and time to go; notes and evaluations above it."""

    def __init__(self, console: "Console", pressed: Callable[[], bool]):
        self._console, self._pressed = console, pressed
        self._progress: Progress | None = None

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def begin(self, plan: Any, progress: Any) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=self._console)
        self._progress.start()
        self._task = self._progress.add_task(
            "", total=plan.steps, completed=progress.step, text="compiling"
        )

    def logged(self, progress: Any, metrics: Mapping[str, float]) -> None:
        if self._progress:
            text = (
                f"loss {metrics['loss']:.3f}  rate {metrics['learning_rate']:.1e}  "
                f"{metrics['tokens_per_second']:,.0f} tokens/s  MFU {metrics['mfu']:.0%}"
            )
            self._progress.update(self._task, completed=progress.step, text=text)

    def evaluated(self, progress: Any, metrics: Mapping[str, float], best: bool) -> None:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.note(f"step {progress.step:,}: {shown}{' (best)' if best else ''}")

    def should_stop(self) -> bool:
        return self._pressed()

    def close(self) -> None:
        if self._progress:
            self._progress.stop()
