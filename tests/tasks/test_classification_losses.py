"""The losses and weights of a sequence classifier, and its thresholds, against formulas."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

datasets = pytest.importorskip("datasets")

from flax_bigbird._transformers import bigbird_config_class  # noqa: E402
from flax_bigbird.data.errors import OptionError  # noqa: E402
from flax_bigbird.tasks import metrics  # noqa: E402
from flax_bigbird.tasks.base import EncodedDataset  # noqa: E402
from flax_bigbird.tasks.options import command_options  # noqa: E402
from flax_bigbird.tasks.registry import get_task  # noqa: E402
from flax_bigbird.train import train_options  # noqa: E402

SINGLE = "single_label_classification"


def make(tokenizer, labels, **options):
    """Returns the task of a training run with these labels, and the rows."""
    task_class = get_task("sequence-classification")
    rows = datasets.Dataset.from_dict({"text": ["the dog"] * len(labels), "label": labels})
    options = train_options(
        "sequence-classification", train_files=["a"], output_dir="b", max_length=32, **options
    )
    config = bigbird_config_class()(
        vocab_size=40, max_position_embeddings=64, **task_class.infer_config(options, rows)
    )
    return task_class(options, tokenizer, config), rows


class FixedLogits:
    """A model whose logits are given."""

    def __init__(self, logits):
        self.logits = logits

    def __call__(self, ids, mask, params, **call):
        return types.SimpleNamespace(logits=self.logits)


def batch_of(task, rows, split="train"):
    examples = task.encode_dataset(rows, split).examples
    collated = [task.collate(e, 16, np.random.default_rng(0)) for e in examples]
    return {name: np.stack([arrays[name] for arrays in collated]) for name in collated[0]}


def loss(task, rows, logits):
    arrays = {name: jnp.asarray(value) for name, value in batch_of(task, rows).items()}
    return task.loss(FixedLogits(jnp.asarray(logits, jnp.float32)), None, arrays)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_label_smoothing(tokenizer, smoothing):
    task, rows = make(tokenizer, ["a", "b", "c", "a"], label_smoothing_factor=smoothing)
    logits = np.random.default_rng(0).standard_normal((4, 3))
    targets = (1 - smoothing) * np.eye(3)[[0, 1, 2, 0]] + smoothing / 3
    expected = -(targets * special.log_softmax(logits, -1)).sum(-1).mean()
    got = loss(task, rows, logits)
    np.testing.assert_allclose(got.mean, expected, rtol=1e-5)
    assert got.num_targets == 4


def test_balanced_classes(tokenizer):
    """Each class has the same total weight; a batch is weighted by the sum of its weights."""
    task, rows = make(tokenizer, ["a", "b", "a", "a"], class_weights="balanced")
    weights = batch_of(task, rows)["weights"]
    np.testing.assert_allclose(weights, [2 / 3, 2, 2 / 3, 2 / 3])
    logits = np.random.default_rng(0).standard_normal((4, 2))
    losses = -special.log_softmax(logits, -1)[np.arange(4), [0, 1, 0, 0]]
    got = loss(task, rows, logits)
    np.testing.assert_allclose(got.mean, (weights * losses).sum() / weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(got.num_targets, 4, rtol=1e-6)
    assert "weights" not in batch_of(task, rows, "validation")


@pytest.mark.parametrize("given", [{"label_smoothing_factor": 0.1}, {"class_weights": "balanced"}])
@pytest.mark.parametrize("labels", [[["a"], ["b"]], [0.5, 1.5]])
def test_options_of_classes_are_refused_for_other_problems(tokenizer, given, labels):
    (name,) = given
    with pytest.raises(OptionError, match=f"{name} belongs to problem_type {SINGLE}; got"):
        make(tokenizer, labels, **given)


def test_best_thresholds():
    """The first label is best cut between 0.2 and 0.3, the second at 0.5, the third has too few."""
    truth = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]])
    scores = np.array([[0.9, 0.8, 0.1], [0.4, 0.7, 0.1], [0.3, 0.3, 0.1], [0.2, 0.2, 0], [0, 0, 0]])
    np.testing.assert_allclose(metrics.best_thresholds(scores, truth, 2), [0.25, 0.5, 0.5])


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_better(seed):
    generator = np.random.default_rng(seed)
    scores = np.round(generator.random((40, 1)), 1)  # with ties
    truth = (scores + generator.standard_normal((40, 1)) / 3 > 0.6).astype(int)
    (threshold,) = metrics.best_thresholds(scores, truth, 1)

    def f1(cut):
        predicted = scores >= cut
        return 2 * (predicted & (truth > 0)).sum() / (predicted.sum() + truth.sum())

    assert f1(threshold) >= max(f1(cut) for cut in np.linspace(0, 1, 101)) - 1e-12


def test_the_report_of_each_class():
    report = metrics.classification_report(
        np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ["a", "b", "never"]
    )
    assert report["a"] == {"precision": 1, "recall": 0.5, "f1-score": pytest.approx(2 / 3)} | {
        "support": 2
    }
    assert report["b"]["precision"] == pytest.approx(2 / 3)
    assert report["never"] == dict.fromkeys(("precision", "recall", "f1-score", "support"), 0)


def test_thresholds_of_the_configuration_are_used(make_task):
    config = {"id2label": {0: "a", 1: "b"}, "problem_type": "multi_label_classification"}
    task = make_task("sequence-classification", **config, label_thresholds={"b": 0.2})
    logits = special.logit(np.array([0.45, 0.25]))
    outputs = [{"logits": logits, "num_tokens": np.array(5)}]
    assert task.decode({}, [], outputs)["labels"] == ["b"]
    outputs = {"logits": logits[None], "labels": np.array([[0, 1]]), "losses": np.zeros(1)}
    encoded = EncodedDataset(datasets.Dataset.from_dict({"length": [5]}))
    assert task.compute_metrics(outputs, encoded)["exact_match"] == 1
    assert task.report_details(outputs, encoded)["label_thresholds"] == {"a": 0.5, "b": 0.2}


@pytest.mark.parametrize("value", [[0.5, 0.5], {"c": 0.5}, {"a": 1.5}, {"a": "high"}])
def test_other_thresholds_are_refused(make_task, value):
    config = {"id2label": {0: "a", 1: "b"}, "problem_type": "multi_label_classification"}
    with pytest.raises(OptionError, match=r"config\.label_thresholds must map labels"):
        make_task("sequence-classification", **config, label_thresholds=value)


def test_training_options_are_not_options_of_predict():
    fields = command_options("sequence-classification", "predict").model_fields
    assert "whole_documents" in fields
    with pytest.raises(OptionError, match="linear_probing is an option of bigbird train"):
        command_options("sequence-classification", "predict")(linear_probing=False)
