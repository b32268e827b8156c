"""The progress bar of `bigbird train`, as a callback of the training run."""

from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from flax_bigbird.cli.terminal import print_plainly
from flax_bigbird.train.callbacks import TrainerCallback
from flax_bigbird.train.state import TrainerState


class ProgressBarCallback(TrainerCallback):
    """Shows loss, learning rate, throughput and remaining time; messages scroll above the bar.

    Args:
      console: Where the bar is shown.
      should_stop: Called after every step; if it returns True, the run is saved and interrupted.
    """

    def __init__(self, console: Console, should_stop: Callable[[], bool] = lambda: False):
        self._console, self._should_stop = console, should_stop
        self._progress: Progress | None = None

    def on_message(self, text: str) -> None:
        print_plainly(self._console, text)

    def on_train_begin(self, state: TrainerState) -> None:
        if not state.max_steps:
            return
        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=self._console)
        self._progress.start()
        self._bar = self._progress.add_task(
            "", total=state.max_steps, completed=state.global_step, text="compiling"
        )

    def on_log(self, state: TrainerState, logs: Mapping[str, int | float]) -> None:
        if self._progress:
            text = (
                f"loss {logs['loss']:.3f}  learning rate {logs['learning_rate']:.1e}  "
                f"{logs['tokens_per_second']:,.0f} tokens/s  MFU {logs['mfu']:.0%}"
            )
            self._progress.update(self._bar, completed=state.global_step, text=text)

    def on_evaluate(
        self, state: TrainerState, metrics: Mapping[str, int | float], is_best: bool
    ) -> None:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.on_message(f"step {state.global_step:,}: {shown}{' (best)' if is_best else ''}")

    def should_stop(self) -> bool:
        return self._should_stop()

    def close(self) -> None:
        """Removes the bar; may be called more than once."""
        if self._progress:
            self._progress.stop()
