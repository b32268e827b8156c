"""Slices of rows on Ray: their sizes, and how workers get and answer them, without a cluster."""

import contextlib
import types
from unittest import mock

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tiny_checkpoints import sentence, write_jsonl

from flax_bigbird.data.errors import OptionError
from flax_bigbird.inference import PredictionError

pytest.importorskip("ray", reason="needs the extra ray")

import ray

from flax_bigbird.inference.ray import (
    RayPredictor,
    cluster,
    job,
    parts,
    predict_files,
    slice_worker,
    slices,
)


@pytest.mark.parametrize(
    ("num_rows", "num_workers", "expected"),
    [(0, 2, 1), (10, 2, 5), (500, 2, 250), (700, 2, 175), (2_000, 2, 250), (100_000, 2, 1021)],
)
def test_every_worker_has_several_slices_of_several_rows(num_rows, num_workers, expected):
    assert slices.rows_per_slice(num_rows, num_workers) == expected


def test_slices_leave_out_rows_that_are_answered(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": str(n)} for n in range(10)])
    inputs = slices.Input([source], "json", None, None)
    batch = {"source": [source], "first": [100], "count": [10]}
    done = [(0, 101), (103, 105), (108, 200)]
    found = slices._read_slices(batch, inputs=inputs, done=done, max_rows=2)
    ranges = [(item["first"][0], slices.pickle.loads(item["rows"][0])) for item in found]
    texts = [(first, [row["text"] for row in rows]) for first, rows in ranges]
    assert texts == [(101, ["1", "2"]), (105, ["5", "6"]), (107, ["7"])]
    assert slices._gaps(done, 0, 101) == []


def local_and_remote(folder):
    """Returns the parts of an output that is named by its path, and by its URL."""
    return [parts.Parts.of(folder), parts.Parts.of(f"file://{folder}")]


@pytest.mark.parametrize("name", ["in.jsonl", "part-1-2.parquet.txt", "older/part-1-2.parquet"])
def test_only_outputs_are_overwritten(tmp_path, name):
    """Everything in the directory would be removed, the input among it."""
    output = tmp_path / "out"
    (output / name).parent.mkdir(parents=True)
    (output / name).write_text("{}")
    (output / parts.part_name(0, 1)).write_text("")
    for written in local_and_remote(output):
        with pytest.raises(OptionError, match=f"holds {name.partition('/')[0]}") as caught:
            written.check_new(overwrite=True)
        assert caught.value.option == "output"
        with pytest.raises(OptionError, match=r"holds"), written.publishing(dict, overwrite=True):
            pass
    assert (output / name).exists()


def test_an_output_is_overwritten_and_nothing_beside_it(tmp_path):
    output, beside = tmp_path / "out", tmp_path / "out.previous"
    for folder in (output, beside):
        folder.mkdir()
        (folder / parts.part_name(0, 1)).write_text("old")
    for written in local_and_remote(output):
        written.check_new(overwrite=True)
        with written.publishing(dict, overwrite=True):
            written.write(pyarrow.table({"a": [1, 2]}), 0, 2)
        assert pyarrow.parquet.read_table(output).to_pylist() == [{"a": 1}, {"a": 2}]
    assert not (tmp_path / "out.part").exists()
    assert (beside / parts.part_name(0, 1)).read_text() == "old"
    assert (output / parts.SUCCESS).exists()
    with pytest.raises(OptionError, match="must be new"):
        parts.Parts.of(output).check_new(overwrite=False)


@pytest.mark.parametrize(("max_bytes", "expected"), [(1000, ["a"]), (17, ["a"]), (14, []), (5, [])])
def test_the_first_row_is_checked_if_the_head_of_a_file_holds_it(
    tmp_path, monkeypatch, max_bytes, expected
):
    write_jsonl(tmp_path / "in.jsonl", [{"text": "a"}, {}, {"text": "c"}])  # 14, 3 and 14 bytes
    inputs = slices.Input([], "json", None, None)
    monkeypatch.setattr(job, "MAX_HEAD_BYTES", max_bytes)
    rows = job._first_row_of_head(inputs, f"file://{tmp_path}/in.jsonl")
    assert [row["text"] for row in rows] == expected


def test_rows_that_kill_workers_end_the_job(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(slice_worker, "MAX_ATTEMPTS", 1)
    written = parts.LocalParts(tmp_path / "out")
    written.partial.directory.mkdir()
    written.start()
    worker = slice_worker.SliceWorker(RayPredictor, written, classifier)
    row = slices.FileRow({"text": "the cow"}, "in.jsonl, line 7")
    batch = pyarrow.table({"first": [6], "rows": [slices.pickle.dumps([row])]})
    assert worker(batch)["rows"] == [1]
    error = slices.pickle.loads(worker(batch)["error"][0])
    assert isinstance(error, PredictionError)
    assert "1 died with the rows from in.jsonl, line 7" in str(error)


def call_on_slices(items, function, **options):
    """Yields what Ray yields for a function or a class, if it gives it one item at a time."""
    assert options["batch_size"] == 1
    if isinstance(function, type):
        arguments = options["fn_constructor_args"]
        function = function(*arguments, **options["fn_constructor_kwargs"])
    for item in items:
        batch = {name: [value] for name, value in item.items()}
        if options.get("batch_format") == "pyarrow":
            batch = pyarrow.table(batch)
        results = function(batch, **options.get("fn_kwargs", {}))
        for columns in [results] if isinstance(results, dict) else results:
            yield {name: value for name, (value,) in columns.items()}


def local_dataset(items, **options):
    """Returns a dataset of Ray Data whose functions this process calls, one after another."""
    del options
    dataset = mock.Mock(spec=ray.data.Dataset, context=types.SimpleNamespace())
    dataset.iter_rows.return_value = items

    def map_batches(function, **options):
        dataset.iter_rows.return_value = call_on_slices(
            dataset.iter_rows.return_value, function, **options
        )
        return dataset

    dataset.map_batches.side_effect = map_batches
    return dataset


def test_a_worker_is_given_one_slice_at_a_time(classifier, tmp_path, monkeypatch):
    """So that a worker that starts early does not take the slices of one that starts later."""
    monkeypatch.setattr(slices, "MAX_ROWS_PER_SLICE", 3)
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": sentence(n, 5)} for n in range(10)])
    datasets: list[mock.Mock] = []

    def from_items(items, **options):
        datasets.append(local_dataset(items, **options))
        return datasets[-1]

    monkeypatch.setattr(ray.data, "from_items", from_items)
    monkeypatch.setattr(cluster, "connect", lambda address: contextlib.nullcontext())
    workers = cluster.Workers(2, 0, 0.9, 1)
    monkeypatch.setattr(cluster.Workers, "of_cluster", lambda concurrency: workers)
    seen: list[int] = []
    target = tmp_path / "answers"
    predict_files(classifier, [source], target, concurrency=2, on_progress=seen.append)
    assert pyarrow.parquet.read_table(target).num_rows == 10
    assert np.diff([0, *seen]).max() == 3
    (dataset,) = datasets
    assert dataset.context.target_max_block_size == 1  # Ray gives a worker whole blocks
    strategy = dataset.map_batches.call_args.kwargs["compute"]
    assert (strategy.min_size, strategy.max_size) == (2, 2)
    assert strategy.max_tasks_in_flight_per_actor == 1
