"""Measures how long a search takes in an index of 100,000 chunks, and what opening it takes.

The texts are chunks of books (`--data`, a folder with `books/*.parquet`), or random words without
it. The vectors are random around 1,000 centers, of the shipped model's width and of base width:
what they mean does not matter for the time. Recall is the fraction of the exact top 10 that the
graph of neighbors finds.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from report import changed_options, machine, memory_kib, write_results

from flax_bigbird.pretrained import DEFAULT_MODEL

QUERY = "Who was the first to see the ship leave the harbour, and what did he say of it?"
ROWS = {
    "vectors": "by vectors",
    "exact": "by vectors, `--exact`",
    "hybrid": "by vectors and words, `--hybrid`",
    "embedding": "by vectors, with the embedding of the question",
}


def texts(data: Path | None, count: int) -> Iterator[str]:
    """Yields texts of about 1,000 characters."""
    if data is None:
        generator = np.random.default_rng(0)
        words = [f"word{n}" for n in range(20_000)]
        for _ in range(count):
            yield " ".join(generator.choice(words, 160))
        return
    import pyarrow.parquet

    size = 1000
    column = pyarrow.parquet.ParquetFile(data / "books" / "train.parquet")
    for batch in column.iter_batches(8, columns=["text"]):
        for text in batch["text"].to_pylist():
            for start in range(0, len(text) - size, size):
                yield text[start : start + size]
                count -= 1
                if not count:
                    return


def build(path: Path, count: int, dimension: int, data: Path | None) -> np.ndarray:
    """Writes an index, and returns the vectors of some queries."""
    from flax_bigbird._version import __version__
    from flax_bigbird.checkpoint import write_checksums
    from flax_bigbird.inference.search.lexical import WordIndex
    from flax_bigbird.inference.search.manifest import Manifest
    from flax_bigbird.inference.search.options import VECTOR_OPTIONS
    from flax_bigbird.inference.search.store import (
        Chunk,
        ChunkStore,
        ChunkWriter,
        IndexedFile,
        write_file_table,
    )
    from flax_bigbird.inference.search.vectors import update_vectors

    target = path / "data-000001"
    target.mkdir(parents=True)
    with ChunkWriter(target) as writer:
        for key, text in enumerate(texts(data, count)):
            writer.append(Chunk(key, 0, 0, 1000 * key, 1000 * key + len(text), key, text))
    generator = np.random.default_rng(0)
    centers = generator.standard_normal((1000, dimension), np.float32)

    def draw(number: int) -> np.ndarray:
        around = centers[generator.integers(len(centers), size=number)]
        return around + 0.7 * generator.standard_normal((number, dimension), np.float32)

    batches = (
        (np.arange(start, min(start + 4096, count)), draw(min(4096, count - start)))
        for start in range(0, count, 4096)
    )
    start_time = time.perf_counter()
    update_vectors(None, target, dimension, "cosine", np.zeros(0, np.int64), batches)
    print(f"graph: {time.perf_counter() - start_time:.1f} s", flush=True)
    store = ChunkStore(target)
    start_time = time.perf_counter()
    WordIndex.write(target, store.texts())
    print(f"words: {time.perf_counter() - start_time:.1f} s", flush=True)
    store.close()
    write_file_table(target, [IndexedFile("books.txt", 1, 1, "0:text", 0)])
    write_checksums(target)
    Manifest(
        library_version=__version__,
        model=DEFAULT_MODEL,
        fingerprint="",
        options=dict.fromkeys(VECTOR_OPTIONS),
        query_prompt=None,
        dimension=dimension,
        metric="cosine",
        has_words=True,
        folder=str(path),
        data=target.name,
        scan_time_ns=0,
        num_files=1,
        num_chunks=count,
        next_key=count,
    ).save(path)
    return draw(200)


def measure(path: Path, queries: np.ndarray) -> dict[str, Any]:
    """Times searches, each query after the other."""
    from flax_bigbird.inference import load_embedder, open_index

    start = time.perf_counter()
    index = open_index(path)
    opened = time.perf_counter() - start
    embedder = load_embedder(DEFAULT_MODEL)

    def embedding(vector: np.ndarray) -> Any:
        embedder.encode_query(QUERY)
        return index.search(QUERY, vector=vector)

    calls: dict[str, Callable[[np.ndarray], Any]] = {
        "vectors": lambda vector: index.search(QUERY, vector=vector),
        "exact": lambda vector: index.search(QUERY, vector=vector, exact=True),
        "hybrid": lambda vector: index.search(QUERY, vector=vector, hybrid=True),
        "embedding": embedding,
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    found = []
    for call in calls.values():
        call(queries[0])  # reads what is mapped to memory, and compiles
    for vector in queries:
        results = {}
        for name, call in calls.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            results[name] = call(vector)
            times[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
        exact = {result.start for result in results["exact"]}
        found.append(len(exact & {result.start for result in results["vectors"]}) / len(exact))
    index.close()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {
        "open_s": opened,
        "recall": float(np.mean(found)),
        "index_mb": size / 1e6,
        "peak_mb": memory_kib() * 1024 / 1e6,
        "times_ms": {
            name: {
                "median": 1e3 * statistics.median(values),
                "p90": 1e3 * float(np.quantile(values, 0.9)),
                "cpu": 1e3 * statistics.median(cpu[name]),
            }
            for name, values in times.items()
        },
    }


def table(result: dict[str, Any]) -> str:
    """Returns the results as a Markdown table."""
    machine = result["machine"]
    lines = [
        "# Time of a search",
        "",
        f"{machine['processor']}, {machine['cores']} cores; load average "
        f"{machine['load'][0]:.1f} at the start and {machine['load'][1]:.1f} at the end. "
        f"{result['chunks']:,} chunks of 1,000 characters, {result['queries']} queries, top 10 "
        f"with their texts. `{result['command']}`",
        "",
        "Times are in milliseconds: median, 90th percentile, and the median of the processor time.",
        "",
        "| search | " + " | ".join(f"{d} dimensions" for d in result["dimensions"]) + " |",
        "|---|" + "---|" * len(result["dimensions"]),
    ]
    for name, title in ROWS.items():
        cells = []
        for measured in result["dimensions"].values():
            times = measured["times_ms"][name]
            cells.append(f"{times['median']:.1f} / {times['p90']:.1f} / {times['cpu']:.1f}")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    for name, title, form in (
        ("recall", "recall of the exact top 10", "{:.3f}"),
        ("open_s", "opening the index, checksums included (s)", "{:.2f}"),
        ("index_mb", "size of the index (MB)", "{:.0f}"),
        ("peak_mb", "peak memory of the process with the model (MB)", "{:.0f}"),
    ):
        cells = [form.format(measured[name]) for measured in result["dimensions"].values()]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder with books/train.parquet")
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[192, 768])
    parser.add_argument("--quick", action="store_true", help="a small index; write nothing")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # one size, as a process
    arguments = parser.parse_args()
    if arguments.measure:
        queries = np.load(arguments.measure / "queries.npy")
        print(json.dumps(measure(arguments.measure / "index", queries)))
        return
    if arguments.quick:
        arguments.chunks, arguments.dimensions = 2000, [192]
    load = [os.getloadavg()[0]]
    measured = {}
    for dimension in arguments.dimensions:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            queries = build(folder / "index", arguments.chunks, dimension, arguments.data)
            np.save(folder / "queries.npy", queries)
            measured[str(dimension)] = run_process(folder)
    load.append(os.getloadavg()[0])
    result = {
        "dimensions": measured,
        "chunks": arguments.chunks,
        "queries": 200,
        "machine": machine() | {"load": load},
        "command": "python benchmarks/search_speed.py"
        + (" --data DATA" if arguments.data else "")
        + changed_options(parser, arguments, "chunks", "dimensions"),
    }
    if not arguments.quick:
        stem = arguments.output / "search_speed"
        write_results(stem, result, table(result))
    print(table(result))


def run_process(folder: Path) -> dict[str, Any]:
    """Measures in a process of its own, so that its peak memory is that of searches."""
    import subprocess
    import sys

    command = [sys.executable, __file__, "--measure", str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
