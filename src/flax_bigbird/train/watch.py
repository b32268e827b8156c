"""Keeps a run's files while it goes, and hands on what a screen shows."""

import dataclasses
import json
import statistics
from collections.abc import Mapping
from typing import Any, Protocol

from flax_bigbird.train.board import Board
from flax_bigbird.train.loop import Plan, Progress
from flax_bigbird.train.optimizer import learning_rate
from flax_bigbird.train.options import TrainOptions
from flax_bigbird.train.outputs import RunFolder
from flax_bigbird.train.run_checkpoints import RunCheckpoints, Saved


class Screen(Protocol):
    """Where a person watches; everything is optional to show."""

    def note(self, text: str) -> None: ...

    def begin(self, plan: Plan, progress: Progress) -> None: ...

    def logged(self, progress: Progress, metrics: Mapping[str, float]) -> None: ...

    def evaluated(self, progress: Progress, metrics: Mapping[str, float], best: bool) -> None: ...

    def should_stop(self) -> bool: ...


class NoScreen:
    """Shows nothing, and never stops a run."""

    def note(self, text: str) -> None:
        del text

    def begin(self, plan: Plan, progress: Progress) -> None:
        del plan, progress

    def logged(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        del progress, metrics

    def evaluated(self, progress: Progress, metrics: Mapping[str, float], best: bool) -> None:
        del progress, metrics, best

    def should_stop(self) -> bool:
        return False


class RunWatcher:
    """metrics.jsonl, TensorBoard, checkpoints and the best model of one run."""

    def __init__(
        self,
        options: TrainOptions,
        plan: Plan,
        folder: RunFolder,
        model: Any,
        checkpoints: RunCheckpoints,
        screen: Screen,
        flops: float,
        start_step: int,
    ):
        """`flops`: of the machine's matmuls a second, over those of a training token."""
        self._folder, self._model, self._screen = folder, model, screen
        self._checkpoints = checkpoints
        self._rate: Any = learning_rate(options, plan.steps)
        self._tokens_at_full_speed = flops
        self._speeds: list[float] = []
        folder.metrics_up_to(start_step)
        # Without a buffer nothing is left to be written when the disk is full.
        self._lines = folder.metrics.open("ab", buffering=0)
        self._board = Board(folder.tensorboard, start_step)

    def logged(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        self._speeds.append(metrics["tokens_per_second"])
        known = {
            **metrics,
            "learning_rate": float(self._rate(progress.step - 1)),
            "mfu": metrics["tokens_per_second"] / self._tokens_at_full_speed,
            "tokens": progress.tokens,
        }
        self._write("training", progress.step, known)
        self._screen.logged(progress, known)

    def evaluated(self, progress: Progress, metrics: Mapping[str, float], best: bool) -> None:
        self._write("validation", progress.step, metrics)
        self._screen.evaluated(progress, metrics, best)

    def keep_best(self, params: Any) -> None:
        self._model.save_pretrained(self._folder.best, params=params)

    def save(self, params: Any, state: Any, progress: Progress) -> None:
        arrays = {"params": params, "optimizer": state}
        self._checkpoints.save(progress.step, Saved(arrays, dataclasses.asdict(progress)))

    def should_stop(self) -> bool:
        return self._screen.should_stop()

    @property
    def median_speed(self) -> float:
        """Tokens a second of this process, without the steps that compile; 0 before the first."""
        return statistics.median(self._speeds) if self._speeds else 0.0

    def close(self) -> None:
        self._lines.close()
        self._board.close()

    def _write(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        line = json.dumps({"step": step, "kind": kind, **metrics}) + "\n"
        self._lines.write(line.encode())
        for name, value in metrics.items():
            self._board.add(f"{kind}/{name}", value, step)
