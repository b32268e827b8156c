"""Connects to a Ray cluster, divides it among workers, and reports what fails on it in one line."""

import contextlib
import dataclasses
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from typing import Any

import ray
import ray.exceptions
from ray.data import DataContext

from flax_bigbird._messages import first_line
from flax_bigbird._signals import kept_handlers
from flax_bigbird.checkpoint import CheckpointError
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.inference.partial_output import PredictionError

CPUS_FOR_TASKS = 0.1
"""The part of a CPU that every worker leaves to the tasks that read files."""

CONNECTION_TIMEOUT = 10
"""Seconds that the head of a cluster has for its first answer."""

ENVIRONMENT = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}
"""The environment of a cluster that is started here. It is quiet and reports nothing to anybody.

Its workers have the priority of this process: with the lower one that Ray gives them by default,
any other program on the machine all but stops them.
"""

OWN_ERRORS = (OptionError, DataError, CheckpointError, PredictionError)
"""What workers return to this process instead of raising it: Ray would try the same rows again, and
then raise another exception with the trace of every process."""


@contextlib.contextmanager
def connect(address: str | None = None) -> Iterator[None]:
    """Connects to a cluster inside the `with` block, without Ray's own output.

    Args:
      address: The address of a cluster, or "auto" for the one that this machine belongs to. By
        default, it is that of the environment variable `RAY_ADDRESS`, which `ray job submit` sets,
        and without it, a cluster is started on this machine. A process that is connected already
        stays so.

    Raises:
      OptionError: if there is no cluster at the address.
    """
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            address = address or os.environ.get("RAY_ADDRESS") or "local"
            _start(address)
            stack.callback(ray.shutdown)
        stack.enter_context(_quiet_data())
        yield


def _start(address: str) -> None:
    options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if before[name] is None})
    try:
        _check_reachable(address)
        # `ray.init` replaces handlers of signals, also those in C.
        with kept_handlers(), _silent_stderr(), warnings.catch_warnings():
            # Ray forks to start its processes, of which JAX warns; they do not use JAX's threads.
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, OverflowError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise OptionError(
            f"must be that of a running Ray cluster; got {address!r} "
            f"({first_line(error)}): start one with ray start --head, or leave address out",
            option="address",
        ) from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def _check_reachable(address: str) -> None:
    """Raises `OSError` if no program listens at an address HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "//" not in host:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECTION_TIMEOUT):
            pass


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drops what C++ writes to standard error: that it follows `RAY_BACKEND_LOG_LEVEL`."""
    copy = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(copy, 2)
        os.close(copy)


@contextlib.contextmanager
def _quiet_data() -> Iterator[None]:
    """Silences the progress bars and the log of Ray Data, but not its log files."""
    context = DataContext.get_current()
    shows_progress = context.enable_progress_bars
    handlers = [h for h in logging.getLogger("ray.data").handlers if not hasattr(h, "baseFilename")]
    levels = [handler.level for handler in handlers]
    context.enable_progress_bars = False
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        context.enable_progress_bars = shows_progress
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


@dataclasses.dataclass(frozen=True)
class Workers:
    """The workers of a job, each of which holds the model.

    Attributes:
      count: Their number.
      num_gpus: The GPUs of a worker: 1 or 0.
      num_cpus: The CPUs of a worker, as Ray counts them.
      num_threads: The threads that a worker computes with; None does not limit them.
    """

    count: int
    num_gpus: int
    num_cpus: float
    num_threads: int | None

    @classmethod
    def of_cluster(cls, concurrency: int | None = None) -> "Workers":
        """Divides the cluster: one worker for each GPU; without GPUs, CPUs in equal parts.

        Args:
          concurrency: The number of workers. By default, there is one for each GPU, or for each
            node if there are no GPUs.

        Raises:
          OptionError: if there are fewer GPUs, or CPUs, than workers.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = [int(node.get("GPU", 0)) for node in nodes]
        cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
        unit, available = ("GPUs", sum(gpus)) if any(gpus) else ("CPUs", sum(cpus))
        count = concurrency if concurrency is not None else sum(gpus) or len(cpus)
        if not 1 <= count <= available:
            raise OptionError(
                f"must lie in 1..{available}, the number of {unit} of the cluster; got "
                f"{count}: change it, or give the address of a larger cluster",
                option="concurrency",
            )
        if any(gpus):
            return cls(count, 1, 1 - CPUS_FOR_TASKS, None)
        threads = next(
            size for size in range(max(cpus), 0, -1) if sum(n // size for n in cpus) >= count
        )
        return cls(count, 0, threads - CPUS_FOR_TASKS, threads)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Raises `PredictionError` in the place of what Ray raises if a worker fails."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("ray."):
            raise
        raise PredictionError(
            "every worker of the Ray cluster must be able to load the model and to answer; one "
            f"could not ({_last_line(error)}): look for the cause in the logs of Ray (by default "
            "in /tmp/ray/session_latest/logs), and run the same command again"
        ) from error


def _last_line(error: BaseException) -> str:
    """Returns the exception that a worker raised, without the trace around it."""
    while isinstance(cause := getattr(error, "cause", None) or error.__cause__, BaseException):
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300]}" if lines else type(error).__name__
