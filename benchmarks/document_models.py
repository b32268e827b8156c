"""What `documents.py` does with a model: features of the frozen model, and fine-tuned readers.

A model reads documents in one of three ways: "whole", up to 4,096 tokens at once; "windows" of 512
tokens that cover the document; and "cut", the first 512 tokens alone.
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from document_sets import LabeledTexts, Rows

import flax_bigbird
from flax_bigbird.checkpoint import CheckpointWarning
from flax_bigbird.data.batching import assign_buckets
from flax_bigbird.data.encoded_rows import column_array
from flax_bigbird.data.tokenization import load_tokenizer, tokenize, tokenize_with_offsets
from flax_bigbird.inference import evaluate, load_predictor
from flax_bigbird.inference.rows import rows_as_dataset
from flax_bigbird.tasks.linear_classifiers import fit_linear
from flax_bigbird.tasks.linear_probing import ProbeData, document_features
from flax_bigbird.tasks.sequence_classification import SequenceClassification
from flax_bigbird.tasks.sequence_labels import SINGLE_LABEL
from flax_bigbird.train import train, train_options

WHOLE, WINDOW = 4096, 512
READINGS = ("whole", "windows", "cut")
STRIDES = {WHOLE: 256, WINDOW: 128}  # tokens that windows of question answering have in common
BUCKET_LENGTHS = (512, 1024, 1536, 2048, WHOLE)
MAX_ANSWER_TOKENS = 60


def read_features(model: str, texts: list[str], folder: Path) -> dict[str, np.ndarray]:
    """Returns the features of each document, `[documents, D]`, by reading.

    They are the means over the tokens of the last hidden states, which the linear probe of
    `bigbird train sequence-classification` reads. They are saved in `folder`, so that only windows
    of lengths that are not there are read.
    """
    features = {}
    for length, readings in ((WHOLE, ("whole",)), (WINDOW, ("windows", "cut"))):
        path = folder / f"{length}.npz"
        if not path.exists():
            windows, num_tokens, document = _window_features(model, texts, length)
            weighted = np.zeros((len(texts), windows.shape[1]))
            np.add.at(weighted, document, windows * num_tokens[:, None])
            means = weighted / np.bincount(document, num_tokens)[:, None]
            first = windows[np.searchsorted(document, np.arange(len(texts)))]
            folder.mkdir(parents=True, exist_ok=True)
            named: dict[str, Any] = dict(zip(readings, (means, first), strict=False))
            np.savez(path, **named)
        features |= dict(np.load(path))
    return features


def _window_features(
    model: str, texts: list[str], length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the features, the number of tokens, and the document of each window."""
    options = train_options(
        "sequence-classification",
        train_files=["-"],
        output_dir="-",
        max_length=length,
        whole_documents=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)  # the head is new
        loaded = flax_bigbird.FlaxBigBirdForSequenceClassification.from_pretrained(
            model,
            classifier_pooling="mean",
            padding_invariant=True,
            id2label={0: "no", 1: "yes"},
            label2id={"no": 0, "yes": 1},
            problem_type=SINGLE_LABEL,
        )
    task = SequenceClassification(options, load_tokenizer(model), loaded.config)
    rows: Any = [
        {"text": text, "label": ("no", "yes")[index % 2]} for index, text in enumerate(texts)
    ]
    encoded = task.encode_dataset(
        rows_as_dataset(rows, "text", SequenceClassification.columns(options)), "test"
    )  # in training, an example may be several windows
    num_tokens = column_array(encoded.examples, "length")
    lengths = [n for n in BUCKET_LENGTHS if n <= length]
    buckets = assign_buckets(num_tokens, lengths, options.tokens_per_batch)
    assert sum(len(bucket.indices) for bucket in buckets) == len(num_tokens)
    data = ProbeData(encoded.examples, buckets, np.arange(len(num_tokens)), task.collate)
    features, _ = document_features(loaded, data, weigh_by_tokens=True)
    return features, num_tokens, column_array(encoded.examples, "document")


def predict_by_probe(features: np.ndarray, data: LabeledTexts, fold: int) -> np.ndarray:
    """Returns the predicted classes of a fold, by a linear probe of the other folds."""
    train, test = data.folds != fold, data.folds == fold
    labels = data.labels.astype(int)
    fit = fit_linear(features[train], labels[train], SINGLE_LABEL, 2, seed=fold)
    return (features[test] @ fit.kernel + fit.bias).argmax(-1)


def fine_tune(task: str, rows: Rows, steps: int, seed: int, output: Path, **options: Any) -> None:
    """Trains a model on rows without validation, unless the run is finished."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "train.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        values: dict[str, Any] = {
            "train_files": [str(path)],
            "validation_fraction": 0.0,
            "output_dir": str(output),
            "overwrite_output_dir": True,
            "max_steps": steps,
            "save_steps": steps,
            "tokens_per_batch": WHOLE,
            "warmup_ratio": 0.1,
            "seed": seed,
        }
        train(train_options(task, **values, **options))


def answer_metrics(model: Path, rows: Rows, reading: str) -> dict[str, float]:
    """Returns F1 and exact match, in percent, of answers that are read in a way."""
    if reading == "cut":
        tokenizer = load_tokenizer(str(model))
        rows = [row | {"context": _beginning(tokenizer, row)} for row in rows]
    length = WHOLE if reading == "whole" else WINDOW
    metrics = evaluate(
        model,
        rows,
        max_length=length,
        stride=STRIDES[length],
        max_answer_length=MAX_ANSWER_TOKENS,
    )["metrics"]
    return {"f1": metrics["f1"], "exact": metrics["exact"]}


def _beginning(tokenizer: Any, row: dict[str, Any]) -> str:
    """Returns the characters of a context that fit into a window with the question."""
    (question,) = tokenize(tokenizer, [row["question"]])
    _, offsets = tokenize_with_offsets(tokenizer, row["context"])
    room = WINDOW - 3 - len(question)  # [CLS], and two [SEP]
    return row["context"][: offsets[min(room, len(offsets)) - 1][1]]


def predict_tags(model: Path, rows: Rows, reading: str) -> list[list[str]]:
    """Returns the tags of all words of each book; words that are not read have the tag O."""
    predict = load_predictor(model, max_length=WHOLE if reading == "whole" else WINDOW)
    books = [row["tokens"] for row in rows]
    if reading == "cut":
        windows = [predict.task.encode({"tokens": tokens}) for tokens in books]
        books = [tokens[: w[0].info[-1][0] + 1] for tokens, w in zip(books, windows, strict=True)]
    answers = predict([{"tokens": tokens} for tokens in books])
    return [
        [*answer["tags"], *["O"] * (len(row["tokens"]) - len(answer["tags"]))]
        for row, answer in zip(rows, answers, strict=True)
    ]
