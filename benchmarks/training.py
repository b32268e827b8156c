"""Measures training from files to parameters, against the Trainer of `transformers`.

Both train the same small masked language model with the same texts, tokenizer, batches and
optimizer. Each run has a process of its own, and the peers take turns. The input pipeline is also
measured alone: it must be much faster than the model.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from report import machine, write_results

LENGTH, BATCH_SIZE, MASK_RATE, VOCABULARY = 4096, 2, 0.15, 8000
MODEL_CONFIG: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "block_size": 64,
    "num_random_blocks": 3,
    "max_position_embeddings": LENGTH,
}
RESULTS = Path(__file__).parent / "results"


def prepare(folder: Path) -> None:
    """Writes a tokenizer, and State of the Union texts of exactly one window each."""
    from flax_bigbird.data.tokenization import load_tokenizer, tokenize
    from flax_bigbird.data.vocabulary import save_vocabulary, train_vocabulary
    from flax_bigbird.examples.state_of_the_union.speeches import load_speeches

    texts = [speech.text for speech in load_speeches()]
    save_vocabulary(train_vocabulary(texts, VOCABULARY), folder / "tokenizer", LENGTH)
    tokenizer = load_tokenizer(folder / "tokenizer")
    room = LENGTH - 2
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as stream:
        for tokens in tokenize(tokenizer, texts):
            for start in range(0, len(tokens) - room + 1, room):
                text = tokenizer.decode(tokens[start : start + room])
                stream.write(json.dumps({"text": text}) + "\n")


def flax_bigbird_run(folder: Path, steps: int) -> dict[str, float]:
    """Runs `flax_bigbird.train`; returns the tokens/s, as median over steps, and the total time."""
    from flax_bigbird.train import train, train_options

    options = train_options(
        "masked-lm",
        train_files=[str(folder / "texts.jsonl")],
        validation_fraction=0.0,
        tokenizer=str(folder / "tokenizer"),
        output_dir=str(folder / f"run-{os.getpid()}"),
        config_overrides=MODEL_CONFIG,
        mlm_probability=MASK_RATE,
        whole_word_mask=False,
        random_attention="hf",
        max_length=LENGTH,
        min_bucket_length=LENGTH,
        tokens_per_batch=BATCH_SIZE * LENGTH,
        max_steps=steps,
        logging_steps=1,
    )
    start = time.perf_counter()
    report = train(options)
    return {
        "tokens_per_second": report["tokens_per_second"],
        "whole_seconds": time.perf_counter() - start,
        "mfu": report["mfu"],
    }


def trainer_run(folder: Path, steps: int) -> dict[str, float]:
    """Runs the Trainer with PyTorch's BigBird; returns the same measurements."""
    import datasets
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import (
        AutoTokenizer,
        BigBirdConfig,
        BigBirdForMaskedLM,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    torch.set_num_threads(os.cpu_count() or 1)
    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    rows = datasets.load_dataset("json", data_files=str(folder / "texts.jsonl"), split="train")
    rows = rows.map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=LENGTH),
        batched=True,
        remove_columns=["text"],
    )
    step_ends: list[float] = []

    class StepTimer(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            step_ends.append(time.perf_counter())

    model = BigBirdForMaskedLM(BigBirdConfig(vocab_size=VOCABULARY, **MODEL_CONFIG))
    arguments = TrainingArguments(
        output_dir=str(folder / f"hf-{os.getpid()}"),
        per_device_train_batch_size=BATCH_SIZE,
        max_steps=steps,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASK_RATE)
    Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=collator,
        callbacks=[StepTimer()],
    ).train()
    step = statistics.median(b - a for a, b in itertools.pairwise(step_ends))
    mean_length = sum(map(len, rows["input_ids"])) / len(rows)
    return {
        "tokens_per_second": BATCH_SIZE * mean_length / step,
        "whole_seconds": time.perf_counter() - start,
    }


