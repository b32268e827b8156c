"""Measures what searches by vectors find, beside BM25 and mean word vectors.

The tasks are those of `search_tasks.py`; `--data` names the folder with `covid_qa` and `books`.
Chunks have 256 tokens, of which neighbors have 32 in common, and their vectors are those of late
chunking, as in `bigbird index`. Every system ranks the same chunks or documents; a document that is
ranked by its chunks has the score of the best one. `centered` subtracts the mean vector of the
collection from all vectors. Results are written after each task; those of the same model, task and
version of this script are not measured again.
"""

import argparse
import dataclasses
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from report import processor, write_results
from search_tasks import Task, load_tasks

from flax_bigbird.pretrained import DEFAULT_MODEL

RESULTS = Path(__file__).parent / "results"
CHUNK_TOKENS, CHUNK_OVERLAP = 256, 32
RANK_CONSTANT = 60
SYSTEMS = {
    "bm25": "BM25 (`bm25s`)",
    "lsa": "mean word vectors: TF-IDF and LSA",
    "word_embeddings": "mean word vectors: the model's embedding layer",
    "model": "vectors of the model",
    "centered": "vectors of the model, centered",
    "model+bm25": "fused: model and BM25",
    "centered+bm25": "fused: centered model and BM25",
}
METRICS = ("ndcg_at_10", "mrr_at_10", "recall_at_1", "recall_at_10")

Spans = list[tuple[int, int, int]]


def embed_units(embedder: Any, task: Task) -> tuple[Spans, np.ndarray]:
    """Returns what a task ranks: the document and the characters of each unit, and its vector."""
    if task.unit == "whole":
        spans = [(index, 0, len(text)) for index, text in enumerate(task.documents)]
        return spans, embedder.encode(task.documents)
    chunks = embedder.encode_chunks(
        task.documents, chunk_size=CHUNK_TOKENS, chunk_overlap=CHUNK_OVERLAP
    )
    spans = [(index, *span) for index, chunk in enumerate(chunks) for span in chunk.spans]
    return spans, np.concatenate([chunk.vectors for chunk in chunks])


def shrink(task: Task, count: int = 8) -> Task:
    """Returns a task with the first documents alone, to check that everything runs."""
    documents = [text[:2000] for text in task.documents[:count]]
    kept = [n for n, span in enumerate(task.relevant) if span[0] < count and max(span) < 2000]
    own = None
    if task.own is not None:
        documents, kept, own = (
            [text[:2000] for text in task.queries[:count]],
            range(count),
            [*range(count)],
        )
    return dataclasses.replace(
        task,
        documents=documents,
        queries=[task.queries[n] for n in kept],
        relevant=[task.relevant[n] if own is None else (n ^ 1,) for n in kept],
        own=own,
    )


def cosines(queries: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Returns the cosines of vectors, `[Q, N]`."""
    a, b = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for x in (queries, units)
    )
    return a @ b.T


def bm25_scores(queries: list[str], texts: list[str]) -> np.ndarray:
    """Returns the scores of BM25, `[Q, N]`, with the words of `bigbird index`."""
    import bm25s

    from flax_bigbird.inference.search.lexical import words

    bm25 = bm25s.BM25()
    bm25.index([words(text) for text in texts], show_progress=False)
    known = [bm25.get_tokens_ids(words(query)) for query in queries]
    nothing = np.zeros(len(texts), np.float32)
    return np.stack([bm25.get_scores_from_ids(ids) if ids else nothing for ids in known])


def lsa_scores(queries: list[str], texts: list[str], dimension: int) -> np.ndarray:
    """Returns the cosines of TF-IDF vectors after a singular value decomposition, `[Q, N]`."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    tfidf = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")
    counts = tfidf.fit_transform(texts)
    svd = TruncatedSVD(min(dimension, min(counts.shape) - 1), random_state=0)
    units = svd.fit_transform(counts)
    return cosines(svd.transform(tfidf.transform(queries)), units)


def mean_embeddings(embedder: Any, texts: list[str]) -> np.ndarray:
    """Returns the means of the vectors of the tokens in the embedding layer, `[N, D]`."""
    from flax_bigbird.data.tokenization import tokenize

    params = embedder.predictor.model.params
    table = np.asarray(params["embeddings"]["word_embeddings"]["embedding"])
    ids = tokenize(embedder.tokenizer, texts)
    return np.stack([table[row].mean(0) if len(row) else 0 * table[0] for row in ids])


