"""Runs a program of its own with several CPU devices, which a process cannot change later."""

import os
import subprocess
import sys


def run_with_devices(arguments: list[str], count: int = 4) -> str:
    """Runs `python *arguments` with `count` devices and returns what it prints."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    path = os.pathsep.join(sys.path)
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