def pipeline_run(folder: Path, steps: int) -> dict[str, float]:
    """Returns the tokens/s of the input pipeline alone: shuffling, masking and batching."""
    from transformers import BigBirdConfig

    from flax_bigbird.data.batching import assign_buckets, training_batches
    from flax_bigbird.data.encoded_rows import column_array
    from flax_bigbird.data.loading import load_files
    from flax_bigbird.data.tokenization import load_tokenizer
    from flax_bigbird.tasks.registry import get_task
    from flax_bigbird.train import train_options

    options = train_options(
        "masked-lm",
        train_files=[str(folder / "texts.jsonl")],
        output_dir=str(folder / "unused"),
        max_length=LENGTH,
        tokens_per_batch=BATCH_SIZE * LENGTH,
        mlm_probability=MASK_RATE,
    )
    config = BigBirdConfig(vocab_size=VOCABULARY, **MODEL_CONFIG)
    task = get_task("masked-lm")(options, load_tokenizer(folder / "tokenizer"), config)
    examples = task.encode_dataset(load_files(options.train_files), "train").examples
    lengths = column_array(examples, "length")
    buckets = assign_buckets(lengths, (LENGTH,), options.tokens_per_batch)
    batches = iter(training_batches(examples, buckets, task.collate, 0))
    next(batches)
    count, start = 0, time.perf_counter()
    for _ in range(50 * steps):
        count += int(next(batches)["attention_mask"].sum())
    return {"tokens_per_second": count / (time.perf_counter() - start)}


PEERS = {"ours": flax_bigbird_run, "trainer": trainer_run, "pipeline": pipeline_run}
NAMES = {
    "ours": "**flax-bigbird**, `train`",
    "trainer": "HF-Torch, `Trainer`",
    "pipeline": "flax-bigbird, the input pipeline alone",
}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs every peer in processes of its own, in turn."""
    results: dict[str, list[dict[str, float]]] = {peer: [] for peer in PEERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tokenizer").mkdir()
        prepare(folder)
        for _ in range(arguments.rounds):
            for peer in PEERS:
                command = [sys.executable, __file__, "--peer", peer, "--folder", name]
                command += ["--steps", str(arguments.steps)]
                process = subprocess.run(command, capture_output=True, text=True, check=False)
                if process.returncode:
                    raise SystemExit(f"{peer} failed:\n{process.stderr[-3000:]}")
                results[peer].append(json.loads(process.stdout.strip().splitlines()[-1]))
                print(peer, results[peer][-1], flush=True)
    return {
        "peers": results,
        "machine": machine(),
        "command": f"python benchmarks/training.py --steps {arguments.steps} "
        f"--rounds {arguments.rounds}",
    }


def table(results: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    speed = {
        peer: statistics.median(run["tokens_per_second"] for run in runs)
        for peer, runs in results["peers"].items()
    }
    lines = [
        "# Training from files to parameters, on a CPU",
        "",
        f"Masked language model of {MODEL_CONFIG['num_hidden_layers']} layers, hidden size "
        f"{MODEL_CONFIG['hidden_size']}, vocabulary {VOCABULARY:,}, T = {LENGTH}, batch size "
        f"{BATCH_SIZE}, 15% of the tokens masked, AdamW, float32; windows of "
        f"State of the Union addresses. {results['machine']['cores']} cores, "
        f"{results['machine']['processor']}; `{results['command']}`. Median over steps and "
        "over rounds.",
        "",
        "| | tokens/s | relative to ours |",
        "|---|---|---|",
        *(
            f"| {NAMES[peer]} | {value:,.0f} | {value / speed['ours']:.2f} |"
            for peer, value in speed.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        print(json.dumps(PEERS[arguments.peer](Path(arguments.folder), arguments.steps)))
        return
    results = measure(arguments)
    text = table(results)
    write_results(RESULTS / "training_cpu", results, text)
    print(text)


if __name__ == "__main__":
    main()
