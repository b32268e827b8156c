"""Measures the peak memory of `embed_files` over a tenth of some documents, and over all of them.

There are 100,000 short documents (10 words) and 1,000 long ones (3,000 words), in two JSONL files.
Each measurement is a process of its own, whose peak memory the operating system reports. The model
has one layer by default, because the number of documents does not change what a layer takes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from report import changed_options, memory_kib, write_results

KINDS = {"short": (100_000, 10), "long": (1_000, 3_000)}


def write_documents(path: Path, count: int, num_words: int) -> None:
    """Writes documents of random words from speeches, one after the other."""
    from flax_bigbird.examples.state_of_the_union.speeches import load_speeches

    words = np.array(" ".join(speech.text for speech in load_speeches()[:20]).split())
    generator = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as stream:
        for start in generator.integers(len(words) - num_words, size=count).tolist():
            text = " ".join(words[start : start + num_words])
            stream.write(json.dumps({"text": text}) + "\n")


def run(model: str, source: Path, target: Path, chunk_tokens: int | None) -> dict[str, float]:
    """Embeds a file in a process of its own."""
    command = [sys.executable, __file__, "--worker", model, str(source), str(target)]
    command += [] if chunk_tokens is None else ["--chunk-tokens", str(chunk_tokens)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(shown.splitlines()[-1])


def work(model: str, source: str, target: str, chunk_tokens: int | None) -> None:
    """Embeds a file, and prints the peak memory of this process."""
    from flax_bigbird.inference import embed_files, load_embedder

    embedder = load_embedder(model, min_bucket_length=32, chunk_tokens=chunk_tokens)
    start = time.process_time()
    rows = embed_files(embedder, [source], target)
    peak = memory_kib() / 1024
    seconds = time.process_time() - start
    print(json.dumps({"rows": rows, "peak_mib": peak, "processor_s": seconds}))


def table(result: dict[str, Any]) -> str:
    """Returns the results as a Markdown table."""
    lines = [
        "# Memory of embedding files",
        "",
        f"`{result['command']}`, {result['model']}; load average {result['load']:.1f}. Peak memory "
        "of the process in MiB, Python and its libraries included.",
        "",
        "| documents | output | a tenth of them | all of them | more |",
        "|---|---|---|---|---|",
    ]
    for row in result["runs"]:
        few, all_ = row["peak_mib"]
        lines.append(
            f"| {row['documents']:,} {row['kind']} | {row['output']} | {few:.0f} | {all_:.0f} | "
            f"{all_ / few - 1:+.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint; by default, a random one of one layer")
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the documents")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--chunk-tokens", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        model, source, target = arguments.worker
        work(model, source, target, arguments.chunk_tokens)
        return
    from embedding import save_random_model

    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or save_random_model(
            str(folder / "model"), layers=1, width=96, length=4096
        )
        for kind, (count, num_words) in KINDS.items():
            count = int(count * arguments.scale)
            for suffix, chunk_tokens in ((".npy", None), (".parquet", 256)):
                if kind == "short" and chunk_tokens:
                    continue
                peaks = []
                for part in (count // 10, count):
                    source = folder / f"{kind}-{part}.jsonl"
                    write_documents(source, part, num_words)
                    measured = run(model, source, folder / f"{kind}-{part}{suffix}", chunk_tokens)
                    print(kind, suffix, measured, flush=True)
                    peaks.append(measured["peak_mib"])
                output = f"chunks of {chunk_tokens} tokens" if chunk_tokens else "a vector each"
                runs.append({"kind": kind, "documents": count, "output": output, "peak_mib": peaks})
    result = {
        "model": arguments.model or "one layer, 96 wide",
        "runs": runs,
        "load": os.getloadavg()[0],
        "command": "python benchmarks/embedding_memory.py"
        + changed_options(parser, arguments, "model"),
    }
    if arguments.scale == 1:
        stem = arguments.output / "embedding_memory"
        write_results(stem, result, table(result))
    print(table(result))


if __name__ == "__main__":
    main()
