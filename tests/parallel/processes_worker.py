"""`python processes_worker.py FOLDER DATA CHANGES KILL`: one process of a run.

The run is found from JAX's environment variables. It prints the loss of every step. KILL is
`INDEX:STEP`, after which the process of that index kills itself, or `INDEX:STEP:SIGTERM`, or empty.
"""

import json
import os
import signal
import sys
from pathlib import Path

from tiny_runs import tiny_run_options

from flax_bigbird.parallel.lost_processes import LostProcessError, end_after_loss
from flax_bigbird.train import StopOnSignal, TrainerCallback, TrainingInterrupted, train


class PrintLosses(TrainerCallback):
    """Prints the loss of a step at once, in case the process is killed."""

    def on_log(self, state, logs):
        print(json.dumps({"step": state.global_step, "loss": logs["loss"]}), flush=True)


class SignalAfterStep(TrainerCallback):
    """Sends a signal to this process when a step is logged."""

    def __init__(self, step: int, number: signal.Signals):
        self.step, self.number = step, number

    def on_log(self, state, logs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


if __name__ == "__main__":
    folder, data, changes, kill = sys.argv[1:]
    options = tiny_run_options(Path(folder), train_files=[data], **json.loads(changes))
    callbacks: list[TrainerCallback] = [StopOnSignal(), PrintLosses()]
    index, _, rest = kill.partition(":")
    if kill and index == os.environ["JAX_PROCESS_ID"]:
        step, _, name = rest.partition(":")
        callbacks.append(SignalAfterStep(int(step), signal.Signals[name or "SIGKILL"]))
    try:
        report = train(options, callbacks)
    except LostProcessError as error:
        end_after_loss(error)
    except TrainingInterrupted as error:
        print(json.dumps({"stopped": error.step}))
    else:
        kept = ("losses", "metrics", "tokens", "evaluations", "best_step")
        print(json.dumps({name: report[name] for name in kept}))
