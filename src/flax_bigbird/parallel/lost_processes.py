"""Says what to do when another process of a run is lost."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

import jax

from flax_bigbird._messages import first_line

_SIGNS = ("Gloo", "gloo", "NCCL", "coordination service", "Connection closed", "DEADLINE_EXCEEDED")


class LostProcessError(RuntimeError):
    """Raised when a process of the run does not answer any more."""


@contextlib.contextmanager
def explain_lost_process() -> Iterator[None]:
    """Raises `LostProcessError` if the code inside fails because another process is gone.

    JAX reports it as an error of the communication, if the connection is closed. If it is not,
    as when a host loses its power, the coordination service notices after `HEARTBEAT_TIMEOUT`
    seconds and ends the process with a message of its own, which names the task that is lost.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not any(sign in str(error) for sign in _SIGNS):
            raise
        raise LostProcessError(
            "every process of a run must stay until its end; another one than process "
            f"{jax.process_index()} is lost ({first_line(error)}): see its own output for the "
            "reason, and run the same command again in every process, which resumes the run from "
            "its last checkpoint, if it has one"
        ) from error


def end_after_loss(error: LostProcessError) -> NoReturn:
    """Ends this process at once, with exit code 2, after the message of an error.

    An ordinary exit would wait for the lost process, and JAX would then abort with a stack trace.
    """
    print(f"bigbird: {error}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(2)
