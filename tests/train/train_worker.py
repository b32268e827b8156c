"""`python train_worker.py FOLDER DATA [signal after N steps]`: one run, which may kill itself."""

import json
import os
import signal
import sys
from pathlib import Path

from training_tools import options

from flax_bigbird.train.run import train
from flax_bigbird.train.watch import NoScreen


class Killed(NoScreen):
    """Ends the process as SIGKILL does, when `after` steps are logged."""

    def __init__(self, after: int):
        self.after = after

    def logged(self, progress, metrics):
        if progress.step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder, data, changes, after = sys.argv[1:]
    run = options(Path(folder), train_files=[data], **json.loads(changes))
    train(run, Killed(int(after)))
