"""`python train_worker.py FOLDER DATA CHANGES WHEN`: one run, which may kill itself.

WHEN is `0` for never, a number of logged steps, or `save:SECONDS`: so long after a checkpoint has
begun to be written.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from training_tools import options

from flax_bigbird.train.run import train
from flax_bigbird.train.watch import NoScreen


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Killed(NoScreen):
    """Ends the process as SIGKILL does, when `after` steps are logged."""

    def __init__(self, after: int):
        self.after = after

    def logged(self, progress, metrics):
        if progress.step == self.after:
            kill()


def kill_in_save(checkpoints: Path, seconds: float) -> None:
    """Waits in a thread for a checkpoint that no earlier process began."""

    def names():
        return set(os.listdir(checkpoints)) if checkpoints.exists() else set()

    before = names()

    def watch():
        while not names() - before:
            time.sleep(1e-4)
        time.sleep(seconds)
        kill()

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    folder, data, changes, when = sys.argv[1:]
    run = options(Path(folder), train_files=[data], **json.loads(changes))
    if when.startswith("save:"):
        kill_in_save(Path(run.output_dir) / "checkpoints", float(when.removeprefix("save:")))
        when = "0"
    train(run, Killed(int(when)))
