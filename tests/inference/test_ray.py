"""Prediction and embedding on a real Ray cluster of two workers: equal to those in one process."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import read_jsonl, sentence, write_jsonl

import flax_bigbird.inference as local
from flax_bigbird.inference import DataError, OptionError, PredictionError, PredictionInterrupted

pytest.importorskip("ray", reason="needs the extra ray")

import ray

from flax_bigbird.inference.ray import (
    RayEmbedder,
    RayPredictor,
    cluster,
    embed_files,
    parts,
    predict_dataset,
    predict_files,
    slices,
)
from flax_bigbird.tasks.loading import check_model

NUM_ROWS = 40


@pytest.fixture(scope="module")
def two_workers():
    """Starts a cluster on this machine, which the tests of this module share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 2}')
        with cluster.connect():
            yield


@pytest.fixture
def source(tmp_path) -> str:
    texts = [{"id": f"n{n}", "text": sentence(n, 1 + 7 * (n % 5))} for n in range(NUM_ROWS)]
    return write_jsonl(tmp_path / "in.jsonl", texts)


@pytest.fixture
def small_slices(monkeypatch) -> None:
    monkeypatch.setattr(slices, "MAX_ROWS_PER_SLICE", 3)


def worker_processes() -> list[int]:
    """Returns the ids of the processes of this test that hold models."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True)
    lines = [line.split(None, 2) for line in listing.stdout.splitlines()[1:]]
    own = {os.getpid()}
    for _ in range(4):  # raylets start workers, and this process starts raylets
        own |= {int(pid) for pid, parent, _ in lines if int(parent) in own}
    return [int(pid) for pid, _, args in lines if int(pid) in own and "MapWorker" in args]


@pytest.mark.slow
def test_rows_are_answered_once_if_a_job_is_stopped_and_its_workers_are_killed(
    two_workers, classifier, classify, source, tmp_path, small_slices
):
    target = tmp_path / "answers"
    with pytest.raises(PredictionInterrupted) as stopped:
        predict_files(
            classifier, [source], target, keep=["id"], concurrency=2, should_stop=lambda: True
        )
    assert 0 < stopped.value.rows < NUM_ROWS
    assert not target.exists()
    starts, killed = [], []

    def kill_workers(rows_done: int) -> None:
        if not killed and rows_done < NUM_ROWS - 6:  # two slices, one for each worker
            killed.extend(worker_processes())
            for process in killed:
                os.kill(process, signal.SIGKILL)

    count = predict_files(
        classifier,
        [source],
        target,
        keep=["id"],
        concurrency=2,
        on_start=lambda done, total: starts.append((done, total)),
        on_progress=kill_workers,
    )
    assert count == NUM_ROWS
    assert starts[0][0] >= stopped.value.rows
    assert starts[0][1] == NUM_ROWS
    assert len(killed) == 2
    assert not (tmp_path / "answers.part").exists()
    table = pyarrow.parquet.read_table(target)
    local.predict_files(classify, [source], tmp_path / "local.parquet", keep=["id"])
    expected = pyarrow.parquet.read_table(tmp_path / "local.parquet")
    assert table.drop(["score", "scores"]).equals(expected.drop(["score", "scores"]))
    np.testing.assert_allclose(table["score"], expected["score"], atol=1e-5)


def test_chunks_of_files_at_urls_are_embedded(two_workers, make_checkpoint, source, tmp_path):
    model = make_checkpoint("FlaxBigBirdModel")
    folder = tmp_path / "documents"
    folder.mkdir()
    rows = read_jsonl(source)
    for name, part in {"a": rows[:7], "b": rows[7:]}.items():
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), folder / f"{name}.parquet")
    url = f"file://{tmp_path}"
    options: dict[str, Any] = {"chunk_tokens": 8, "tokens_per_batch": 256}
    embed_files(model, [f"{url}/documents"], f"{url}/vectors", keep=["id"], **options)
    assert (tmp_path / "vectors" / parts.SUCCESS).exists()
    table = pyarrow.parquet.read_table(tmp_path / "vectors")
    embedder = local.load_embedder(model, **options)
    local.embed_files(embedder, [source], tmp_path / "local.parquet", keep=["id"])
    expected = pyarrow.parquet.read_table(tmp_path / "local.parquet")
    assert table.schema.equals(expected.schema)
    assert table.drop(["vector"]).equals(expected.drop(["vector"]))
    vectors, local_vectors = (np.stack(t["vector"].to_pylist()) for t in (table, expected))
    np.testing.assert_allclose(vectors, local_vectors, atol=1e-5)
    with pytest.raises(OptionError, match=r"output must be new; file:.*vectors has 3 files"):
        embed_files(model, [f"{url}/documents"], f"{url}/vectors", **options)


def test_a_bad_row_is_named_without_the_traces_of_ray(
    two_workers, classifier, source, tmp_path, monkeypatch
):
    write_jsonl(tmp_path / "bad.jsonl", [*read_jsonl(source), {"body": "b"}])
    bad = str(tmp_path / "bad.jsonl")
    with pytest.raises(DataError, match=r"bad.jsonl, line 41: column 'text' must hold") as error:
        predict_files(classifier, [source, bad], tmp_path / "out", concurrency=1)
    assert "ray::" not in str(error.value)
    assert not (tmp_path / "out").exists()
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    monkeypatch.setattr(slices, "MAX_BYTES_COUNTED_HERE", 0)
    with pytest.raises(DataError, match=r"bad.jsonl, line 2 is not"):
        predict_files(classifier, [source, bad], tmp_path / "other")
    assert not (tmp_path / "other.part").exists()


def test_datasets_of_ray_are_answered_in_order(two_workers, classifier, classify, source):
    rows = read_jsonl(source)
    dataset = ray.data.from_items(rows, override_num_blocks=5)
    answers = predict_dataset(
        dataset, classifier, concurrency=2, batch_size=8, preserve_order=True
    ).take_all()
    assert [answer["id"] for answer in answers] == [row["id"] for row in rows]
    assert [answer["label"] for answer in answers] == [a["label"] for a in classify(rows)]
    with pytest.raises(OptionError, match="must have all parameters of FlaxBigBirdForTokenClass"):
        predict_dataset(dataset, classifier, task="token-classification")


def test_clusters_are_divided_among_workers(two_workers):
    assert cluster.Workers.of_cluster(2) == cluster.Workers(2, 0, 0.9, 1)
    assert cluster.Workers.of_cluster() == cluster.Workers(1, 0, 1.9, 2)
    with pytest.raises(OptionError, match=r"concurrency must lie in 1..2, .*CPUs .*; got 3"):
        cluster.Workers.of_cluster(3)


@pytest.mark.parametrize("batch_format", ["pyarrow", "pandas", "numpy"])
def test_workers_take_batches_of_all_formats(classifier, classify, source, batch_format):
    rows = read_jsonl(source)[:4]
    table = pyarrow.Table.from_pylist(rows)
    batch = {
        "pyarrow": table,
        "pandas": table.to_pandas(),
        "numpy": {name: np.array(table[name]) for name in table.column_names},
    }[batch_format]
    answers = RayPredictor(classifier)(batch).to_pylist()
    assert answers == [row | answer for row, answer in zip(rows, classify(rows), strict=True)]


@pytest.mark.parametrize(
    ("model_class", "row"),
    [
        ("FlaxBigBirdForTokenClassification", {"text": "the cow grazes"}),
        (
            "FlaxBigBirdForMultipleChoice",
            {"text": "in a", "question": "where", "choices": ["cow", "ship"]},
        ),
        ("FlaxBigBirdForMaskedLM", {"text": "the cow [MASK] in a meadow"}),
    ],
)
def test_workers_answer_for_every_task(make_checkpoint, predictor, model_class, row):
    answer = predictor(model_class)(row)
    (result,) = RayPredictor(make_checkpoint(model_class), keep=[])([row]).to_pylist()
    expected = pyarrow.Table.from_pylist([answer]).to_pylist()
    assert [result] == expected


def test_workers_return_vectors(make_checkpoint, source):
    model = make_checkpoint("FlaxBigBirdModel")
    rows = read_jsonl(source)[:3]
    table = RayEmbedder(model, keep=["id"])(pyarrow.Table.from_pylist(rows))
    assert table.column_names == ["document", "id", "vector"]
    expected = local.load_embedder(model).encode([row["text"] for row in rows])
    np.testing.assert_allclose(np.stack(table["vector"].to_pylist()), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"output": "out.jsonl"},
            "the output of the engine ray is a directory .*; got 'out.jsonl'",
        ),
        ({"output": "none/out"}, "output must be in a directory that exists"),
        ({"output": "in.jsonl"}, "is a directory of Parquet files"),
        ({"output": "."}, "output must be new"),
        ({"keep": ["name"]}, "keep must name columns of the input; got 'name': there are id, text"),
        ({"inputs": ["in.docx"]}, "data files must exist; .*in.docx does not"),
        ({"inputs": ["-"]}, "the engine ray reads files; got -"),
        ({"inputs": ["nowhere://bucket/in.jsonl"]}, "a URL must be that of a file system"),
        ({"options": {"text_column": "body"}}, "line 1: column 'body' must hold a text"),
        ({"options": {"max_length": 65}}, "max_length must be at most .*64; got 65"),
        ({"inputs": ["in.jsonl", "broken.jsonl"]}, r"broken.jsonl, line 2 is not"),
        ({"inputs": ["in.jsonl", "other.jsonl"]}, r"other.jsonl, line 1: column 'text' must hold"),
        (
            {"inputs": ["in.jsonl", "file://{}/other.jsonl"]},
            r"file:\S*, line 1: column 'text' must",
        ),
        ({"inputs": ["in.jsonl", "file://{}/broken1.jsonl"]}, r"file:\S*broken1.jsonl, line 1 is"),
        ({"inputs": ["in.jsonl", "file://{}/empty.jsonl"]}, "data files must hold data; file:"),
        ({"inputs": ["file://{}/tables"]}, r"file:\S*tables/b.parquet has no 'text', which file:"),
        ({"inputs": ["file://{}/damaged"]}, r"readable as parquet; file:\S*damaged/b.parquet is"),
        ({"output": "file://{}"}, "output must be new; file:.* files: choose another URL"),
        ({"output": "nowhere://bucket/out"}, "a URL must be that of a file system"),
        ({"model": "truncated"}, "model must be a BigBird checkpoint; .* is truncated"),
        ({"model": "headless"}, "must have all parameters of FlaxBigBirdForSequenceClassification"),
        ({"options": {"mesh": "data=2"}}, "got mesh='data=2' for the engine ray, each of whose"),
    ],
)
def test_invalid_calls_start_no_cluster(classifier, source, tmp_path, monkeypatch, change, message):
    for module, name in ((cluster, "connect"), (jax, "devices"), (jax, "default_backend")):
        monkeypatch.setattr(module, name, None)
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    write_jsonl(tmp_path / "other.jsonl", [{"body": "a"}])
    (tmp_path / "broken1.jsonl").write_text('{"text": ')
    (tmp_path / "empty.jsonl").touch()
    for folder in ("tables", "damaged"):
        (tmp_path / folder).mkdir()
        for name, column in {"a": "text", "b": "body"}.items():
            table = pyarrow.table({column: ["a"]})
            pyarrow.parquet.write_table(table, tmp_path / folder / f"{name}.parquet")
    (tmp_path / "damaged" / "b.parquet").write_bytes(b"PAR1 and no end")
    model = classifier
    if "model" in change:
        model = str(shutil.copytree(classifier, tmp_path / change["model"]))
        weights = Path(model, "model.safetensors")
        if change["model"] == "truncated":
            weights.write_bytes(weights.read_bytes()[:-9])
        else:
            tensors = load_file(weights)
            save_file({name: tensors[name] for name in tensors if "class" not in name}, weights)
    inputs = change.get("inputs", ["in.jsonl"])
    inputs = [name if ":" in name or name == "-" else str(tmp_path / name) for name in inputs]
    inputs = [name.format(tmp_path) for name in inputs]
    output = change.get("output", "out").format(tmp_path)
    output = output if "://" in output else tmp_path / output
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((OptionError, DataError), match=message):
        predict_files(
            model, inputs, output, keep=change.get("keep", ()), **change.get("options", {})
        )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("model_class", "fields"),
    [
        ("FlaxBigBirdModel", {"add_pooling_layer": False}),
        ("FlaxBigBirdForCausalLM", {}),
        ("FlaxBigBirdForPreTraining", {}),
        ("FlaxBigBirdForMultipleChoice", {}),
    ],
)
def test_checkpoints_are_checked_without_a_device(
    make_checkpoint, monkeypatch, model_class, fields
):
    changes = {"is_decoder": True} if "CausalLM" in model_class else {}
    model = make_checkpoint(model_class, **changes)
    monkeypatch.setattr(jax, "default_backend", None)
    check_model(model, model_class, **fields)
    with pytest.raises(OptionError, match="must have all parameters of FlaxBigBirdForQuestion"):
        check_model(model, "FlaxBigBirdForQuestionAnswering")


def test_parts_have_one_schema_and_every_row(tmp_path):
    written = parts.LocalParts(tmp_path / "out")
    written.directory.mkdir(parents=True)
    written.write(pyarrow.table({"id": [1, 2], "score": [None, None]}), 0, 2)
    written.write(pyarrow.table({"id": [3.5], "score": [0.5]}), 3, 4)
    with pytest.raises(PredictionError, match="every one of the 4 rows must be answered once"):
        written.finish(4)
    written.write(pyarrow.table({"id": [3]}), 2, 3)
    written.finish(4)
    table = pyarrow.parquet.read_table(written.directory)
    assert table.to_pydict() == {"id": [1, 2, 3, 3.5], "score": [None, None, None, 0.5]}
    written.write(pyarrow.table({"id": ["x"]}), 3, 4)
    with pytest.raises(DataError, match="values of a column must have one type"):
        written.finish(4)


def test_clusters_that_are_not_there_are_reported(monkeypatch):
    def fail(*args, **options):
        raise ConnectionError("no GCS\nmore")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(cluster, "_check_reachable", lambda address: None)
    with (
        pytest.raises(OptionError, match=r"running Ray cluster; got '10.0.0.1:6379' \(no GCS\)"),
        cluster.connect("10.0.0.1:6379"),
    ):
        raise AssertionError
