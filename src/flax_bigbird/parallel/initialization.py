"""Connects the processes of a run, before JAX looks for devices."""

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax

from flax_bigbird.data.errors import OptionError
from flax_bigbird.parallel.lost_processes import LostProcessError

HEARTBEAT_TIMEOUT = 60
"""Seconds without a sign of life after which a process counts as lost."""
SHUTDOWN_TIMEOUT = 60
"""Seconds that a process which ends waits for the others."""
CONNECTION_TIMEOUT = 300
"""Seconds that a process waits for the others to start."""

_NO_TIMEOUT = 10**6
"""Seconds after which JAX gives up: it would abort the process with a trace of C++."""


def initialize_processes(options: Any) -> None:
    """Connects this process with the others of a run, if there are others.

    This must happen before any other use of JAX. A process that has called
    `jax.distributed.initialize` itself stays as it is.

    Args:
      options: The options `distributed`, `coordinator_address`, `num_processes` and `process_id`;
        what they leave out comes from the environment.

    Raises:
      OptionError: if the processes cannot be connected.
      LostProcessError: if not all of them are there after `CONNECTION_TIMEOUT` seconds.
    """
    environment = os.environ
    if jax.distributed.is_initialized() or not is_distributed(options, environment):
        return
    address = options.coordinator_address or environment.get("JAX_COORDINATOR_ADDRESS")
    count = _number(options.num_processes, environment, "JAX_NUM_PROCESSES")
    index = _number(options.process_id, environment, "JAX_PROCESS_ID")
    # Its handler of SIGTERM would replace the one that saves the run.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        _run_with_timeout(
            lambda: jax.distributed.initialize(
                address,
                count,
                index,
                initialization_timeout=_NO_TIMEOUT,
                heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
                shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
            )
        )
    except TimeoutError as error:
        raise LostProcessError(
            "the processes of a run must find each other; got coordinator_address="
            f"{address!r}, num_processes={count}, process_id={index}, and not all of them were "
            f"there after {CONNECTION_TIMEOUT} seconds: check that all run, that the address is "
            "that of process 0, and that each has another process_id"
        ) from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise OptionError(
            "the processes of a run must find each other; got coordinator_address="
            f"{address!r}, num_processes={count}, process_id={index} ({error}): give all three, "
            "the first two the same to every process"
        ) from error


def is_distributed(options: Any, environment: Mapping[str, str]) -> bool:
    """Returns whether the options or the environment ask for several processes.

    Kubernetes and Cloud TPU slices without `TPU_WORKER_HOSTNAMES` do not show in environment
    variables; there, the option `distributed` lets JAX ask the cluster.

    Args:
      options: The options, see `initialize_processes`.
      environment: The environment variables.
    """
    if options.distributed is not None:
        return options.distributed
    if options.num_processes == 1:
        return False
    if any((options.coordinator_address, options.num_processes, options.process_id is not None)):
        return True
    if "JAX_COORDINATOR_ADDRESS" in environment:
        return True
    if "SLURM_STEP_NODELIST" in environment:  # a step of srun, not the batch script
        return int(environment.get("SLURM_NTASKS", "1")) > 1
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return int(environment["OMPI_COMM_WORLD_SIZE"]) > 1
    return "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def _run_with_timeout(connect: Callable[[], None]) -> None:
    """Calls a function in a thread, so that Ctrl-C ends the wait for it.

    Args:
      connect: A function that waits for other processes in C++, where Python handles no signals.

    Raises:
      TimeoutError: if it does not return within `CONNECTION_TIMEOUT` seconds.
    """
    errors: list[Exception] = []
    is_done = threading.Event()

    def run() -> None:
        try:
            connect()
        except Exception as error:
            errors.append(error)
        is_done.set()

    threading.Thread(target=run, daemon=True).start()
    if not is_done.wait(CONNECTION_TIMEOUT):
        raise TimeoutError
    if errors:
        raise errors[0]


def _number(given: int | None, environment: Mapping[str, str], variable: str) -> int | None:
    if given is not None or variable not in environment:
        return given
    try:
        return int(environment[variable])
    except ValueError as error:
        raise OptionError(
            f"{variable} must be a whole number; got {environment[variable]!r}: correct it"
        ) from error
