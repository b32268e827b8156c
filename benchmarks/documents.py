"""Measures models on long documents of public data sets, beside simple baselines.

    python benchmarks/documents.py --data DATA --model MODEL

DATA is a folder with the files that `document_sets.py` names; a data set that is not there is left
out. Hyperpartisan news and movie reviews are classified by a linear probe of the frozen model, in
five folds. A model is fine-tuned to answer the questions of COVID-QA, in five folds of papers, and
to find the entities of LitBank, with five seeds. Each result is that of a test set that was not
used for any choice. Results are written after each cell of the tables, and cells that are in the
results are not repeated; those of another model are replaced.
"""

import argparse
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from document_baselines import best_sentence, predict_by_tfidf, predict_tags_by_words
from document_models import (
    READINGS,
    STRIDES,
    WHOLE,
    WINDOW,
    answer_metrics,
    fine_tune,
    predict_by_probe,
    predict_tags,
    read_features,
)
from document_report import table
from document_sets import (
    NUM_FOLDS,
    LabeledTexts,
    Rows,
    load_covid_qa,
    load_hyperpartisan,
    load_litbank,
    load_movie_reviews,
    sample_questions,
)
from report import processor, write_results

from flax_bigbird.pretrained import DEFAULT_MODEL, local_path
from flax_bigbird.tasks.metrics import entity_metrics
from flax_bigbird.tasks.squad_metrics import exact_match, f1_score

Cell = tuple[str, str, int]  # data set, method, and fold or seed
Metrics = dict[str, float]


def work_folder(arguments: argparse.Namespace, *words: object) -> Path:
    """Returns the folder of features or of a run, named after everything that it depends on."""
    name = Path(arguments.model).name
    return arguments.folder / f"{name}-{digest(arguments.model)}" / "-".join(map(str, words))


