"""Runs a program of its own with several CPU devices, which a process cannot change later."""

import os

from python_processes import run_python


def run_with_devices(arguments: list[str], count: int = 4) -> str:
    """Runs `python *arguments` with `count` devices and returns what it prints."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return run_python(*arguments, environment=environment)
