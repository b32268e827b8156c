"""Measures `bigbird serve` under load: throughput, latency, overload, and what happens at its end.

The server, and the load generator locust (`pip install locust`, or `--locust PATH` of another
environment), run on this machine, as does `load_predictor` offline on the same documents. The model
is a random one of the size of BigBird-base, with the tokenizer of the shipped model.
"""

import argparse
import collections
import concurrent.futures
import json
import math
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from embedding import save_random_model
from report import memory_kib, processor, write_results

RESULTS = Path(__file__).parent / "results"
USER_SECONDS = 70  # between two requests of a user, more than the server's limit for one
MIXED = (64, 128, 256, 512, 1024, 2048, 4096)  # tokens
OFFLINE = """
import json, sys, time
from flax_bigbird.inference import load_predictor
model, texts = sys.argv[1], json.load(open(sys.argv[2]))
predict = load_predictor(model, whole_documents=True)
predict(texts)  # compiles
print(flush=True)
for _ in sys.stdin:
    begun, processor = time.monotonic(), time.process_time()
    labels = [answer["label"] for answer in predict(texts)]
    seconds = time.monotonic() - begun, time.process_time() - processor
    print(json.dumps({"seconds": seconds, "labels": labels}), flush=True)
"""
ROUNDS = 2  # of the comparison with offline


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model and a few seconds each")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument(
        "--tokens", type=int, default=16384, help="of each length in the comparison with offline"
    )
    parser.add_argument("--overload-seconds", type=int, default=300)
    parser.add_argument("--seconds", type=int, default=60, help="of the measurement of latencies")
    parser.add_argument("--locust", default="locust", help="the locust command")
    parser.add_argument("--output", default=str(RESULTS / "serving"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.layers, arguments.width, arguments.tokens = 2, 96, 4096
        arguments.overload_seconds, arguments.seconds = 10, 8
    return arguments


def make_texts(length: int, count: int, seed: int) -> list[str]:
    """Returns texts of about `length` tokens, `[CLS]` and `[SEP]` included."""
    from flax_bigbird.data.tokenization import load_tokenizer, tokenize_with_offsets
    from flax_bigbird.examples.state_of_the_union.speeches import load_speeches
    from flax_bigbird.pretrained import DEFAULT_MODEL

    tokenizer = load_tokenizer(DEFAULT_MODEL)
    speech = max((speech.text for speech in load_speeches()), key=len)
    _, offsets = tokenize_with_offsets(tokenizer, speech)
    generator = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        start = int(generator.integers(len(offsets) - length))
        texts.append(speech[offsets[start][0] : offsets[start + length - 4][1]].strip())
    return texts


def mixed_texts(arguments: argparse.Namespace) -> list[str]:
    """Returns texts of all lengths in random order, with as many tokens of each length.

    Offline, a batch of `--tokens-per-batch` is computed whole, even if few documents are in it.
    """
    texts = [t for n in MIXED for t in make_texts(n, arguments.tokens // max(n, 128), n)]
    np.random.default_rng(0).shuffle(texts)
    return texts


class Server:
    """A server process on a free port."""

    def __init__(self, model: str, cache: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        run = "from flax_bigbird.cli.main import run; run()"
        command = [sys.executable, "-c", run, "serve", model, "--port", str(self.port)]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
        self.begun = time.monotonic()
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{self.port}"

    def wait(self) -> float:
        """Waits until the server is ready, and returns the seconds since its start."""
        while self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return time.monotonic() - self.begun
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise RuntimeError("the server ended")

    def memory(self) -> float:
        """Returns the resident memory in MB."""
        return memory_kib("VmRSS", self.process.pid) / 1024

    def processor_seconds(self) -> float:
        """Returns the processor time of the server so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def predict(self, text: str) -> int:
        """Sends a text; returns the status, -1 for a refused connection, -2 for a broken one."""
        body = json.dumps({"inputs": text}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/predict", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                response.read()
                return response.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except urllib.error.URLError as error:
            return -1 if isinstance(error.reason, ConnectionRefusedError) else -2
        except OSError:
            return -2

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(120)


def load(
    server: Server,
    arguments: argparse.Namespace,
    texts: dict[str, list[str]],
    users: list[Any],
    seconds: int | None = None,
    rate: float | None = None,
) -> list[dict[str, Any]]:
    """Runs locust, and returns its requests; `rate` users start per second, or all at once."""
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "load.json", Path(folder) / "requests.json"
        content = {"url": server.url, "texts": texts, "users": users, "seconds": seconds}
        path.write_text(json.dumps(content | {"output": str(output)}))
        count = sum(user["count"] for user in users)
        command = [arguments.locust, "-f", str(Path(__file__).with_name("serving_load.py"))]
        command += ["--headless", "-u", str(count), "-r", str(rate or count), "--only-summary"]
        command += ["-t", f"{seconds or 3600}s", "--stop-timeout", "120"]
        environment = os.environ | {"LOAD": str(path)}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return json.loads(output.read_text())


def throughput(server: Server, model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compares documents of mixed lengths, each sent once, with the same documents offline."""
    texts = mixed_texts(arguments)
    offline_seconds, server_seconds, answered, wrong = np.zeros(2), np.zeros(2), 0, 0
    client_seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.json"
        path.write_text(json.dumps(texts))
        command = [sys.executable, "-c", OFFLINE, model, str(path)]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        offline = subprocess.Popen(command, stderr=subprocess.DEVNULL, **pipes)
        assert offline.stdin is not None
        assert offline.stdout is not None
        offline.stdout.readline()
        for _ in range(ROUNDS):
            offline.stdin.write("\n")
            offline.stdin.flush()
            measured = json.loads(offline.stdout.readline())
            offline_seconds += measured["seconds"]
            before, of_children = server.processor_seconds(), _seconds_of_children()
            requests = load(server, arguments, {"mixed": texts}, [{"name": "mixed", "count": 32}])
            client_seconds += _seconds_of_children() - of_children
            begun = min(r["ended"] - r["seconds"] for r in requests)
            seconds = max(r["ended"] for r in requests) - begun
            server_seconds += seconds, server.processor_seconds() - before
            answered += len(requests)
            wrong += sum(r["label"] != measured["labels"][r["index"]] for r in requests)
        offline.stdin.close()
        offline.wait()
    return {
        "documents": ROUNDS * len(texts),
        "offline_seconds": offline_seconds[0],
        "server_seconds": server_seconds[0],
        "ratio": offline_seconds[0] / server_seconds[0],
        "offline_processor_seconds": offline_seconds[1],
        "server_processor_seconds": server_seconds[1],
        "client_processor_seconds": client_seconds,
        "processor_ratio": offline_seconds[1] / server_seconds[1],
        "answered": answered,
        "other_labels": wrong,
        "documents_per_second": ROUNDS * len(texts) / server_seconds[0],
    }


def _seconds_of_children() -> float:
    """Returns the processor time of the child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def latency(server: Server, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures requests of 512 tokens alone, and while requests of 4,096 tokens run."""
    texts = {"short": make_texts(512, 20, 1), "long": make_texts(4096, 20, 2)}
    short = {"name": "short", "count": 1, "interval": 0.5}
    seconds = arguments.seconds
    alone = load(server, arguments, {"short": texts["short"]}, [short], seconds)
    both = load(server, arguments, texts, [short, {"name": "long", "count": 2}], seconds)
    lone = statistics.median(r["seconds"] for r in alone)
    under_load = [r["seconds"] for r in both if r["name"] == "short"]
    p95 = float(np.quantile(under_load, 0.95))
    return {
        "lone_p50_seconds": lone,
        "lone_p95_seconds": float(np.quantile([r["seconds"] for r in alone], 0.95)),
        "loaded_p50_seconds": statistics.median(under_load),
        "loaded_p95_seconds": p95,
        "ratio": p95 / lone,
        "short_requests": len(under_load),
        "long_requests": sum(r["name"] == "long" for r in both),
    }


def overload(server: Server, arguments: argparse.Namespace, capacity: float) -> dict[str, Any]:
    """Sends twice as many documents per second as the server can answer."""
    texts = mixed_texts(arguments)
    rate = 2 * capacity
    users = min(700, math.ceil(rate * USER_SECONDS))
    memory = [server.memory()]
    user = {"name": "mixed", "count": users, "interval": users / rate}
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(arguments.overload_seconds / 10):
            memory.append(server.memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    requests = load(server, arguments, {"mixed": texts}, [user], arguments.overload_seconds, rate)
    is_over.set()
    watcher.join()
    statuses = collections.Counter(r["status"] for r in requests)
    return {
        "offered_per_second": rate,
        "seconds": arguments.overload_seconds,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "memory_mb": [round(value) for value in memory],
        "answers_afterwards": server.predict("the union"),
    }


def idle_connections(server: Server, count: int = 1000) -> dict[str, Any]:
    """Opens connections that send nothing, and measures a request beside them."""
    from flax_bigbird.server.lifecycle import raise_file_limit

    raise_file_limit()
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
    begun = time.monotonic()
    status = server.predict("the union " * 20)
    seconds = time.monotonic() - begun
    for connection in connections:
        connection.close()
    return {"connections": count, "status": status, "seconds": seconds}


def end_under_load(server: Server) -> dict[str, Any]:
    """Sends SIGTERM while 64 requests are in progress, and more arrive."""
    texts = make_texts(1024, 64, 3)
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        futures = [pool.submit(server.predict, text) for text in texts]
        time.sleep(0.5)
        late: list[int] = []
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        sender = threading.Thread(
            target=lambda: late.extend(server.predict("late") for _ in range(20))
        )
        sender.start()
        statuses = collections.Counter(future.result() for future in futures)
        sender.join()
        code = server.process.wait(120)
    return {
        "accepted": {str(status): count for status, count in statuses.items()},
        "late": {str(status): count for status, count in collections.Counter(late).items()},
        "exit_code": code,
        "seconds": time.monotonic() - begun,
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns all figures."""
    with tempfile.TemporaryDirectory() as folder:
        cache = f"{folder}/cache"
        model = save_random_model(
            f"{folder}/model",
            layers=arguments.layers,
            width=arguments.width,
            length=4096,
            kind="ForSequenceClassification",
            id2label={n: f"LABEL_{n}" for n in range(4)},
            initializer_range=0.05,
        )
        server = Server(model, cache)
        figures: dict[str, Any] = {"start_seconds": server.wait()}
        server.stop(signal.SIGKILL)
        server = Server(model, cache)
        figures["restart_seconds"] = server.wait()
        figures["throughput"] = throughput(server, model, arguments)
        figures["latency"] = latency(server, arguments)
        figures["idle"] = idle_connections(server)
        capacity = figures["throughput"]["documents_per_second"]
        figures["overload"] = overload(server, arguments, capacity)
        figures["end"] = end_under_load(server)
    return figures


def table(figures: dict[str, Any]) -> str:
    """Returns the page of the figures."""
    through, slow, over, end = (
        figures[name] for name in ("throughput", "latency", "overload", "end")
    )
    idle = figures["idle"]
    rows = [
        (
            "throughput, mixed lengths, of offline",
            f"{through['ratio']:.2f}; {through['processor_ratio']:.2f} by processor time "
            f"({through['documents']} documents, {through['other_labels']} other answers; client: "
            f"{through['client_processor_seconds']:.1f} s of the processor, server: "
            f"{through['server_processor_seconds']:.1f} s)",
            "0.9",
        ),
        (
            "p95 of 512 tokens beside 4,096, of lone latency",
            f"{slow['ratio']:.1f} ({slow['loaded_p95_seconds']:.2f} s of "
            f"{slow['lone_p50_seconds']:.2f} s)",
            "3",
        ),
        (
            f"twice the capacity for {over['seconds']} s",
            f"{over['offered_per_second']:.1f} requests/s; answers by status: {over['statuses']}; "
            f"MB of memory at ten times: {', '.join(map(str, over['memory_mb']))}",
            "only 200, 429, 503",
        ),
        (
            f"{idle['connections']:,} idle connections",
            f"status {idle['status']} in {idle['seconds']:.2f} s",
            "200",
        ),
        (
            "SIGTERM under load",
            f"accepted: {end['accepted']}, later: {end['late']}, exit code {end['exit_code']}",
            "no broken connection, 0",
        ),
        ("start without a cache", f"{figures['start_seconds']:.1f} s", ""),
        ("restart with the cache", f"{figures['restart_seconds']:.1f} s", "15 s"),
    ]
    lines = ["| what | measured | target |", "|---|---|---|"]
    lines += [f"| {what} | {value} | {target} |" for what, value, target in rows]
    head = (
        f"# Serving\n\n`{figures['command']}` on {figures['machine']}; {figures['size']}, "
        "4,096 positions, float32.\n\n"
    )
    note = "\n-1 is a refused connection (nothing was accepted), -2 a broken one.\n"
    return head + "\n".join(lines) + "\n" + note


def main() -> None:
    arguments = parse_arguments()
    words = [word for word in sys.argv if word not in ("--locust", arguments.locust)]
    figures = measure(arguments) | {
        "command": "python " + " ".join(["benchmarks/serving.py", *words[1:]]),
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "size": f"{arguments.layers} layers, width {arguments.width}",
    }
    write_results(Path(arguments.output), figures, table(figures))
    print(table(figures))


if __name__ == "__main__":
    main()
