"""Runs whose data are streamed: killed and resumed with the same bits, and what they refuse."""

import json
import signal

import pytest
from test_resuming import run_worker, run_worker_to_the_end
from tiny_runs import (
    TINY_MODEL,
    RecordingCallback,
    model_bytes,
    tiny_run_options,
    write_jsonl,
    write_labeled_texts,
)

from flax_bigbird.inference import DataError, OptionError
from flax_bigbird.train import train

STREAMING = {"streaming": True, "shuffle_buffer_size": 8, "eval_steps": None}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labeled_texts(tmp_path_factory.mktemp("data") / "a.jsonl", 40)


@pytest.mark.slow
def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path, data):
    """SIGKILL between checkpoints, with dropout; two processes tokenize after it."""
    changes = STREAMING | {"config_overrides": TINY_MODEL | {"hidden_dropout_prob": 0.1}}
    run_worker_to_the_end(tmp_path / "whole", "masked-lm", data, changes)
    status, stderr = run_worker(tmp_path / "killed", "masked-lm", data, changes, 3)
    assert status == -signal.SIGKILL, stderr
    changes["preprocessing_num_workers"] = 2
    status, stderr = run_worker(tmp_path / "killed", "masked-lm", data, changes)
    assert (status, stderr) == (0, "")  # the processes that tokenize import transformers
    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    assert model_bytes(whole) == model_bytes(killed)


def test_causal_models_are_trained_and_validated(tmp_path, data):
    changes = STREAMING | {"train_files": [data], "validation_files": [data], "eval_steps": 3}
    callback = RecordingCallback()
    report = train(tiny_run_options(tmp_path, "causal-lm", **changes), [callback])
    assert "Training on a stream of 1 shard, for 6 steps." in callback.messages
    assert report["training"] == {"shards": 1}
    assert report["metrics"]["loss"] > 0
    assert "a stream for training" in (tmp_path / "run" / "README.md").read_text()
    saved = json.loads((tmp_path / "run" / "report.json").read_text())
    assert saved["steps"] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": None}, "streaming needs max_steps, .*; got None: give the number"),
        ({"validation_fraction": 0.2}, "validation_fraction needs all rows at once; got 0.2"),
        ({"packing": True}, "packing needs all rows at once; got True with streaming"),
        ({"eval_steps": 3}, "eval_steps needs validation data"),
        ({"streaming": False}, "shuffle_buffer_size belongs to streaming; got 8 without it"),
    ],
)
def test_options_that_need_all_rows_are_refused(tmp_path, data, changes, message):
    with pytest.raises(OptionError, match=message):
        tiny_run_options(tmp_path, "masked-lm", train_files=[data], **STREAMING | changes)


@pytest.mark.parametrize("vocabulary", ["subwords", "characters"])
def test_a_row_without_text_is_reported_as_such(tmp_path, vocabulary):
    rows = [{"text": "a ship"}, {"text": None}]
    changes = STREAMING | {"train_files": [write_jsonl(tmp_path / "a.jsonl", rows)]}
    options = tiny_run_options(tmp_path, "masked-lm", vocabulary=vocabulary, **changes)
    with pytest.raises(DataError, match=r"^column 'text' of the training data must hold a text"):
        train(options)
