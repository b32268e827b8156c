"""Tests keys, hosts, origins, limits of sizes and time, and what happens beyond the queue."""

import contextlib
import json
import logging
import os
import socket
import threading
import time

import pytest
from server_process import FLAGS, Response, ServerProcess, wait_until
from tiny_checkpoints import sentence

from flax_bigbird.data.errors import OptionError
from flax_bigbird.server.lifecycle import raise_file_limit
from flax_bigbird.server.loading import resolve_models

KEYS = ("first-secret-key", "second-secret-key")
ORIGIN = "https://example.org"
LIMITS = ("--max-body-bytes", "40000", "--max-input-tokens", "3000", "--max-client-batch-size", "4")
LIMITS += ("--max-queue-tokens", "8192", "--max-concurrent-requests", "6", "--cors-origin", ORIGIN)
LIMITS += ("--header-timeout", "1", "--body-timeout", "1", "--request-timeout", "30")
AUTHORIZED = {"Authorization": f"Bearer {KEYS[1]}"}


@pytest.fixture(scope="module")
def limited(checkpoints):
    """A server with keys and low limits."""
    environment = {"BIGBIRD_API_KEY": " , ".join(KEYS)}
    process = ServerProcess(checkpoints["embedding"], *FLAGS, *LIMITS, env=environment)
    try:
        process.wait_for("ready")
        yield process
    finally:
        process.close()


def embed(server, inputs, **options) -> Response:
    headers = AUTHORIZED | options.pop("headers", {})
    return server.post("/embed", {"inputs": inputs}, headers=headers, **options)


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", f"Basic {KEYS[0]}", f"Bearer {KEYS[0]} x", KEYS[0]],
)
def test_a_request_without_a_valid_key_is_refused(limited, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in (("POST", "/embed"), ("GET", "/info"), ("GET", "/metrics"), ("GET", "/x")):
        body = {"inputs": "a"} if method == "POST" else None
        response = limited.request(method, path, body, headers=headers)
        assert response.status == 401
        assert response.headers["www-authenticate"] == "Bearer"


def test_each_key_is_valid_and_health_needs_none(limited):
    for key in KEYS:
        headers = {"Authorization": f"Bearer {key}"}
        assert limited.post("/embed", {"inputs": "a"}, headers=headers).status == 200
    assert limited.get("/health").status == 200


def test_keys_are_not_in_the_log(limited):
    assert not [line for line in limited.stderr if "secret-key" in line]


@pytest.mark.parametrize("host", ["attacker.example", "127.0.0.1.attacker.example:80", ""])
def test_a_server_on_loopback_is_for_loopback_only(limited, host):
    """Otherwise, a page could reach it through a name that it rebinds to this machine."""
    assert limited.get("/health", headers={"Host": host}).status == 421


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000"])
def test_names_of_loopback_are_allowed(limited, host):
    assert limited.get("/health", headers={"Host": host}).status == 200


def test_only_named_origins_may_read_answers(limited):
    allowed = embed(limited, "a", headers={"Origin": ORIGIN})
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    other = embed(limited, "a", headers={"Origin": "https://attacker.example"})
    assert "access-control-allow-origin" not in other.headers
    preflight = limited.request("OPTIONS", "/embed", headers={"Origin": ORIGIN})
    assert preflight.status == 204
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    refused = limited.request("OPTIONS", "/embed", headers={"Origin": "https://attacker.example"})
    assert refused.status == 401


def test_no_origin_is_allowed_by_default(server):
    response = server.post("/embed", {"inputs": "a"}, headers={"Origin": ORIGIN})
    assert "access-control-allow-origin" not in response.headers


def test_answers_have_security_headers(server):
    for response in (server.post("/embed", {"inputs": "a"}), server.get("/nothing")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in response.headers["content-security-policy"]
        assert "server" not in response.headers


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_must_be_declared_as_json(server, content_type):
    """Pages of any origin may send other types without a preflight request."""
    headers = {"Content-Type": content_type or ""}
    assert server.post("/embed", b'{"inputs": "a"}', headers=headers).status == 415


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("the cow " * 5000, "the body must have at most 40,000 bytes"),
        ("the cow " * 3000, "a text must have at most 3,000 tokens"),
        (["a"] * 5, "at most 4 texts"),
        (["the cow " * 1200] * 4, "a request must have at most 8,192 tokens"),
    ],
)
def test_limits_of_sizes(limited, inputs, message):
    response = embed(limited, inputs)
    assert response.status == 413
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("the cow " * 3000, "a text must have at most 3,000 tokens"),
        (["the cow " * 1200] * 4, "a request must have at most 8,192 tokens"),
    ],
)
def test_tokens_that_are_only_listed_are_limited_too(limited, inputs, message):
    response = limited.post("/tokenize", {"inputs": inputs}, headers=AUTHORIZED)
    assert (response.status, message in response.json()["error"]) == (413, True)
    if isinstance(inputs, str):
        response = limited.post("/attention", {"inputs": inputs}, headers=AUTHORIZED)
        assert (response.status, message in response.json()["error"]) == (413, True)
    assert limited.post("/tokenize", {"inputs": "the cow"}, headers=AUTHORIZED).status == 200


