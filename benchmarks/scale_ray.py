"""Measures prediction by two workers on Ray beside two independent `bigbird predict` processes.

Both answer the same documents with the same model: the workers from one file, and the processes
half of the rows each. A process is pinned to one core, as a worker is limited to one thread. The
whole commands are timed, from their start to the finished output.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from embedding import save_random_model
from report import changed_options, machine, mean_and_deviation, write_section

TARGET = 0.9


def write_documents(folder: Path, count: int, num_words: int) -> list[str]:
    """Writes documents of up to `num_words` words as one Parquet file and as its two halves."""
    import pyarrow
    import pyarrow.parquet

    generator = np.random.default_rng(0)
    words = np.array(["the", "of", "people", "nation", "year", "law", "court", "report", "duty"])
    sizes = generator.integers(num_words // 4, num_words + 1, count)
    texts = [" ".join(generator.choice(words, size)) for size in sizes]
    parts = {"all": texts, "first": texts[: count // 2], "second": texts[count // 2 :]}
    for name, part in parts.items():
        pyarrow.parquet.write_table(pyarrow.table({"text": part}), folder / f"{name}.parquet")
    return [str(folder / f"{name}.parquet") for name in parts]


def predict(arguments: list[str], core: int | None = None) -> subprocess.Popen:
    """Starts `bigbird predict`, pinned to a core if one is given."""
    pin = [] if core is None else ["taskset", "-c", str(core)]
    program = [sys.executable, "-c", "from flax_bigbird.cli.main import run; run()", "predict"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([*pin, *program, *arguments], env=environment)


def wait(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        if process.wait():
            raise SystemExit(f"a command failed with exit code {process.returncode}")


def measure(folder: Path, model: str, sources: list[str]) -> dict[str, float]:
    """Returns the seconds of both ways, for one round."""
    whole, *halves = sources
    seconds = {}
    start = time.perf_counter()
    wait([predict([model, whole, "-o", str(folder / "ray"), "--engine", "ray", "--concurrency=2"])])
    seconds["ray"] = time.perf_counter() - start
    start = time.perf_counter()
    outputs = [str(folder / f"{core}.parquet") for core in range(2)]
    wait([predict([model, half, "-o", outputs[n]], n) for n, half in enumerate(halves)])
    seconds["processes"] = time.perf_counter() - start
    shutil.rmtree(folder / "ray")
    for output in outputs:
        Path(output).unlink()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--words", type=int, default=1000, help="the longest document")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=384)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = save_random_model(
            str(folder / "model"),
            layers=arguments.layers,
            width=arguments.width,
            length=1024,
            kind="ForSequenceClassification",
        )
        sources = write_documents(folder, arguments.documents, arguments.words)
        measure(folder, model, write_documents(folder, 64, arguments.words))  # compiles
        sources = write_documents(folder, arguments.documents, arguments.words)
        rounds = [measure(folder, model, sources) for _ in range(arguments.rounds)]
    ratios = [seconds["processes"] / seconds["ray"] for seconds in rounds]
    options = changed_options(parser, arguments, "documents", "words", "rounds", "layers", "width")
    lines = [
        "## Bulk prediction on Ray",
        "",
        f"`python benchmarks/scale_ray.py{options}`: {arguments.documents:,} documents of "
        f"{arguments.words // 4:,} to {arguments.words:,} words, a classifier of "
        f"{arguments.layers} layers of width {arguments.width}, {arguments.rounds} rounds. Whole "
        "commands are timed; those on Ray start and stop a cluster of two workers.",
        "",
        "| | seconds | documents/s |",
        "|---|---|---|",
        *(row(title, key, rounds, arguments.documents) for key, title in TITLES.items()),
        "",
        f"Throughput on Ray over that of two processes: {mean_and_deviation(ratios, 3)} (target: "
        f"{TARGET}).",
    ]
    results: dict[str, Any] = {"machine": machine(), "rounds": rounds, "ratios": ratios}
    page = Path(__file__).parent / "results" / "scale.md"
    write_section(page, "scale_ray", results, "\n".join(lines))
    print("\n".join(lines))


TITLES = {
    "ray": "`--engine ray --concurrency 2`",
    "processes": "two processes, half of the rows each",
}


def row(title: str, key: str, rounds: list[dict[str, float]], count: int) -> str:
    """Returns the row of the table for one way."""
    seconds = [values[key] for values in rounds]
    rates = [count / value for value in seconds]
    return f"| {title} | {mean_and_deviation(seconds, 1)} | {mean_and_deviation(rates, 1)} |"


if __name__ == "__main__":
    main()
