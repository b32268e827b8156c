"""Locks a directory, so that two processes do not write to it at once.

The lock is `flock` on the file `.lock` in the directory, which names the process that holds it. The
operating system releases it when that process ends, however it ends, so that a file that was left
behind blocks nobody. Network file systems pass the lock on to their server (NFS since version 3,
with the lock service; CIFS; Lustre if it is mounted with `flock`), so that it holds between
machines, too. A mount with local locks (NFS with `nolock` or `local_lock`) protects only against
processes of the same machine. Where there are no locks at all, a warning says so and the work goes
on.
"""

import contextlib
import datetime
import json
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK_FILE = ".lock"


class DirectoryInUseError(OSError):
    """Raised when another process, or another thread, holds the lock of a directory.

    Attributes:
      holder: The process that holds it, for a message: its id, its host, and since when.
    """

    def __init__(self, directory: Path, holder: str):
        super().__init__(f"{directory} is in use by {holder}")
        self.holder = holder


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Holds the lock of a directory inside the `with` block.

    The directory and its parents are created if necessary, and removed at the end if they are still
    empty.

    Args:
      directory: The directory.

    Raises:
      DirectoryInUseError: if another process holds the lock.
    """
    created = [path for path in (directory, *directory.absolute().parents) if not path.exists()]
    path = directory / LOCK_FILE
    try:
        descriptor = _acquire(path)
        try:
            _write_holder(descriptor)
            yield
        finally:
            with contextlib.suppress(OSError):  # while the lock is held, so that it is ours
                path.unlink()
            os.close(descriptor)
    finally:
        with contextlib.suppress(OSError):
            for folder in created:
                folder.rmdir()  # which fails if it is not empty


def _acquire(path: Path) -> int:
    """Opens and locks the file, and returns its descriptor."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the process that held the lock has just removed the directory
            continue
        try:
            _lock(descriptor, path)
            # The process that held the lock may have removed the file before this one locked it.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """Locks an open file, or raises `DirectoryInUseError`."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DirectoryInUseError(path.parent, _read_holder(descriptor)) from error
    except OSError as error:  # the file system has no locks
        warnings.warn(
            f"{path.parent} cannot be locked ({error.strerror}): make sure that no other process "
            "writes to it",
            RuntimeWarning,
            stacklevel=2,
        )


def _write_holder(descriptor: int) -> None:
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    holder = {"process": os.getpid(), "host": socket.gethostname(), "since": now}
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name, too
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _read_holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has not written its name yet
        return "another process"
