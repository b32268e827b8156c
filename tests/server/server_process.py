"""Runs `bigbird serve` in a process of its own, on a free port of this machine."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

FLAGS = ("--min-bucket-length", "32", "--max-batch-tokens", "128", "--slice-tokens", "64")
FLAGS += ("--max-new-tokens", "16")
RUN = "from flax_bigbird.cli.main import run; run()"


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Waits until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"the condition does not hold after {seconds:g} s"
        time.sleep(0.01)


class Response:
    """The status, headers and body of an answer."""

    def __init__(self, response: http.client.HTTPResponse):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    def json(self) -> Any:
        return json.loads(self.body)


class OpenRequest:
    """A POST request whose last byte is not sent yet, which the server therefore cannot answer."""

    def __init__(self, port: int, path: str, body: Any):
        self._body = json.dumps(body).encode()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.putrequest("POST", path)
        self._connection.putheader("Content-Type", "application/json")
        self._connection.putheader("Content-Length", str(len(self._body)))
        self._connection.endheaders(self._body[:-1])

    def finish(self) -> None:
        """Sends the last byte."""
        self._connection.send(self._body[-1:])

    def response(self) -> Response:
        """Waits for the answer."""
        return Response(self._connection.getresponse())

    def close(self) -> None:
        self._connection.close()


class ServerProcess:
    """A running server.

    Attributes:
      log: The entries of its log so far.
      port: Its port.
    """

    def __init__(self, *arguments: str, env: dict[str, str] | None = None):
        command = [sys.executable, "-c", RUN, "serve", *arguments]
        command += ["--port", "0", "--log-format", "json"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | (env or {}),
        )
        self.log: list[dict[str, Any]] = []
        self.stderr: list[str] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.port = int(self.wait_for("listening")["port"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.stderr.append(line)
            with contextlib.suppress(json.JSONDecodeError):
                self.log.append(json.loads(line))

    def wait_for(self, message: str, seconds: float = 120) -> dict[str, Any]:
        """Waits until the log has a message, and returns its entry."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for entry in list(self.log):
                if entry.get("message") == message:
                    return entry
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"the server did not log {message!r}:\n{''.join(self.stderr)}")

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> Response:
        """Sends a request; a body that is no bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
            sent = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, body, sent | (headers or {}))
            return Response(connection.getresponse())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **options: Any) -> Response:
        return self.request("POST", path, body, **options)

    def get(self, path: str, **options: Any) -> Response:
        return self.request("GET", path, **options)

    def open_post(self, path: str, body: Any) -> OpenRequest:
        return OpenRequest(self.port, path, body)

    def gauge(self, name: str, **options: Any) -> float:
        """Returns the sum of all values of a metric."""
        lines = self.get("/metrics", **options).body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 60) -> int:
        """Waits for the end, and returns the exit code."""
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def close(self) -> None:
        """Ends the process if it runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        if self.process.stderr is not None:
            self.process.stderr.close()
