"""Signals that ask the process to stop are deferred, and their handlers restored."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from flax_bigbird._signals import STOP_SIGNALS, deferred_signals

WORKER = """
import os, signal, sys, time
from flax_bigbird._signals import deferred_signals
with deferred_signals("saving") as is_stopped:
    print("ready", flush=True)
    while True:
        if is_stopped():
            print("deferred", flush=True)
            break
        time.sleep(0.01)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_remembered(number):
    previous = [signal.getsignal(other) for other in STOP_SIGNALS]
    with deferred_signals() as is_stopped:
        assert not is_stopped()
        os.kill(os.getpid(), number)
        assert is_stopped()
        assert is_stopped.exit_code == 128 + number
    assert [signal.getsignal(other) for other in STOP_SIGNALS] == previous


def test_the_reason():
    with deferred_signals() as is_stopped:
        os.kill(os.getpid(), signal.SIGTERM)
    assert is_stopped.reason == "stopped by SIGTERM"
    with deferred_signals() as is_stopped:
        os.kill(os.getpid(), signal.SIGINT)
    assert is_stopped.reason == "interrupted"


def interrupt_twice():
    with deferred_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_ctrl_c_takes_effect_at_once():
    previous = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert signal.getsignal(signal.SIGINT) is previous


def test_a_second_sigterm_ends_the_process_at_once():
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "deferred\n"
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM  # 143 in a shell
    assert stderr.strip() == "SIGTERM: saving"


def test_an_ignored_signal_stays_ignored():
    """As SIGINT is in a process that a shell script starts in the background."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_signals() as is_stopped:
            os.kill(os.getpid(), signal.SIGINT)
            assert not is_stopped()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_another_thread_changes_no_handlers():
    previous = [signal.getsignal(other) for other in STOP_SIGNALS]
    during = []

    def work():
        with deferred_signals() as is_stopped:
            during.extend(signal.getsignal(other) for other in STOP_SIGNALS)
            assert not is_stopped()
            time.sleep(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert during == previous
