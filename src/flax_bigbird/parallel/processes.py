"""What the processes of a run agree on: values of the main process, errors, and when to stop.

All functions are collective: every process calls them, in the same order. With a single process
they do nothing but call their argument.
"""

import collections
import pickle
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flax_bigbird.data.errors import OptionError
from flax_bigbird.parallel.lost_processes import LostProcessError
from flax_bigbird.parallel.mesh import replicated

T = TypeVar("T")


def is_main_process() -> bool:
    """Returns whether this process writes the files of a run: the first one does."""
    return jax.process_index() == 0


def run_on_main(function: Callable[[], T]) -> T:
    """Returns what a function returns in the main process, the only one that calls it.

    If it raises an exception there, every process raises it, so that none waits for another.

    Args:
      function: A function whose result and exceptions can be pickled.
    """
    if jax.process_count() == 1:
        return function()
    result: Any
    error: Exception | None
    result, error = _attempt(function) if is_main_process() else (None, None)
    value, raised_by_main = pickle.loads(_broadcast_bytes(pickle.dumps((result, error))))
    if error is not None:
        raise error
    if raised_by_main is not None:
        raise raised_by_main
    return result if is_main_process() else value


def run_main_first(function: Callable[[], T]) -> T:
    """Returns what a function returns, which the main process calls before all others.

    The others then find the files that it has written, such as caches. If it raises an exception in
    one of them, all raise one.
    """
    if jax.process_count() == 1:
        return function()
    results: list[T] = []

    def call() -> None:
        results.append(function())

    run_on_main(call)
    _, error = (None, None) if is_main_process() else _attempt(call)
    failed = np.flatnonzero(multihost_utils.process_allgather(np.int32(error is not None)))
    if error is not None:
        raise error
    if len(failed):
        raise LostProcessError(f"process {failed[0]} has failed: see its own output")
    return results[0]


def gather_from_all(function: Callable[[], T]) -> list[T]:
    """Returns what a function returns in each process, in the order of the processes.

    If it raises an exception in one of them, every process raises one.

    Args:
      function: A function whose result and exceptions can be pickled.
    """
    if jax.process_count() == 1:
        return [function()]
    value, error = _attempt(function)
    results = [pickle.loads(data) for data in _gather_bytes(pickle.dumps((value, error)))]
    for raised in (error, *(raised for _, raised in results)):
        if raised is not None:
            raise raised
    return [value for value, _ in results]


def check_same_as_main(values: Mapping[str, Any], what: str) -> None:
    """Checks that the values of every process are those of the main process.

    Otherwise, processes would wait for each other at different places, or mix up two runs.

    Args:
      values: The values by name; they can be pickled.
      what: What the values are, in the plural, for the message.

    Raises:
      OptionError: in all processes, if a value of one of them differs.
    """
    if jax.process_count() == 1:
        return
    main = run_on_main(lambda: dict(values))
    shown = "; ".join(
        f"{name} {values.get(name)!r}, process 0 {main.get(name)!r}"
        for name in main | dict(values)
        if values.get(name) != main.get(name)
    )
    differing = np.flatnonzero(multihost_utils.process_allgather(np.int32(bool(shown))))
    if len(differing):
        first = int(differing[0])
        shown = _broadcast_bytes(shown.encode(), first).decode()
        raise OptionError(
            f"all processes of a run must have the same {what}; process {first} has {shown}: "
            "give every process the same"
        )


def broadcast_arrays(tree: Any) -> Any:
    """Returns a pytree of the main process's arrays, which has the same shapes in all of them."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def to_host(tree: Any) -> Any:
    """Returns arrays that are split over devices as whole NumPy arrays, in every process."""

    def gather(leaf: Any) -> np.ndarray:
        is_local = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        if is_local or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(gather, tree)


class AgreedFlag:
    """A flag that all processes see raised at the same call, once one of them has raised it.

    The flag of a call is added up on the devices while the next training step runs, and read one
    call later, so that no process waits for the others.
    """

    def __init__(self, mesh: Mesh | None):
        self._pending: collections.deque[jax.Array] = collections.deque()
        self._mesh = mesh
        if mesh is not None and jax.process_count() > 1:
            self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            self._sum = jax.jit(lambda flags: flags.sum(), out_shardings=replicated(mesh))

    def poll(self, flag: bool) -> bool:
        """Returns whether a process has raised the flag before this call.

        Args:
          flag: Whether this process raises it now.
        """
        if self._mesh is None or jax.process_count() == 1:
            return flag
        flags = jax.make_array_from_callback(
            (self._mesh.size,), self._sharding, lambda index: np.full(1, flag, np.int32)
        )
        self._pending.append(self._sum(flags))
        return len(self._pending) > 1 and int(self._pending.popleft()) > 0


def _attempt(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Returns what a function returns and None, or None and the exception that it raises."""
    try:
        return function(), None
    except Exception as error:
        return None, error


def _broadcast_bytes(data: bytes, source: int = 0) -> bytes:
    """Returns the bytes of a process, by default of the main one.

    Args:
      data: The bytes; those of other processes do not matter.
      source: The index of the process.
    """
    is_source = jax.process_index() == source
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data)), is_source=is_source))
    everywhere = multihost_utils.broadcast_one_to_all(
        _padded(data if is_source else b"", size), is_source=is_source
    )
    return everywhere[:size].tobytes()


def _gather_bytes(data: bytes) -> list[bytes]:
    """Returns the bytes of all processes."""
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    gathered = multihost_utils.process_allgather(_padded(data, int(sizes.max())))
    return [row[:size].tobytes() for row, size in zip(gathered, sizes, strict=True)]


def _padded(data: bytes, size: int) -> np.ndarray:
    """Returns bytes as an array whose size is a power of two, of which few are compiled for."""
    padded = np.zeros(1 << (size - 1).bit_length(), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    return padded
