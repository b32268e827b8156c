"""`bigbird train`: flags made from the options' dataclass, and the screen of a run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flax_bigbird.cli.errors import CommandError, InterruptedWork, require
from flax_bigbird.cli.flags import argument, flag, given, with_flags
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
        values |= {"task": task, **given(flags)}
        if "output_dir" not in values:
            raise OptionError("output_dir must be given; got none: add --output-dir FOLDER")
        return TrainOptions(**values)
    except OptionError as error:
        raise CommandError(str(error)) from error


def signature() -> Callable[..., None]:
    """The command as typer reads it."""
    arguments = [
        argument("task", str, f"One of {', '.join(TASKS)}.", "TASK"),
        flag("config", Path | None, "YAML file of options.", "Run"),
    ]
    return with_flags(command, "train", arguments, TrainOptions, without={"task"})


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
