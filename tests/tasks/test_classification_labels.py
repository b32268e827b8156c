"""Labels of classifiers: names, integers, codes, and how the model's configuration keeps them."""

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")

from flax_bigbird.data.errors import DataError  # noqa: E402
from flax_bigbird.tasks.registry import get_task  # noqa: E402


def classify(make_task, labels, **options):
    """Infers the configuration from rows with these labels, and returns the task and the rows."""
    task_class = get_task("sequence-classification")
    rows = datasets.Dataset.from_dict({"text": ["the dog"] * len(labels), "label": labels})
    config = task_class.infer_config(task_class.options_class(**options), rows)
    return make_task("sequence-classification", options, **config), rows


def collated_labels(task, rows):
    encoded = task.encode_dataset(rows, "train")
    generator = np.random.default_rng(0)
    return [task.collate(e, 16, generator)["labels"].tolist() for e in encoded.examples]


@pytest.mark.parametrize(
    ("labels", "problem_type", "names", "expected"),
    [
        (["b", "a", "b"], "single_label_classification", ["a", "b"], [1, 0, 1]),
        ([10, 2, 10], "single_label_classification", ["2", "10"], [1, 0, 1]),
        ([-1, 1], "single_label_classification", ["-1", "1"], [0, 1]),
        ([["b"], ["a", "b"]], "multi_label_classification", ["a", "b"], [[0, 1], [1, 1]]),
        ([0.5, -2.0], "regression", ["value"], [0.5, -2.0]),
    ],
)
def test_labels_become_indices(make_task, labels, problem_type, names, expected):
    task, rows = classify(make_task, labels)
    assert (task.problem_type, task.label_names) == (problem_type, names)
    assert collated_labels(task, rows) == expected


@pytest.mark.parametrize("names", [["zebra", "ape"], ["3", "1"]])
def test_codes_of_class_labels_keep_their_names(make_task, names):
    rows = datasets.Dataset.from_dict({"text": ["the dog"] * 3, "label": [0, 1, 0]})
    rows = rows.cast_column("label", datasets.ClassLabel(names=names))
    task_class = get_task("sequence-classification")
    config = task_class.infer_config(task_class.options_class(), rows)
    task = make_task("sequence-classification", **config)
    assert task.label_names == names
    assert collated_labels(task, rows) == [0, 1, 0]


@pytest.mark.parametrize(
    ("labels", "expected"), [([0, 1], [1, 0]), ([[0, 1], [0]], [[1, 1], [0, 1]])]
)
def test_codes_mean_names_where_a_model_has_another_order(make_task, labels, expected):
    rows = datasets.Dataset.from_dict({"text": ["the dog"] * 2, "label": labels})
    feature = datasets.ClassLabel(names=["negative", "positive"])
    if isinstance(labels[0], list):
        feature = datasets.List(feature)
    rows = rows.cast_column("label", feature)
    kind = "multi_label_classification" if isinstance(labels[0], list) else None
    config = {"id2label": {0: "positive", 1: "negative"}, "problem_type": kind}
    task = make_task("sequence-classification", **config)
    assert collated_labels(task, rows) == expected


@pytest.mark.parametrize(
    ("names", "codes", "got"),
    [
        (["good", "bad"], [0, 1], "has 'good'"),  # of another data set: 0 is not the first label
        (["negative", "positive", "neutral"], [0, 2], "has 'neutral'"),
        (
            ["negative", "positive"],
            [0, -1],
            "row 2 of the data has none",
        ),  # as in splits whose labels are secret
        (["positive", "negative"], [0, -1], "has -1"),
    ],
)
def test_codes_that_a_model_has_no_name_for(make_task, names, codes, got):
    """Codes were taken for indices, and -1 for the last class: wrong metrics, and no word of it."""
    task = make_task("sequence-classification", id2label={0: "positive", 1: "negative"})
    rows = datasets.Dataset.from_dict({"text": ["the dog"] * 2, "label": codes})
    rows = rows.cast_column("label", datasets.ClassLabel(names=names))
    with pytest.raises(DataError, match=f"labels? (must be among|in every row).*{got}"):
        task.encode_dataset(rows, "test")


