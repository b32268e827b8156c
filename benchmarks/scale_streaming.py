"""Measures the memory and the speed of a streamed corpus, for two sizes of the corpus.

Each corpus of random documents is read once by a process of its own, tokenized with the tokenizer
of the shipped model and collated for masked language modeling, without a model. The resident memory
is sampled at each of the shards.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from report import changed_options, machine, memory_kib, write_section

SHARDS = 8


def write_corpus(folder: Path, megabytes: int) -> None:
    """Writes documents of 100 to 4,000 words as JSONL files."""
    generator = np.random.default_rng(0)
    words = np.array(["the", "of", "people", "nation", "year", "law", "court", "report", "duty"])
    folder.mkdir()
    for shard in range(SHARDS):
        with (folder / f"{shard}.jsonl").open("w", encoding="utf-8") as stream:
            while stream.tell() < megabytes * 1e6 / SHARDS:
                text = " ".join(generator.choice(words, generator.integers(100, 4001)))
                stream.write(json.dumps({"text": text}) + "\n")


def read_once(folder: Path, buffer_size: int, num_workers: int) -> dict[str, Any]:
    """Returns the memory in MiB at each shard, its peak, and the tokens per second."""
    from flax_bigbird.data.stream_batches import BatchSource, StreamBatches
    from flax_bigbird.data.streaming import stream_files
    from flax_bigbird.data.tokenization import load_tokenizer
    from flax_bigbird.pretrained import DEFAULT_MODEL
    from flax_bigbird.tasks.loading import load_config
    from flax_bigbird.tasks.masked_lm import MaskedLM
    from flax_bigbird.train import train_options
    from flax_bigbird.train.stream_setup import StreamData

    options = train_options(
        "masked-lm",
        train_files=[str(folder / "*.jsonl")],
        output_dir="unused",
        streaming=True,
        max_steps=1,
        max_length=1024,
    )
    task = MaskedLM(options, load_tokenizer(DEFAULT_MODEL), load_config(DEFAULT_MODEL))
    corpus = stream_files(options.train_files, "text", seed=0)
    source = BatchSource(
        corpus,
        task.window_encoder(),
        StreamData(corpus, options, task).buckets,
        task.collate,
        0,
        shuffle_buffer_size=buffer_size,
        num_workers=num_workers,
    )
    batches, start = StreamBatches(source), time.perf_counter()
    num_tokens, shards, memory = 0, 0, []
    while True:
        batch = next(batches)
        shard = batches.get_state()["readers"][0]["position"][0]
        if shard >= SHARDS:  # the next epoch
            break
        num_tokens += int(batch["attention_mask"].sum())
        if shard > shards or not memory:
            shards = shard
            memory.append(memory_kib("VmRSS") // 1024)
    seconds = time.perf_counter() - start
    peak = memory_kib() // 1024
    return {"memory": memory, "peak": peak, "tokens_per_second": num_tokens / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[50, 400])
    parser.add_argument("--buffer", type=int, default=2000, help="windows that are shuffled")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read_once(Path(arguments.read), arguments.buffer, arguments.workers)))
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for size in arguments.megabytes:
            folder = Path(name, str(size))
            write_corpus(folder, size)
            command = [sys.executable, __file__, "--read", str(folder)]
            command += ["--buffer", str(arguments.buffer), "--workers", str(arguments.workers)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[str(size)] = json.loads(output.splitlines()[-1])
    options = changed_options(parser, arguments, "megabytes", "buffer", "workers")
    lines = [
        "## Corpora that are streamed",
        "",
        f"`python benchmarks/scale_streaming.py{options}`: JSONL files are read once with "
        f"`--streaming`, in windows of up to 1,024 tokens and blocks of {arguments.buffer:,}, by a "
        f"process and {arguments.workers} more that tokenize; there is no model. The resident "
        "memory of the process is sampled at each of the shards.",
        "",
        "| corpus | memory at each shard (MiB) | peak (MiB) | tokens/s |",
        "|---|---|---|---|",
        *(
            f"| {size} MB | {', '.join(map(str, r['memory']))} | {r['peak']:,} | "
            f"{r['tokens_per_second']:,.0f} |"
            for size, r in results.items()
        ),
    ]
    page = Path(__file__).parent / "results" / "scale.md"
    figures = {"machine": machine(), "corpora": results}
    write_section(page, "scale_streaming", figures, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
