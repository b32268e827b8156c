"""The scheme of tags: detected from tagged documents, from names, or given."""

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")

from flax_bigbird.data.errors import OptionError  # noqa: E402
from flax_bigbird.nn.losses import IGNORED_LABEL  # noqa: E402
from flax_bigbird.tasks import tag_schemes  # noqa: E402
from flax_bigbird.tasks.base import EncodedDataset  # noqa: E402
from flax_bigbird.tasks.registry import get_task  # noqa: E402
from flax_bigbird.tasks.task_options import TAG_SCHEMES  # noqa: E402


@pytest.mark.parametrize(
    ("sequences", "scheme"),
    [
        ([["B-PER", "I-PER", "O", "B-LOC"]], "IOB2"),
        ([["B-PER", "O"], ["B-LOC", "B-LOC"]], "IOB2"),
        ([["I-PER", "I-PER", "O", "I-LOC", "B-LOC"]], "IOB1"),
        ([["I-PER", "O"]], "IOB1"),
        # One wrong tag does not make another scheme.
        ([["B-PER", "I-PER", "O", "I-LOC"], ["B-LOC", "O"]], "IOB2"),
        ([["B-PER", "E-PER", "S-LOC", "O"]], "IOBES"),
        ([["S-LOC", "O"]], "IOBES"),
        ([["B-PER", "I-PER", "L-PER", "U-LOC", "O"]], "BILOU"),
        ([["B", "I", "O"]], "IOB2"),
        ([["NN", "IN"]], "none"),
        ([["CCONJ", "SCONJ"]], "none"),
        ([["OTHER", "OTHER"]], "none"),
        ([["0", "1", "2"]], "none"),
        ([["O", "O"]], "none"),
        ([["B-PER", "PER", "O"]], "none"),
        ([["B-PER", "L-PER", "E-PER"]], "none"),  # prefixes of two schemes
        ([["I-PER", "E-PER"]], "none"),
        ([], "none"),
    ],
)
def test_the_scheme_follows_from_tags(sequences, scheme):
    assert tag_schemes.detect_tag_scheme(sequences) == scheme
    assert scheme in TAG_SCHEMES


@pytest.mark.parametrize(
    ("names", "scheme"),
    [
        (["O", "B-PER", "I-PER", "B-LOC"], "IOB2"),
        (["O", "I-PER", "B-LOC", "I-LOC"], "IOB1"),
        (["O", "B-PER", "E-PER"], "IOBES"),
        (["O", "U-PER"], "BILOU"),
        (["LABEL_0", "LABEL_1"], "none"),
    ],
)
def test_the_scheme_of_a_checkpoint_that_does_not_name_it(make_task, names, scheme):
    task = make_task("token-classification", id2label=dict(enumerate(names)))
    assert task.tag_scheme == scheme


def infer(rows, **options):
    task_class = get_task("token-classification")
    rows = datasets.Dataset.from_list(rows)
    return task_class.infer_config(task_class.options_class(**options), rows), rows


def score(task, targets, predicted):
    """Returns the metrics of one document for lists of tags."""
    index = {name: i for i, name in enumerate(task.label_names)}
    outputs = {
        "losses": np.zeros((1, len(targets)), np.float32),
        "labels": np.array([[index[tag] for tag in targets] + [IGNORED_LABEL]]),
        "predicted": np.array([[index[tag] for tag in predicted] + [0]]),
    }
    return task.compute_metrics(outputs, EncodedDataset(datasets.Dataset.from_dict({})))


@pytest.mark.parametrize(
    ("targets", "predicted", "metric", "value"),
    [
        ([0, 1, 1, 0], [0, 1, 1, 0], "accuracy", 1),
        (["IN", "NN"], ["NN", "IN"], "accuracy", 0),
        (["OTHER", "OTHER"], ["OTHER", "OTHER"], "accuracy", 1),
        (["SCONJ", "CCONJ"], ["CCONJ", "CCONJ"], "accuracy", 0.5),
        # As IOB2, both would be one person of three words.
        (["B-PER", "I-PER", "L-PER"], ["B-PER", "I-PER", "I-PER"], "f1", 0),
    ],
)
def test_tags_are_scored_by_what_they_are(make_task, targets, predicted, metric, value):
    """Tags of no scheme have no entities; the best model is chosen by what is scored."""
    names = sorted({*targets, *predicted}, key=str)
    words = ["the"] * len(targets)
    extra = {"tokens": ["the"] * len(names), "tags": names}
    config, rows = infer([{"tokens": words, "tags": targets}, extra])
    task = make_task("token-classification", **config)
    metrics = score(task, list(map(str, targets)), list(map(str, predicted)))
    assert metrics[metric] == value
    assert set(metrics) == set(task.evaluation_metrics(task.options, task.config, rows))
    assert next(iter(task.evaluation_metrics(task.options, task.config))) == metric
    assert ("f1" in metrics) == (task.tag_scheme != "none")
    (message,) = task.encode_dataset(rows, "train").messages
    assert ("entities are scored" in message) == (metric == "f1")


def test_codes_of_tags_have_the_scheme_of_their_names():
    tags = datasets.List(datasets.ClassLabel(names=["O", "B-PER", "E-PER"]))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "tags": tags})
    table = {"tokens": [["the", "dog"]], "tags": [[1, 2]]}
    rows = datasets.Dataset.from_dict(table, features=features)
    task_class = get_task("token-classification")
    config = task_class.infer_config(task_class.options_class(), rows)
    assert config["tag_scheme"] == "IOBES"


def test_a_given_scheme_must_fit_the_tags(make_task):
    rows = [{"tokens": ["the", "dog"], "tags": ["B-PER", "L-PER"]}]
    assert infer(rows)[0]["tag_scheme"] == "BILOU"
    assert infer(rows, tag_scheme="none")[0]["tag_scheme"] == "none"
    message = "tag_scheme=IOB2 needs tags that are O or begin with one of I-, B-; got 'L-PER'"
    with pytest.raises(OptionError, match=message):
        infer(rows, tag_scheme="IOB2")
    with pytest.raises(OptionError, match=message):
        make_task("token-classification", {"tag_scheme": "IOB2"}, **infer(rows)[0])
    task = make_task("token-classification", {"tag_scheme": "none"}, **infer(rows)[0])
    assert next(iter(task.evaluation_metrics(task.options, task.config))) == "accuracy"


@pytest.mark.parametrize(
    ("tags", "scheme", "entities"),
    [
        (["B-PER", "I-PER", "O", "B-LOC"], "IOB2", [("PER", 0, 2), ("LOC", 3, 4)]),
        (["B-PER", "B-PER", "I-LOC"], "IOB2", [("PER", 0, 1), ("PER", 1, 2), ("LOC", 2, 3)]),
        (["I-PER", "I-PER", "B-PER"], "IOB1", [("PER", 0, 2), ("PER", 2, 3)]),
        (
            ["B-PER", "E-PER", "S-PER", "I-PER"],
            "IOBES",
            [("PER", 0, 2), ("PER", 2, 3), ("PER", 3, 4)],
        ),
        (["NN", "NN", "O", "IN"], "none", [("NN", 0, 2), ("IN", 3, 4)]),
        ([], "IOB2", []),
    ],
)
def test_words_are_grouped_into_entities(tags, scheme, entities):
    assert tag_schemes.group_words(tags, scheme) == entities
