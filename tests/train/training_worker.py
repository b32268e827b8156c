"""`python training_worker.py FOLDER TASK DATA CHANGES WHEN`: a run that may kill its process.

WHEN is `0` for never, the number of a logged step, or `save:SECONDS`: so many seconds after the
writing of a checkpoint has started.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tiny_runs import tiny_run_options

from flax_bigbird.train import TrainerCallback, train


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAfterStep(TrainerCallback):
    """Ends the process with SIGKILL when a step is logged."""

    def __init__(self, step: int):
        self.step = step

    def on_log(self, state, logs):
        if state.global_step == self.step:
            kill_this_process()


def kill_during_save(checkpoints: Path, seconds: float) -> None:
    """Starts a thread that waits for a checkpoint which no earlier process has started."""

    def names():
        return set(os.listdir(checkpoints)) if checkpoints.exists() else set()

    before = names()

    def watch():
        while not names() - before:
            time.sleep(1e-4)
        time.sleep(seconds)
        kill_this_process()

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    folder, task, data, changes, when = sys.argv[1:]
    options = tiny_run_options(Path(folder), task, train_files=[data], **json.loads(changes))
    if when.startswith("save:"):
        kill_during_save(
            Path(options.output_dir) / "checkpoints", float(when.removeprefix("save:"))
        )
        when = "0"
    train(options, [KillAfterStep(int(when))])