def fuse(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the sums of reciprocal ranks, `[Q, N]`."""
    ranks = [np.argsort(np.argsort(-s, axis=1, kind="stable"), axis=1) + 1 for s in (first, second)]
    return np.sum([1 / (RANK_CONSTANT + rank) for rank in ranks], axis=0)


def group_scores(scores: np.ndarray, spans: Spans, task: Task) -> np.ndarray:
    """Returns the scores of what is ranked: those of chunks, or the best one of each document."""
    if task.unit == "chunk":
        return scores
    owners = np.array([span[0] for span in spans])
    return np.stack([scores[:, owners == n].max(1) for n in range(len(task.documents))], 1)


def evaluate(scores: np.ndarray, spans: Spans, task: Task) -> dict[str, float]:
    """Returns the metrics of scores, `[Q, N]`; ties count against a system."""
    from flax_bigbird.tasks.ranking_metrics import binary_ndcg, relevant_ranks

    ranks = []
    for number, (row, relevant) in enumerate(zip(scores, task.relevant, strict=True)):
        if task.unit == "chunk":
            document, start, end = relevant
            found = [
                n for n, (d, a, b) in enumerate(spans) if d == document and a < end > start < b
            ]
        else:
            found = [relevant[0]]
        if task.own is not None:
            row = row.copy()
            row[task.own[number]] = -np.inf
        if found:
            ranks.append(relevant_ranks(row, np.array(found)))
    first = np.array([rank[0] for rank in ranks])
    return {
        "ndcg_at_10": float(np.mean([binary_ndcg(rank, 10) for rank in ranks])),
        "mrr_at_10": float(np.mean(np.where(first <= 10, 1 / first, 0))),
        "recall_at_1": float(np.mean([(rank <= 1).mean() for rank in ranks])),
        "recall_at_10": float(np.mean([(rank <= 10).mean() for rank in ranks])),
        "queries": len(ranks),
    }


def measure(embedder: Any, task: Task, units: tuple[Spans, np.ndarray]) -> dict[str, Any]:
    """Returns the metrics of all systems."""
    spans, vectors = units
    texts = [task.documents[document][start:end] for document, start, end in spans]
    queries = embedder.encode_query(task.queries)
    center = vectors.mean(0)
    scores = {
        "bm25": bm25_scores(task.queries, texts),
        "lsa": lsa_scores(task.queries, texts, vectors.shape[1]),
        "word_embeddings": cosines(
            mean_embeddings(embedder, task.queries), mean_embeddings(embedder, texts)
        ),
        "model": cosines(queries, vectors),
        "centered": cosines(queries - center, vectors - center),
    }
    ranked = {name: group_scores(value, spans, task) for name, value in scores.items()}
    for name in ("model", "centered"):
        ranked[f"{name}+bm25"] = fuse(ranked[name], ranked["bm25"])
    return {name: evaluate(value, spans, task) for name, value in ranked.items()}


def table(result: dict[str, Any]) -> str:
    """Returns the results as Markdown tables."""
    models = dict.fromkeys(run["model"] for run in result["runs"])
    flags = "".join(f" --model {model}" for model in models)
    lines = [
        "# What a search finds",
        "",
        f"{result['machine']}. `python benchmarks/search.py --data DATA{flags}`",
        "",
        f"Chunks of {CHUNK_TOKENS} tokens, {CHUNK_OVERLAP} in common, by late chunking; cosines. "
        "Documents are ranked by their best chunk, speeches by one vector each. LSA has as many "
        "dimensions as the model. Fused: the sum of 1 / (60 + rank) (reciprocal rank fusion). Ties "
        "count against a system. Bold: the best figure of a column.",
    ]
    for key, rows in itertools.groupby(result["runs"], key=lambda run: run["model"]):
        lines += ["", f"## {key}"]
        for run in rows:
            lines += ["", f"{run['title'].capitalize()}:", ""]
            lines += ["| | nDCG@10 | MRR@10 | recall@1 | recall@10 |", "|---|---|---|---|---|"]
            best = {m: max(values[m] for values in run["systems"].values()) for m in METRICS}
            for name, values in run["systems"].items():
                cells = [f"{values[m]:.3f}" for m in METRICS]
                shown = [
                    f"**{cell}**" if cell == f"{best[m]:.3f}" else cell
                    for cell, m in zip(cells, METRICS, strict=True)
                ]
                lines.append(f"| {SYSTEMS[name]} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--model", action="append", help="a model; may be given more than once")
    parser.add_argument("--only", action="append", help="speeches, covid_qa or books")
    parser.add_argument("--quick", action="store_true", help="few documents; write nothing")
    parser.add_argument("--output", type=Path, default=RESULTS / "search.json")
    arguments = parser.parse_args()
    from flax_bigbird.inference import load_embedder
    from flax_bigbird.inference.search.fingerprint import model_fingerprint

    models = arguments.model or [DEFAULT_MODEL]
    result: dict[str, Any] = {"runs": []}
    if arguments.output.exists() and not arguments.quick:
        result = json.loads(arguments.output.read_text(encoding="utf-8"))
    result["machine"] = f"{processor()}, {os.cpu_count()} cores"
    for model in models:
        embedder = load_embedder(model)
        fingerprint = model_fingerprint(embedder)
        for name, tasks in load_tasks(arguments.data).items():
            if arguments.only and name not in arguments.only:
                continue
            if arguments.quick:
                tasks = [shrink(task) for task in tasks]
            keys = [
                {"model": Path(model).name, "fingerprint": fingerprint, "task": task.name}
                for task in tasks
            ]
            done = [{k: run[k] for k in keys[0]} for run in result["runs"]]
            if all(key in done for key in keys):
                continue
            start = time.process_time()
            units = embed_units(embedder, tasks[0])
            seconds = round(time.process_time() - start)
            print(
                f"{model} {name}: {len(units[0]):,} units in {seconds} s of processor time",
                flush=True,
            )
            for key, task in zip(keys, tasks, strict=True):
                systems = measure(embedder, task, units)
                run = key | {
                    "title": task.title,
                    "embedding_processor_s": seconds,
                    "systems": systems,
                }
                result["runs"] = [
                    *(
                        r
                        for r in result["runs"]
                        if (r["model"], r["task"]) != (run["model"], task.name)
                    ),
                    run,
                ]
                for system, values in systems.items():
                    print(f"  {task.name} {system}: {values}", flush=True)
                result["runs"].sort(key=lambda run: (run["model"] != DEFAULT_MODEL, run["model"]))
                if not arguments.quick:
                    write_results(arguments.output, result, table(result))
    print(table(result))


if __name__ == "__main__":
    main()
