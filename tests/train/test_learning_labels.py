"""Runs that learn labels: of documents, as names, sets and numbers, and of words."""

import random
from typing import Any

import numpy as np
import pytest
from tiny_runs import tiny_run_options, write_jsonl, write_labeled_texts

import flax_bigbird
from flax_bigbird.data.errors import DataError
from flax_bigbird.inference import evaluate, load_predictor
from flax_bigbird.train import train


@pytest.mark.parametrize(
    ("label", "metric", "minimum", "problem_type"),
    [
        ("name", "accuracy", 0.95, "single_label_classification"),
        ("list", "micro_f1", 0.95, "multi_label_classification"),
        ("number", "pearson", 0.9, "regression"),
    ],
)
def test_documents_are_classified(tmp_path, label, metric, minimum, problem_type):
    """Validation texts of two vocabularies; the kind of labels follows from the data."""
    data = write_labeled_texts(tmp_path / "train.jsonl", 160, 0, label)
    validation = write_labeled_texts(tmp_path / "validation.jsonl", 40, 1, label)
    report = train(
        tiny_run_options(
            tmp_path,
            train_files=[data],
            validation_files=[validation],
            max_steps=60,
            eval_steps=30,
            save_steps=60,
            logging_steps=30,
        )
    )
    assert report["metrics"][metric] >= minimum, report["metrics"]
    folder = tmp_path / "run"
    model = flax_bigbird.FlaxBigBirdForSequenceClassification.from_pretrained(folder)
    assert model.config.problem_type == problem_type
    assert model.config.classifier_pooling == "mean"
    if label != "number":
        supports = {name: row["support"] for name, row in report["classification_report"].items()}
        assert supports == {"harbor": 20, "meadow": 20} | ({"text": 40} if label == "list" else {})
    if label == "list":
        assert model.config.label_thresholds == report["label_thresholds"]
        assert report["label_thresholds"]["text"] == 0.5  # every text has it
        task: Any = load_predictor(folder).task
        assert task.thresholds.tolist() == list(report["label_thresholds"].values())
        again = evaluate(folder, [validation])["metrics"]
        assert again == pytest.approx(report["metrics"], abs=1e-6)
    assert model.config.padding_invariant
    assert model.config.random_attention == "fixed"
    if label == "name":
        assert model.config.id2label == {0: "harbor", 1: "meadow"}
        assert np.sum(report["confusion_matrix"]["rows"]) == 40
        assert (folder / "confusion_matrix.png").stat().st_size > 1000


def write_tagged_documents(path, count):
    """Writes documents whose entities, of one and two words, follow from the word before."""
    generator = random.Random(0)
    rows = []
    for _ in range(count):
        words, tags = [], []
        for _ in range(generator.randint(3, 25)):
            verb = generator.choice(["near", "said", "walked"])
            words.append(verb)
            tags.append("O")
            if verb == "walked":
                continue
            entity = {"near": "LOC", "said": "PER"}[verb]
            for index in range(generator.randint(1, 2)):
                words.append(generator.choice(["Alton", "Brook", "Carey", "Dover"]))
                tags.append(("B-" if index == 0 else "I-") + entity)
        rows.append({"tokens": words, "tags": tags})
    return write_jsonl(path, rows)


def test_words_are_tagged(tmp_path):
    """Documents are split into windows."""
    report = train(
        tiny_run_options(
            tmp_path,
            "token-classification",
            train_files=[write_tagged_documents(tmp_path / "a.jsonl", 200)],
            max_length=32,
            tokens_per_batch=1024,
            max_steps=150,
            eval_steps=50,
            save_steps=150,
            learning_rate=1e-2,
            logging_steps=50,
        )
    )
    assert report["metrics"]["f1"] > 0.9, report["metrics"]
    assert report["validation"]["rows"] > 20  # windows of 20 documents
    model = flax_bigbird.FlaxBigBirdForTokenClassification.from_pretrained(tmp_path / "run")
    assert set(model.config.label2id) == {"O", "B-LOC", "I-LOC", "B-PER", "I-PER"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"tokens": ["a", "b"], "tags": ["O"]},
            r"a\.jsonl, line 2 has 2 words and 1 tag",
        ),
        ({"words": ["a"], "tags": ["O"]}, "must have a column 'tokens'; got words, tags"),
    ],
)
def test_tags_that_do_not_fit_the_words(tmp_path, row, message):
    good = {"tokens": ["a"], "tags": ["O"]} if "tokens" in row else row
    data = write_jsonl(tmp_path / "a.jsonl", [good, row])
    options = tiny_run_options(
        tmp_path, "token-classification", train_files=[data], validation_fraction=0
    )
    with pytest.raises(DataError, match=message):
        train(options)


def test_validation_labels_that_training_has_not_seen(tmp_path):
    data = write_labeled_texts(tmp_path / "a.jsonl", 20)
    other = write_jsonl(tmp_path / "b.jsonl", [{"text": "a", "label": "desert"}])
    with pytest.raises(DataError, match=r"\(harbor, meadow\); .*b\.jsonl, line 1 has 'desert'"):
        train(tiny_run_options(tmp_path, train_files=[data], validation_files=[other]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_that_occur_once_do_not_stop_a_run(tmp_path, seed):
    """Whatever the seed, rows held out have labels that training has."""
    rows = [{"text": "the cow", "label": "ab"[n % 2]} for n in range(10)]
    rows.append({"text": "a ship", "label": "once"})
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    changes = {"validation_fraction": 0.5, "max_steps": 1, "eval_steps": 1, "seed": seed}
    report = train(tiny_run_options(tmp_path, train_files=[data], vocab_size=20, **changes))
    assert report["training"]["rows"] + report["validation"]["rows"] == 11
    assert report["confusion_matrix"]["labels"] == ["a", "b", "once"]


def test_tags_that_occur_once_do_not_stop_a_run(tmp_path):
    rows = [{"tokens": ["the", "cow"], "tags": ["O", "B-ANIMAL"]} for _ in range(4)]
    rows.append({"tokens": ["a", "ship"], "tags": ["O", "B-SHIP"]})
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    changes = {"validation_fraction": 0.5, "max_steps": 1, "eval_steps": 1, "vocab_size": 20}
    train(tiny_run_options(tmp_path, "token-classification", train_files=[data], **changes))


def test_rows_without_a_text_or_label(tmp_path):
    rows = [{"text": "a", "label": "x"}, {"text": None, "label": "y"}]
    with pytest.raises(DataError, match=r"a text in every row; .*a\.jsonl, line 2 has none"):
        train(
            tiny_run_options(
                tmp_path,
                train_files=[write_jsonl(tmp_path / "a.jsonl", rows)],
                validation_files=[write_jsonl(tmp_path / "b.jsonl", rows)],
                vocab_size=20,
            )
        )
    assert not (tmp_path / "run" / "options.yaml").exists()  # nothing is written
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": None}]
    files = [write_jsonl(tmp_path / "d.jsonl", rows)]
    with pytest.raises(DataError, match=r"a label in every row; .*d\.jsonl, line 2 has none"):
        train(tiny_run_options(tmp_path / "c", train_files=files, validation_fraction=0))
