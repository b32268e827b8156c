"""Training on whole documents: the loss is that of documents, not that of single windows."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import (
    HARBOR,
    MEADOW,
    RecordingCallback,
    tiny_run_options,
    write_jsonl,
)

from flax_bigbird.tasks.evaluation import assign_example_buckets
from flax_bigbird.tasks.sequence_encoding import SingleWindows, group_windows
from flax_bigbird.train import train
from flax_bigbird.train.data_setup import SplitData
from flax_bigbird.train.run_directory import open_run_directory
from flax_bigbird.train.setup import prepare_run

SEED = 0


def write_faint_documents(path, count=48, num_words=75):
    """Writes documents whose words only slightly favor one of two topics.

    A window says little about its document, and the whole document says enough.
    """
    generator = random.Random(SEED)
    words = MEADOW.split(), HARBOR.split()
    rows = []
    for index in range(count):
        topic = index % 2
        chosen = (
            words[topic if generator.random() < 0.65 else 1 - topic] for _ in range(num_words)
        )
        text = " ".join(generator.choice(topic_words) for topic_words in chosen)
        rows.append({"text": text, "label": ("meadow", "harbor")[topic]})
    return write_jsonl(path, rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_faint_documents(tmp_path_factory.mktemp("faint") / "data.jsonl")


def options_of(folder, data, **changes):
    defaults = {
        "train_files": [data],
        "whole_documents": True,
        "max_length": 16,
        "tokens_per_batch": 16 * 64,
        "linear_probing": True,
    }
    if "validation_files" not in changes:
        defaults["validation_fraction"] = 0
    return tiny_run_options(folder, **defaults | changes)


def test_groups_are_spread_over_the_document():
    windows = [[index, index] for index in range(7)]
    assert group_windows(windows, 3) == [[0, 0, 3, 3, 6, 6], [1, 1, 4, 4], [2, 2, 5, 5]]
    assert group_windows(windows, 8) == [[i for i in range(7) for _ in range(2)]]
    assert group_windows(windows, 1) == windows
    assert group_windows([[5]], 3) == [[5]]


@pytest.mark.parametrize(
    ("pooling", "tokens_per_batch", "expected"),
    [("mean", 1024, 8), ("mean", 200, 6), ("mean", 32, 1), ("cls", 1024, 1)],
)
def test_a_batch_has_several_documents(tmp_path, data, pooling, tokens_per_batch, expected):
    changes = {"classifier_pooling": pooling, "linear_probing": False}
    options = options_of(tmp_path, data, tokens_per_batch=tokens_per_batch, **changes)
    run = prepare_run(options, open_run_directory(options), RecordingCallback())
    assert isinstance(run.train_data, SplitData)
    encoded = run.train_data.encoded
    assert encoded.max_windows == expected
    assert expected * 8 < run.train_data.lengths.max() <= expected * 16
    windows = SingleWindows(encoded.examples, 16)
    assert (windows.lengths <= 16).all()
    assert windows.lengths.sum() == run.train_data.num_tokens
    lengths, buckets = assign_example_buckets(run.options, encoded)
    for bucket in buckets:
        assert bucket.length * bucket.batch_size <= tokens_per_batch
        assert (lengths[bucket.indices] <= bucket.length).all()
        assert bucket.length <= 16 or bucket.length % 16 == 0


def test_the_loss_is_that_of_the_mean_over_the_windows(tmp_path, data):
    options = options_of(tmp_path, data, linear_probing=False)
    run = prepare_run(options, open_run_directory(options), RecordingCallback())
    assert isinstance(run.train_data, SplitData)
    examples = run.train_data.encoded.examples
    bucket = run.train_data.buckets[-1]
    index = int(bucket.indices[0])
    arrays = run.task.collate(examples[index], bucket.length, np.random.default_rng(SEED))
    batch = {name: jnp.asarray(values)[None] for name, values in arrays.items()}
    loss = run.task.loss(run.model, run.model.params, batch).mean

    ids = examples[index]["input_ids"]
    assert len(ids) > 64
    states = [
        run.model(np.array([ids[i : i + 16]]), output_hidden_states=True).hidden_states[-1][0]
        for i in range(0, len(ids), 16)
    ]
    head = run.model.params["classifier"]["out_proj"]
    logits = np.concatenate(states).mean(0) @ head["kernel"] + head["bias"]
    expected = -jax.nn.log_softmax(logits)[batch["labels"][0]]
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_the_loss_does_not_rise_after_the_probe(tmp_path, data):
    """The first losses of training are near that of the probe, and do not rise."""
    recorded = RecordingCallback()
    options = options_of(
        tmp_path,
        data,
        validation_files=[data],
        tokens_per_batch=16 * 8 * 48,
        max_steps=6,
        eval_steps=6,
        learning_rate=3e-5,
    )
    report = train(options, [recorded])
    losses = [logs["loss"] for _, logs in recorded.logs]
    before, after = (evaluation["loss"] for evaluation in report["evaluations"])
    print("LOSSES", losses, before, after)
    np.testing.assert_allclose(losses[0], before, rtol=0.01)
    assert max(losses[1:]) < 1.2 * losses[0]
    assert after <= before