@functools.cache
def digest(model: str) -> str:
    """Returns a checksum of the weights of a model, if they are in a local folder."""
    files = sorted(Path(local_path(model)).glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def classification_metrics(predicted: np.ndarray, expected: np.ndarray) -> Metrics:
    """Returns the accuracy, and the F1 of the class whose labels are True, in percent."""
    predicted = predicted.astype(bool)
    right, both = predicted == expected, (predicted & expected).sum()
    f1 = 2 * both / max(1, predicted.sum() + expected.sum())
    return {"f1": 100 * float(f1), "accuracy": 100 * float(right.mean())}


def classification_cells(
    name: str, data: LabeledTexts, arguments: argparse.Namespace
) -> Iterator[tuple[Cell, Callable[[], Metrics]]]:
    """Yields the cells of a data set of labeled documents."""

    @functools.cache
    def features() -> dict[str, np.ndarray]:
        folder = work_folder(arguments, name, len(data.texts))
        return read_features(arguments.model, data.texts, folder)

    def tfidf(fold: int) -> Metrics:
        fitted = data.folds != fold
        texts = [[t for t, f in zip(data.texts, fitted, strict=True) if f == x] for x in (1, 0)]
        predicted = predict_by_tfidf(texts[0], data.labels[fitted], texts[1])
        return classification_metrics(predicted, data.labels[~fitted])

    def probe(reading: str, fold: int) -> Metrics:
        predicted = predict_by_probe(features()[reading], data, fold)
        return classification_metrics(predicted, data.labels[data.folds == fold])

    for fold in range(NUM_FOLDS):
        yield (name, "tfidf", fold), functools.partial(tfidf, fold)
    for reading in READINGS:
        for fold in range(NUM_FOLDS):
            yield (name, f"model, {reading}", fold), functools.partial(probe, reading, fold)


def covid_qa_cells(
    rows: Rows, folds: np.ndarray, arguments: argparse.Namespace
) -> Iterator[tuple[Cell, Callable[[], Metrics]]]:
    """Yields the cells of COVID-QA: one fine-tuned model per fold, which reads in three ways."""

    def split(fold: int) -> tuple[Rows, Rows]:
        parts = [[r for r, f in zip(rows, folds == fold, strict=True) if f == x] for x in (0, 1)]
        counts = (arguments.training_questions, arguments.questions)
        train, test = (sample_questions(p, n, fold) for p, n in zip(parts, counts, strict=True))
        return train, test

    def bm25(fold: int) -> Metrics:
        test = split(fold)[1]
        pairs = [(best_sentence(r["question"], r["context"]), r["answers"]["text"]) for r in test]
        f1, exact = (100 * float(np.mean([m(*p) for p in pairs])) for m in (f1_score, exact_match))
        return {"f1": f1, "exact": exact}

    def model(reading: str, fold: int) -> Metrics:
        steps, rate = arguments.qa_steps, arguments.learning_rate
        train, test = split(fold)
        output = work_folder(arguments, "covid_qa", len(train), steps, rate, fold)
        if not (output / "model.safetensors").exists():
            fine_tune(
                "question-answering",
                train,
                steps,
                fold,
                output,
                model=arguments.model,
                max_length=WHOLE,
                min_bucket_length=WHOLE,
                stride=STRIDES[WHOLE],
                learning_rate=rate,
            )
        return answer_metrics(output, test, reading)

    for fold in range(NUM_FOLDS):
        yield ("covid_qa", "bm25", fold), functools.partial(bm25, fold)
    for fold in range(NUM_FOLDS):
        for reading in READINGS:
            yield ("covid_qa", f"model, {reading}", fold), functools.partial(model, reading, fold)


def litbank_cells(
    train: Rows, test: Rows, arguments: argparse.Namespace
) -> Iterator[tuple[Cell, Callable[[], Metrics]]]:
    """Yields the cells of LitBank: one fine-tuned model per seed, which reads in three ways."""
    expected = [row["tags"] for row in test]

    def metrics(predicted: list[list[str]]) -> Metrics:
        values = entity_metrics(predicted, expected, "IOB2")
        return {name: 100 * values[name] for name in ("f1", "precision", "recall")}

    def words(seed: int) -> Metrics:
        return metrics(predict_tags_by_words(train, test, seed))

    def model(reading: str, seed: int) -> Metrics:
        steps, rate = arguments.tagging_steps, arguments.learning_rate
        output = work_folder(arguments, "litbank", len(train), steps, rate, seed)
        if not (output / "model.safetensors").exists():
            fine_tune(
                "token-classification",
                train,
                steps,
                seed,
                output,
                model=arguments.model,
                max_length=WINDOW,
                min_bucket_length=WINDOW,
                learning_rate=rate,
            )
        return metrics(predict_tags(output, test, reading))

    for seed in range(NUM_FOLDS):
        yield ("litbank", "words", seed), functools.partial(words, seed)
    for seed in range(NUM_FOLDS):
        for reading in READINGS:
            yield ("litbank", f"model, {reading}", seed), functools.partial(model, reading, seed)


def cells(arguments: argparse.Namespace) -> Iterator[tuple[Cell, Callable[[], Metrics]]]:
    """Yields all cells of the data sets that are there, and how each is measured."""
    limit = arguments.documents

    def labeled(load: Callable[[Path], LabeledTexts], name: str) -> Any:
        data = load(arguments.data / name)
        chosen = np.sort(np.random.default_rng(0).permutation(len(data.texts))[:limit])
        texts = [data.texts[index] for index in chosen]
        data = LabeledTexts(texts, data.labels[chosen], data.folds[chosen])
        return classification_cells(name, data, arguments)

    def covid_qa(name: str) -> Any:
        return covid_qa_cells(*load_covid_qa(arguments.data / name), arguments)

    def litbank(name: str) -> Any:
        train, test = load_litbank(arguments.data / "litbank_entities")
        return litbank_cells(train[:limit], test[:limit], arguments)

    sets = {
        "hyperpartisan": functools.partial(labeled, load_hyperpartisan),
        "movie_reviews": functools.partial(labeled, load_movie_reviews),
        "litbank": litbank,
        "covid_qa": covid_qa,
    }
    for name, load in sets.items():
        folder = {"litbank": "litbank_entities"}.get(name, name)
        if arguments.only and name not in arguments.only:
            continue
        if not (arguments.data / folder).is_dir():
            print(f"{name} is left out: {arguments.data / folder} is not there", flush=True)
            continue
        yield from load(name)


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a name, a folder or a Hub id")
    parser.add_argument("--only", action="append", help="a data set; by default, all")
    parser.add_argument("--folder", type=Path, default=Path("documents"), help="for runs")
    parser.add_argument("--questions", type=int, default=1, help="test questions per paper")
    parser.add_argument("--training-questions", type=int, default=2, help="per paper")
    parser.add_argument("--qa-steps", type=int, default=40, help="of 4,096 tokens")
    parser.add_argument("--tagging-steps", type=int, default=80, help="of 4,096 tokens")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of fine-tuning")
    parser.add_argument("--documents", type=int, help="use so many of each data set only")
    parser.add_argument("--quick", action="store_true", help="few documents and steps")
    results = Path(__file__).parent / "results"
    parser.add_argument("--output", type=Path, default=results / "documents.json")
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.documents, arguments.qa_steps, arguments.tagging_steps = 40, 1, 1
        arguments.folder /= "quick"
        arguments.output = arguments.folder / "documents.json"
    return arguments


def main(words: list[str] | None = None) -> None:
    arguments = parse_arguments(words)
    output = arguments.output
    results: dict[str, Any] = {"cells": {}}
    if output.exists():
        results = json.loads(output.read_text(encoding="utf-8"))
    names = ("questions", "training_questions", "qa_steps", "tagging_steps", "learning_rate")
    settings = {name: getattr(arguments, name) for name in ("model", "documents", *names)}
    settings["weights"] = digest(arguments.model)
    if (before := results.get("settings")) not in (None, settings):
        kept = all(before[name] == settings[name] for name in ("documents", "questions"))
        baselines = {k: v for k, v in results["cells"].items() if "/model" not in k and kept}
        results["cells"] = baselines
    results["settings"] = settings
    results["machine"] = f"{os.cpu_count()} cores, {processor()}"
    baselines_first = sorted(cells(arguments), key=lambda cell: cell[0][1].startswith("model"))
    for (data, method, index), measure in baselines_first:
        key = f"{data}/{method}/{index}"
        if key in results["cells"]:
            continue
        start = time.process_time()
        metrics = {name: round(value, 2) for name, value in measure().items()}
        seconds = round(time.process_time() - start, 1)
        results["cells"][key] = metrics | {"processor_seconds": seconds}
        print(key, results["cells"][key], flush=True)
        write_results(output, results, table(results))


if __name__ == "__main__":
    main()
