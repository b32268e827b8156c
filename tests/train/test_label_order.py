"""Fine-tuning that continues from a checkpoint keeps what its labels mean."""

import json

import jax
import numpy as np
import pytest
from tiny_checkpoints import Checkpoints, sentence
from tiny_runs import RecordingCallback, tiny_run_options, write_jsonl

import flax_bigbird
from flax_bigbird.train import train

SEQUENCE = "FlaxBigBirdForSequenceClassification"
TOKEN = "FlaxBigBirdForTokenClassification"


@pytest.fixture(scope="module")
def make_checkpoint(tmp_path_factory):
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


def continue_training(tmp_path, checkpoint, task, rows, **changes):
    """Runs one step at learning rate 0; returns the model before, the model after and messages."""
    recorded = RecordingCallback()
    options = tiny_run_options(
        tmp_path,
        task,
        train_files=[write_jsonl(tmp_path / "a.jsonl", rows)],
        model=checkpoint,
        config_overrides={},
        validation_fraction=0,
        learning_rate=0.0,
        max_steps=1,
        **changes,
    )
    train(options, [recorded])
    model_class = getattr(
        flax_bigbird, {"sequence-classification": SEQUENCE, "token-classification": TOKEN}[task]
    )
    before = model_class.from_pretrained(checkpoint)
    after = model_class.from_pretrained(tmp_path / "run")
    return before, after, recorded.messages


def labeled_rows(labels):
    return [
        {"text": sentence(seed, 12), "label": label}
        for seed, label in enumerate([*labels, *labels])
    ]


@pytest.mark.parametrize(
    ("checkpoint_names", "labels", "expected_names"),
    [
        (["positive", "negative"], ["negative", "positive"], ["positive", "negative"]),
        (["2", "10", "1"], [1, 2, 10], ["2", "10", "1"]),
        (["negative", "positive"], [0, 1], ["negative", "positive"]),
        (["LABEL_0"], [0.5, 1.5], ["LABEL_0"]),
    ],
)
def test_same_labels_keep_the_head_and_its_order(
    tmp_path, make_checkpoint, checkpoint_names, labels, expected_names
):
    checkpoint = make_checkpoint(SEQUENCE, id2label=dict(enumerate(checkpoint_names)))
    before, after, messages = continue_training(
        tmp_path, checkpoint, "sequence-classification", labeled_rows(labels)
    )
    assert list(after.config.id2label.values()) == expected_names
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    assert not any("initialized anew" in message for message in messages)


@pytest.mark.parametrize("checkpoint_names", [["good", "bad"], ["negative", "positive", "neutral"]])
def test_other_labels_get_a_new_output_layer(tmp_path, make_checkpoint, checkpoint_names):
    checkpoint = make_checkpoint(SEQUENCE, id2label=dict(enumerate(checkpoint_names)))
    before, after, messages = continue_training(
        tmp_path,
        checkpoint,
        "sequence-classification",
        labeled_rows(["negative", "positive"]),
    )
    assert after.config.id2label == {0: "negative", 1: "positive"}
    old, new = (model.params["classifier"] for model in (before, after))
    np.testing.assert_array_equal(old["dense"]["kernel"], new["dense"]["kernel"])
    assert not np.array_equal(old["out_proj"]["kernel"], new["out_proj"]["kernel"])
    expected = f"({', '.join(checkpoint_names)}), so its output layer is initialized anew"
    assert any(expected in message for message in messages)


@pytest.mark.parametrize("own", [None, "cls", "mean"])
@pytest.mark.parametrize("given", [None, "cls", "mean"])
def test_a_head_keeps_its_pooling_unless_another_is_given(tmp_path, make_checkpoint, own, given):
    keys = {} if own is None else {"classifier_pooling": own}
    checkpoint = make_checkpoint(SEQUENCE, id2label={0: "negative", 1: "positive"}, **keys)
    before, after, messages = continue_training(
        tmp_path,
        checkpoint,
        "sequence-classification",
        labeled_rows(["negative", "positive"]),
        classifier_pooling=given,
    )
    expected = given or own or "cls"
    assert after.config.classifier_pooling == expected
    changed = any("classifier_pooling is not that of" in message for message in messages)
    assert changed == (expected != (own or "cls"))
    same = jax.tree.structure(before.params) == jax.tree.structure(after.params)
    assert same != changed
    old, new = (model.params["classifier"]["out_proj"]["kernel"] for model in (before, after))
    assert np.array_equal(old, new) != changed


@pytest.mark.filterwarnings("ignore::flax_bigbird.checkpoint.CheckpointWarning")
@pytest.mark.parametrize("given", [None, "cls", "mean"])
def test_a_new_head_reads_the_mean_by_default(tmp_path, make_checkpoint, given):
    checkpoint = make_checkpoint("FlaxBigBirdForMaskedLM")
    rows = labeled_rows(["b", "a"])
    _, after, _ = continue_training(
        tmp_path, checkpoint, "sequence-classification", rows, classifier_pooling=given
    )
    assert after.config.classifier_pooling == (given or "mean")
    assert ("dense" in after.params["classifier"]) == (given == "cls")


def test_the_order_of_tags_is_kept(tmp_path, make_checkpoint):
    names = ["O", "I-PER", "B-PER"]
    checkpoint = make_checkpoint(TOKEN, id2label=dict(enumerate(names)))
    rows = [{"tokens": ["the", "cow", "ship"], "tags": ["O", "B-PER", "I-PER"]}] * 4
    before, after, messages = continue_training(tmp_path, checkpoint, "token-classification", rows)
    assert list(after.config.id2label.values()) == names
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    assert any(f"keep the order of {checkpoint}: O, I-PER, B-PER." in text for text in messages)


def test_other_tags_get_a_new_output_layer(tmp_path, make_checkpoint):
    checkpoint = make_checkpoint(TOKEN, id2label={0: "O", 1: "B-PER", 2: "I-PER"})
    rows = [{"tokens": ["the", "cow", "ship"], "tags": ["O", "B-LOC", "I-LOC"]}] * 4
    before, after, messages = continue_training(tmp_path, checkpoint, "token-classification", rows)
    assert set(after.config.label2id) == {"O", "B-LOC", "I-LOC"}
    old, new = (model.params["classifier"]["kernel"] for model in (before, after))
    assert not np.array_equal(old, new)
    assert any("initialized anew" in message for message in messages)


@pytest.mark.filterwarnings("ignore::flax_bigbird.checkpoint.CheckpointWarning")
def test_a_checkpoint_of_another_head_gets_a_head_for_the_data(tmp_path, make_checkpoint):
    checkpoint = make_checkpoint("FlaxBigBirdForMaskedLM")
    _, after, messages = continue_training(
        tmp_path, checkpoint, "sequence-classification", labeled_rows(["b", "a"])
    )
    assert after.config.id2label == {0: "a", 1: "b"}
    assert not any("output layer" in message for message in messages)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["label2id"] == {
        "a": 0,
        "b": 1,
    }