def test_a_body_without_a_length_is_limited_too(limited):
    with socket.create_connection(("127.0.0.1", limited.port), timeout=10) as connection:
        head = "POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += (
            f"Authorization: {AUTHORIZED['Authorization']}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(head.encode())
        with contextlib.suppress(OSError):
            for _ in range(100):
                connection.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        assert b" 413 " in connection.recv(4096)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\nHost: local",
        b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer first-secret-key\r\nContent-Length: 100\r\n\r\n{",
    ],
    ids=["head", "body"],
)
def test_slow_clients_are_given_up(limited, sent):
    with socket.create_connection(("127.0.0.1", limited.port), timeout=20) as connection:
        connection.sendall(sent)
        begun = time.monotonic()
        assert b" 408 " in connection.recv(4096)
        assert time.monotonic() - begun < 15
        while connection.recv(4096):
            pass  # until the server closes the connection


def exchange(port: int, content: bytes) -> bytes:
    """Sends bytes, and returns what is answered until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(content)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"http://localhost/health", b"localhost", 200),
        (b"http://localhost:1/health?a=b", b"attacker.example", 200),
        (b"http://attacker.example/health", b"localhost", 421),
        (b"http://[::1", b"localhost", 404),
        (b"ftp://localhost/health", b"localhost", 404),
    ],
)
def test_a_target_may_be_an_absolute_url_whose_host_counts(server, target, host, status):
    head = b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
    assert exchange(server.port, head).startswith(b"HTTP/1.1 %d " % status)


def test_two_lengths_of_a_body_are_refused_and_the_connection_is_closed(server):
    head = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = exchange(server.port, head + b'f\r\n{"inputs": "a"}\r\n0\r\n\r\n')
    assert answer.count(b"HTTP/1.1") == answer.count(b"HTTP/1.1 400 ") == 1
    assert b"connection: close" in answer.lower()


def test_pipelined_requests_are_answered_in_order(server):
    bodies = [b'{"inputs": "%s"}' % (b"a" * (1 + n)) for n in range(3)]
    head = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    content = b"".join(f"{head}Content-Length: {len(b)}\r\n\r\n".encode() + b for b in bodies)
    last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = exchange(server.port, content + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    stops = [max(t["stop"] or 0 for t in json.loads(line.split(b"]]")[0] + b"]]")[0])
             for line in answer.split(b"\r\n\r\n")[1:4]]  # fmt: skip
    assert stops == [1, 2, 3]


def test_clients_that_do_not_read_are_given_up(limited):
    """Otherwise, they would occupy the server's places for requests for ever."""
    body = json.dumps({"inputs": "the cow " * 2000}).encode()
    head = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Authorization: {AUTHORIZED['Authorization']}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", limited.port))
        connection.settimeout(1)
        with contextlib.suppress(OSError):  # the buffers are full, or the connection was closed
            for _ in range(4000):
                connection.sendall(head.encode() + body)
            pytest.fail("the server read everything")
        metric = "bigbird_requests_in_progress"
        wait_until(lambda: limited.gauge(metric, headers=AUTHORIZED) == 0, seconds=20)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/embed", 405, "POST"),
        ("POST", "/health", 405, "GET, HEAD"),
        ("DELETE", "/", 405, "GET, HEAD, POST"),
        ("POST", "/main.js", 405, "GET, HEAD"),
        ("GET", "/embed/", 404, None),
        ("POST", "/embed/", 404, None),
        ("POST", "//embed", 404, None),
    ],
)
def test_a_wrong_method_is_told_from_a_wrong_path(server, method, path, status, allow):
    response = server.request(method, path, {} if method == "POST" else None)
    assert (response.status, response.headers.get("allow")) == (status, allow)


