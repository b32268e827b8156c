"""A directory is locked against other processes and threads, and never by a dead process."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from flax_bigbird.checkpoint import LOCK_FILE, DirectoryInUseError, lock_directory, locks

WORKER = """
import sys, time
from pathlib import Path
from flax_bigbird.checkpoint import lock_directory
with lock_directory(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_process(tmp_path):
    """Another process that holds the lock of the directory `tmp_path / "run"`."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def try_to_lock(folder):
    with lock_directory(folder):
        pass


def test_another_process_holds_the_lock_until_it_dies(tmp_path, other_process):
    holder = f"in use by process {other_process.pid} on {socket.gethostname()} since 20"
    with pytest.raises(DirectoryInUseError, match=holder):
        try_to_lock(tmp_path / "run")
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    assert (tmp_path / "run" / LOCK_FILE).exists()
    try_to_lock(tmp_path / "run")
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_another_thread_holds_the_lock(tmp_path):
    errors = []

    def lock():
        try:
            try_to_lock(tmp_path)
        except DirectoryInUseError as error:
            errors.append(str(error))

    with lock_directory(tmp_path):
        thread = threading.Thread(target=lock)
        thread.start()
        thread.join()
    assert f"process {os.getpid()}" in errors[0]
    try_to_lock(tmp_path)


def test_directories_that_stay_empty_are_removed(tmp_path):
    with lock_directory(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK_FILE).exists()
    assert not list(tmp_path.iterdir())
    with lock_directory(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "file"]


def test_the_lock_of_a_removed_file_is_not_held(tmp_path, monkeypatch):
    """The process that held the lock removes the file between opening and locking it."""
    lock = locks._lock
    removed = []

    def remove_first(descriptor, path):
        if not removed:
            removed.append(path)
            path.unlink()
        lock(descriptor, path)

    monkeypatch.setattr(locks, "_lock", remove_first)
    with lock_directory(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
        monkeypatch.undo()
        with pytest.raises(DirectoryInUseError):
            try_to_lock(tmp_path)


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with pytest.warns(RuntimeWarning, match=r"cannot be locked \(Operation not supported\)"):
        try_to_lock(tmp_path)
