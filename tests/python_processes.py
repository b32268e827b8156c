"""Starts Python programs in processes of their own, without importing everything again.

Half of the time of a short training run in a new process goes into importing JAX, transformers and
scikit-learn. Here, a server imports them once, and each program runs in a fork of the server: a
process like any other, which can be killed, and has its own environment, arguments and output.
"""

import atexit
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import shutil
import signal
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["python_processes_preload"])


class PythonProcess:
    """A process that runs a Python program, with the interface of `subprocess.Popen`."""

    def __init__(self, program: str | Path, *arguments: str, environment: dict[str, str]):
        """Starts the process.

        Args:
          program: The path of the program.
          *arguments: Its arguments.
          environment: All environment variables of the process.
        """
        directory = tempfile.mkdtemp(prefix="python_process_")
        weakref.finalize(self, shutil.rmtree, directory)
        outputs = [os.path.join(directory, name) for name in ("stdout", "stderr")]
        self._outputs = [Path(path) for path in outputs]
        _start_server()
        self._process: Any = _CONTEXT.Process(
            target=_run, args=([str(program), *arguments], environment, outputs)
        )
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal, or None while the process runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Waits for the end of the process and returns what it wrote to stdout and stderr."""
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise TimeoutError(f"a process did not end in {timeout} s: {self._read()}")
        return self._read()

    def _read(self) -> tuple[str, str]:
        stdout, stderr = (
            path.read_text(encoding="utf-8") if path.exists() else "" for path in self._outputs
        )
        return stdout, stderr


def run_python(program: str | Path, *arguments: str, environment: dict[str, str]) -> str:
    """Runs a program to its end, which must be good, and returns what it prints."""
    process = PythonProcess(program, *arguments, environment=environment)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return stdout


def _start_server() -> None:
    """Starts the server if it does not run; it looks for modules where this process does."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _run(arguments: list[str], environment: dict[str, str], outputs: list[str]) -> None:
    """Becomes a process that was started with these arguments and environment variables."""
    for descriptor, path in enumerate(outputs, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    _set_jax_options(environment)
    sys.argv = arguments
    sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    finally:
        # As at the end of the interpreter: threads first, then what multiprocessing leaves out.
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()


def _set_jax_options(environment: dict[str, str]) -> None:
    """Sets the options that JAX reads from the environment when it is imported."""
    import jax

    for name, value in environment.items():
        option = name.lower()
        if option.startswith("jax_") and option in jax.config.values:
            before = jax.config.values[option]
            if isinstance(before, bool):
                jax.config.update(option, value.lower() in ("1", "true"))
            else:
                kind = type(before) if isinstance(before, int | float) else str
                jax.config.update(option, kind(value))