def test_a_compressed_body_is_refused(server):
    response = server.post("/embed", {"inputs": "a"}, headers={"Content-Encoding": "gzip"})
    assert response.status == 415


def test_a_head_is_limited(server):
    for head in (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(head)
            with contextlib.suppress(ConnectionResetError):
                answer = connection.recv(4096)
                assert b" 400 " in answer or b" 431 " in answer
    assert server.get("/health").status == 200


def test_beyond_its_limits_a_server_asks_to_try_again(limited):
    """All requests are answered: each with its result, or with the time to try again."""
    responses: list[Response] = []

    def send(seed: int) -> None:
        responses.append(embed(limited, [sentence(seed + n, 300) for n in range(4)]))

    threads = [threading.Thread(target=send, args=(seed,)) for seed in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = [response.status for response in responses]
    assert len(statuses) == 32
    assert 200 in statuses
    assert set(statuses) <= {200, 429}
    for response in responses:
        if response.status == 429:
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error_type"] == "Overloaded"
    assert embed(limited, "a").status == 200


def test_the_request_of_a_client_that_left_is_not_computed(server):
    """The queue is empty soon after all clients left, although much work was accepted."""
    body = {"inputs": [sentence(n, 3000) for n in range(20)]}
    requests = [server.open_post("/embed", body) for _ in range(10)]
    wait_until(lambda: server.gauge("bigbird_requests_in_progress") == 10)
    before = counted_windows(server)
    for request in requests:
        request.finish()
    wait_until(lambda: server.gauge("bigbird_queue_tokens") > 0)
    for request in requests:
        request.close()
    wait_until(lambda: server.gauge("bigbird_requests_in_progress") == 0)
    wait_until(lambda: server.gauge("bigbird_queue_tokens") == 0)
    # 20 texts of 3,000 words have more than 60 windows each.
    assert counted_windows(server) - before < 10 * 20 * 60 / 2


def counted_windows(process: ServerProcess) -> float:
    return process.gauge('bigbird_batch_entries_total{kind="window"')


def test_the_limit_of_open_files_is_raised():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_idle_connections_do_no_harm(server):
    """Hundreds of connections that send nothing do not keep others from being answered."""
    connections = []
    try:
        for _ in range(300):
            connections.append(socket.create_connection(("127.0.0.1", server.port), timeout=5))
        assert server.post("/embed", {"inputs": "the cow"}).status == 200
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "70000"], "port must be between 0 and 65,535; got 70,000"),
        (["--api-key", "short"], "api_key must have at least 8 characters"),
        (["--cors-origin", "example.org"], "cors_origin must be an origin"),
        (["--host", "192.0.2.1"], "host and port must be an address of this machine"),
    ],
)
def test_wrong_options_are_one_line(capsys, monkeypatch, flags, message):
    from flax_bigbird.cli.main import main

    monkeypatch.setattr("flax_bigbird.server.logs.configure", lambda log_format: None)
    assert main(["serve", "no-such-model", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no-such-directory/model", "no-such-directory/model"),
        ("chess=bigbird-books-mini", "the task before = must be one of"),
        ("next-sentence=bigbird-books-mini", "the task before = must be one of"),
    ],
)
def test_a_model_that_cannot_be_served_is_an_error(model, message):
    with pytest.raises(OptionError, match=message):
        resolve_models([model])


def test_a_server_does_not_listen_for_a_model_that_does_not_exist(capsys, caplog, monkeypatch):
    from flax_bigbird.cli.main import main

    monkeypatch.setattr("flax_bigbird.server.logs.configure", lambda log_format: None)
    monkeypatch.setattr(logging.getLogger("flax_bigbird.server"), "propagate", True)
    caplog.set_level(logging.INFO)
    assert main(["serve", "nothing/here", "--port", "0"]) == 2
    assert "nothing/here" in capsys.readouterr().err
    assert "listening" not in caplog.text


def test_no_answer_has_a_path_of_the_server(server):
    paths = [os.sep + "tmp", os.sep + "root", os.sep + "work", "site-packages"]
    for path in ("/info", "/v1/models", "/openapi.json", "/metrics", "/../../etc/passwd"):
        text = server.get(path).body.decode()
        assert not [p for p in paths if p in text]