def test_codes_are_indices_for_a_model_without_names(make_task):
    task = make_task("sequence-classification", id2label={0: "LABEL_0", 1: "LABEL_1"})
    rows = datasets.Dataset.from_dict({"text": ["the dog"] * 2, "label": [1, 0]})
    rows = rows.cast_column("label", datasets.ClassLabel(names=["no", "yes"]))
    assert collated_labels(task, rows) == [1, 0]


@pytest.mark.parametrize("names", [["False", "True"], ["True", "False"]])
def test_booleans_mean_their_names(make_task, names):
    task = make_task("sequence-classification", id2label=dict(enumerate(names)))
    rows = datasets.Dataset.from_dict({"text": ["the dog"] * 2, "label": [True, False]})
    assert collated_labels(task, rows) == [names.index("True"), names.index("False")]


@pytest.mark.parametrize("name", ["\u00b2", "--1", "9" * 5000, "-"])
def test_names_that_look_like_integers(make_task, name):
    """`str.isdigit` takes them for integers, which `int` refuses."""
    task, rows = classify(make_task, [name, "a"])
    assert sorted(collated_labels(task, rows)) == [0, 1]


@pytest.mark.parametrize("names", [["O", "B-ORG"], ["B-PER", "O"]])
def test_codes_of_tags_that_a_model_has_no_name_for(make_task, names):
    tags = datasets.List(datasets.ClassLabel(names=names))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "tags": tags})
    table = {"tokens": [["the", "dog"]], "tags": [[0, 1]]}
    rows = datasets.Dataset.from_dict(table, features=features)
    task = make_task("token-classification", id2label={0: "O", 1: "B-PER"})
    if "B-ORG" in names:
        with pytest.raises(DataError, match="has 'B-ORG'"):
            task.encode_dataset(rows, "test")
    else:
        labels = np.array(task.encode_dataset(rows, "test").examples[0]["labels"])
        assert labels[labels >= 0].tolist() == [1, 0]


def test_integers_as_text_stand_for_labels(make_task):
    task = make_task("sequence-classification", id2label={0: "positive", 1: "negative"})
    rows = datasets.Dataset.from_dict({"text": ["the dog"] * 2, "label": ["1", "0"]})
    assert collated_labels(task, rows) == [1, 0]


@pytest.mark.parametrize("names", [["O", "B-PER"], ["7", "3"]])
def test_codes_of_tags_keep_their_names(make_task, names):
    feature = datasets.List(datasets.ClassLabel(names=names))
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "tags": feature}
    )
    table = {"tokens": [["the", "dog"]], "tags": [[0, 1]]}
    rows = datasets.Dataset.from_dict(table, features=features)
    task_class = get_task("token-classification")
    config = task_class.infer_config(task_class.options_class(), rows)
    task = make_task("token-classification", **config)
    labels = np.array(task.encode_dataset(rows, "train").examples[0]["labels"])
    assert task.label_names == names
    assert labels[labels >= 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["a", "a"], {}, r"classes must be two or more; column 'label' .* holds \['a'\]"),
        ([[], []], {}, r"labels must exist; column 'label' .* holds \[\]"),
        (["a", None], {}, "must hold a label in every row; row 2 of the training data has none"),
        (["a", "b"], {"problem_type": "regression"}, "labels must be numbers .*; row 1 .* has 'a'"),
    ],
)
def test_labels_that_cannot_be_used(make_task, labels, options, message):
    with pytest.raises(DataError, match=message):
        classify(make_task, labels, **options)


def test_labels_of_other_splits_must_be_known(make_task):
    task, _ = classify(make_task, ["a", "b"])
    rows = datasets.Dataset.from_dict({"text": ["the dog"], "label": ["c"]})
    with pytest.raises(DataError, match=r"training data \(a, b\); row 1 of the data has 'c'"):
        task.encode_dataset(rows, "test")


def test_prediction_and_evaluation_encode_the_same_windows(make_task, text):
    for options in ({"max_length": 16}, {"max_length": 16, "whole_documents": True}):
        task, _ = classify(make_task, ["a", "b"], **options)
        rows = datasets.Dataset.from_dict({"text": [text, "the dog"], "label": ["a", "b"]})
        encoded = task.encode_dataset(rows, "test")
        windows = [window.input_ids for row in rows for window in task.encode(row)]
        assert windows == list(encoded.examples["input_ids"])
        assert len(encoded.messages) == 1
