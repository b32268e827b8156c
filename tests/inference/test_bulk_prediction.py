"""Prediction for files: in order, resumed after interruptions, and checked before any work."""

import datetime
import decimal
import functools
import io
import os
import shutil
import time
from pathlib import Path

import pyarrow.parquet
import pytest
from python_processes import PythonProcess, run_python
from tiny_checkpoints import read_jsonl, write_jsonl

from flax_bigbird.inference import (
    DataError,
    OptionError,
    PredictionError,
    PredictionInterrupted,
    evaluate,
    load_predictor,
    partial_output,
    predict_files,
)
from flax_bigbird.inference.jobs import job_fingerprint
from flax_bigbird.inference.parquet import jsonl_to_parquet


def test_files_are_answered_in_order(classify, rows, tmp_path, small_chunks):
    target = tmp_path / "out.jsonl"
    progress = []
    count = predict_files(classify, [rows], target, keep=["id"], on_progress=progress.append)
    answers, texts = read_jsonl(target), read_jsonl(rows)
    assert count == len(answers) == 10
    assert progress == [3, 6, 9, 10]
    assert [row["id"] for row in answers] == [row["id"] for row in texts]
    for answer, row in zip(answers, texts, strict=True):
        assert answer["scores"] == pytest.approx(classify(row)["scores"], abs=1e-5)
    assert not (tmp_path / "out.jsonl.part").exists()


def test_a_resumed_prediction_has_the_bytes_of_an_uninterrupted_one(
    classify, rows, tmp_path, small_chunks
):
    """Interrupted after a chunk, with half a line of the next chunk written."""
    predict_files(classify, [rows], tmp_path / "uninterrupted.jsonl")
    target = tmp_path / "out.jsonl"
    with pytest.raises(PredictionInterrupted, match="stopped after 3 rows"):
        predict_files(classify, [rows], target, should_stop=lambda: True)
    assert not target.exists()
    with (tmp_path / "out.jsonl.part" / "rows.jsonl").open("ab") as stream:
        stream.write(b'{"label": "mead' + b"." * 100_000)  # longer than all that is to come
    starts = []
    predict_files(classify, [rows], target, on_start=lambda *counts: starts.append(counts))
    assert starts == [(3, 10)]
    assert target.read_bytes() == (tmp_path / "uninterrupted.jsonl").read_bytes()


@pytest.mark.slow
def test_a_killed_prediction_is_resumed(classifier, classify, rows, tmp_path, small_chunks):
    """Killed as soon as the unfinished output has more bytes than each of several sizes."""
    worker = [Path(__file__).with_name("predict_worker.py"), classifier, rows]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    predict_files(classify, [rows], tmp_path / "uninterrupted.jsonl")
    target = tmp_path / "out.jsonl"
    lines = tmp_path / "out.jsonl.part" / "rows.jsonl"
    for size in (0, 1, 500):
        process = PythonProcess(*worker, str(target), environment=environment)
        while process.poll() is None:
            if lines.exists() and lines.stat().st_size > size:
                process.kill()
                break
            time.sleep(0.001)
        process.communicate()
    if not target.exists():
        run_python(*worker, str(target), environment=environment)
    assert target.read_bytes() == (tmp_path / "uninterrupted.jsonl").read_bytes()


def test_parquet_files(classify, rows, tmp_path):
    import pyarrow.parquet

    # The first row group has only empty values in a column.
    texts = [row | {"score": None if n < 9 else 1.5} for n, row in enumerate(read_jsonl(rows))]
    source = tmp_path / "in.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(texts), source)
    target = tmp_path / "out.parquet"
    predict_files(classify, [str(source)], target, keep=["id", "score"])
    answers = pyarrow.parquet.read_table(target).to_pylist()
    assert [row["id"] for row in answers] == [row["id"] for row in texts]
    assert [row["score"] for row in answers] == [row["score"] for row in texts]
    assert all(row["predicted_score"] > 0 for row in answers)


def test_csv_and_text_files(classify, tmp_path):
    (tmp_path / "in.csv").write_text('text,n\n"the cow, the ship",1\nnoon,2\n')
    predict_files(classify, [str(tmp_path / "in.csv")], tmp_path / "a.jsonl")
    assert len(read_jsonl(tmp_path / "a.jsonl")) == 2
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in "ba":
        (folder / f"{name}.txt").write_text("the cow\n\ngrazes")
    predict_files(classify, [str(folder)], tmp_path / "b.jsonl", keep=["file"])
    assert [row["file"] for row in read_jsonl(tmp_path / "b.jsonl")] == ["a.txt", "b.txt"]


@pytest.mark.parametrize("name", ["in.jsonl", "link.jsonl"])
def test_the_output_cannot_replace_an_input(classify, rows, tmp_path, name):
    content = Path(rows).read_bytes()
    (tmp_path / "link.jsonl").symlink_to(rows)
    with pytest.raises(OptionError, match=rf"not be a file that is read; got .*{name}, which is"):
        predict_files(classify, [rows], tmp_path / name, overwrite=True)
    assert Path(rows).read_bytes() == content
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "out.csv"}, "output must end in .jsonl or .parquet; got 'out.csv'"),
        ({"output": "none/out.jsonl"}, "output must be in a directory that exists"),
        ({"output": "in.jsonl"}, "output must be new; .*in.jsonl exists"),
        ({"keep": ["name"]}, "keep must name columns of the input; got 'name': there are id, text"),
        ({"inputs": ["in.docx"]}, "data files must exist; .*in.docx does not"),
        ({"lines": '{"text": "a"}\n{"text": \n'}, "in.jsonl, line 2 is not"),
    ],
)
def test_invalid_calls_write_nothing(classify, rows, tmp_path, change, message):
    if "lines" in change:
        Path(rows).write_text(change["lines"])
    before = sorted(tmp_path.rglob("*"))
    inputs = [str(tmp_path / name) for name in change.get("inputs", ["in.jsonl"])]
    target = tmp_path / change.get("output", "out.jsonl")
    with pytest.raises((OptionError, DataError), match=message):
        predict_files(classify, inputs, target, keep=change.get("keep", ()))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_is_no_output(classify, rows, tmp_path, overwrite):
    (tmp_path / "out.jsonl").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OptionError, match=r"output must be a file; .* is a directory: choose"):
        predict_files(classify, [rows], tmp_path / "out.jsonl", overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_row_without_the_column_is_named(classify, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": "a"}, {"body": "b"}])
    message = r"in\.jsonl, line 2: column 'text' must hold a text; got None; there are body"
    with pytest.raises(DataError, match=message):
        predict_files(classify, [source], tmp_path / "out.jsonl")


def test_rewritten_input_does_not_resume_a_prediction(classify, rows, tmp_path, small_chunks):
    """Although the file has the same size and the same time."""
    target = tmp_path / "out.jsonl"
    with pytest.raises(PredictionInterrupted):
        predict_files(classify, [rows], target, should_stop=lambda: True)
    before = os.stat(rows)
    Path(rows).write_bytes(Path(rows).read_bytes().swapcase().replace(b'"TEXT"', b'"text"'))
    os.utime(rows, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(OptionError, match=r"only be resumed with what .* has other inputs"):
        predict_files(classify, [rows], target)


def test_values_of_kept_columns(classify, tmp_path):
    """Dates and decimals are written as texts, and NaN as null."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(
        {
            "text": ["a", "b"],
            "day": [datetime.date(2020, 1, 2), None],
            "time": [datetime.datetime(2020, 1, 2, 3), None],
            "price": [decimal.Decimal("1.50"), None],
            "x": [1.5, float("nan")],
            "data": [b"\xff", None],
        }
    )
    source = tmp_path / "in.parquet"
    pyarrow.parquet.write_table(table, source)
    names = ["day", "time", "price", "x"]
    predict_files(classify, [source], tmp_path / "out.jsonl", keep=names)
    first, second = read_jsonl(tmp_path / "out.jsonl")
    assert [first[n] for n in names] == ["2020-01-02", "2020-01-02T03:00:00", "1.50", 1.5]
    assert [second[n] for n in names] == [None] * 4
    with pytest.raises(DataError, match=r"in\.parquet, row 1 holds bytes in column 'data'"):
        predict_files(classify, [source], tmp_path / "b.jsonl", keep=["data"])


@pytest.mark.parametrize("values", [[1, "a"], [2**70], [1] * 5000 + ["a"]])
def test_kept_values_that_a_parquet_file_cannot_hold(tmp_path, values):
    source = write_jsonl(tmp_path / "rows.jsonl", [{"id": value} for value in values])
    message = f"column 'id' must hold .*row {len(values)} of the output holds .*write a .jsonl file"
    with pytest.raises(DataError, match=message):
        jsonl_to_parquet(Path(source), tmp_path / "rows.parquet")


def nested(depth):
    """Returns a number in lists that are nested in each other."""
    return functools.reduce(lambda inner, _: [inner], range(depth), 1)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            functools.reduce(lambda inner, _: [inner], range(900), 1),
            "nested at most 32 deep; those",
        ),
        ({"a": [{"\ud800": 1}]}, r"lone surrogate \\ud800 at character 1 in column 'v'"),
    ],
    ids=["deep", "surrogate"],
)
def test_kept_values_that_cannot_be_written(classify, tmp_path, suffix, value, message):
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": "a", "v": value}])
    with pytest.raises(DataError, match=message):
        predict_files(classify, [source], tmp_path / f"out.{suffix}", keep=["v"])


def test_kept_values_may_be_nested(classify, tmp_path):
    value = nested(32)
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": "a", "v": value}])
    predict_files(classify, [source], tmp_path / "out.parquet", keep=["v"])
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet")["v"].to_pylist() == [value]


@pytest.mark.parametrize("content", [b"PAR1", b"no parquet", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_damaged_parquet_file_is_named(classify, tmp_path, content):
    source = tmp_path / "in.parquet"
    source.write_bytes(content)
    for keep in ([], ["id"]):
        with pytest.raises(DataError, match=r"readable as parquet; .*in\.parquet is not"):
            predict_files(classify, [source], tmp_path / "out.jsonl", keep=keep)


def test_answers_that_parquet_cannot_hold_stay(classify, tmp_path):
    rows = [{"text": "a", "v": 1}, {"text": "b", "v": "x"}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    with pytest.raises(DataError, match=r"answers are in .*out\.parquet\.part/rows\.jsonl\)"):
        predict_files(classify, [source], tmp_path / "out.parquet", keep=["v"])
    assert [row["v"] for row in read_jsonl(tmp_path / "out.parquet.part" / "rows.jsonl")] == [
        1,
        "x",
    ]


@pytest.mark.parametrize("rows_done", [3, 10])
def test_a_partial_output_that_is_removed_is_named(
    classify, rows, tmp_path, small_chunks, rows_done
):
    target = tmp_path / "out.jsonl"

    def remove(done):
        if done == rows_done:
            shutil.rmtree(tmp_path / "out.jsonl.part")

    with pytest.raises(PredictionError, match=r"must stay in .*out\.jsonl\.part .*: run the same"):
        predict_files(classify, [rows], target, on_progress=remove)
    assert not target.exists()
    predict_files(classify, [rows], target)
    assert len(read_jsonl(target)) == 10


def test_very_large_batches_are_not_larger_than_the_rows(make_checkpoint, classify, tmp_path):
    name = make_checkpoint("FlaxBigBirdForSequenceClassification")
    large = load_predictor(name, tokens_per_batch=2**24)
    texts = ["the cow", "a ship leaves the harbor"]
    for answer, expected in zip(large(texts), classify(texts), strict=True):
        assert answer["label"] == expected["label"]
    labels = [answer["label"] for answer in large(texts)]
    labeled = [{"text": t, "label": label} for t, label in zip(texts, labels, strict=True)]
    assert evaluate(name, labeled, tokens_per_batch=2**24)["metrics"]["accuracy"] == 1.0
    with pytest.raises(OptionError, match="between 8 and 16,777,216; got 1,000,000,000,000"):
        load_predictor(name, tokens_per_batch=10**12)


def test_standard_input(classify, tmp_path, monkeypatch):
    def predict(content, target):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        predict_files(classify, ["-"], target)

    predict(b'{"text": "the cow"}\n', tmp_path / "a.jsonl")
    predict(b"text;n\nthe cow;1\n", tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    with pytest.raises(DataError, match="standard input, line 2: column 'text' must hold a text"):
        predict(b'{"text": "a"}\n{"text": null}\n', tmp_path / "c.jsonl")


def test_another_job_does_not_resume_a_prediction(classify, rows, tmp_path, small_chunks):
    target = tmp_path / "out.jsonl"
    with pytest.raises(PredictionInterrupted):
        predict_files(classify, [rows], target, should_stop=lambda: True)
    with pytest.raises(OptionError, match=r"only be resumed with what .* has other keep"):
        predict_files(classify, [rows], target, keep=["id"])
    predict_files(classify, [rows], target, keep=["id"], overwrite=True)
    assert len(read_jsonl(target)) == 10


@pytest.mark.parametrize("name", ["config.json", "spiece.model", "pytorch_model.bin"])
def test_a_model_that_has_changed_does_not_resume_a_prediction(classifier, tmp_path, name):
    folder = shutil.copytree(classifier, tmp_path / "model")
    (folder / name).touch()
    task = load_predictor(folder).task
    before = job_fingerprint(task, str(folder), "float32")
    (folder / "report.json").write_text("{}")  # which no answer depends on
    assert job_fingerprint(task, str(folder), "float32") == before
    with (folder / name).open("a") as file:
        file.write(" ")
    assert job_fingerprint(task, str(folder), "float32") != before


def test_two_predictions_with_one_output(classify, rows, tmp_path, small_chunks):
    target = tmp_path / "out.jsonl"
    errors = []

    def start_another(rows_done):
        for overwrite in (False, True):
            with pytest.raises(OptionError) as error:
                predict_files(classify, [rows], target, overwrite=overwrite)
            errors.append(str(error.value))

    predict_files(classify, [rows], target, on_progress=start_another)
    message = f"out.jsonl is written by process {os.getpid()} on "
    assert errors
    assert all(message in error for error in errors), errors
    assert len(read_jsonl(target)) == 10
    assert not target.with_name("out.jsonl.part").exists()


def test_what_a_killed_process_left_of_a_finished_prediction_is_removed(
    classify, rows, tmp_path, monkeypatch
):
    """It was killed after it had moved the answers to the output."""
    target = tmp_path / "out.jsonl"
    monkeypatch.setattr(partial_output.shutil, "rmtree", lambda *args, **kwargs: None)
    predict_files(classify, [rows], target)
    monkeypatch.undo()
    assert target.with_name("out.jsonl.part").exists()
    with pytest.raises(OptionError, match="output must be new"):
        predict_files(classify, [rows], target)
    assert not target.with_name("out.jsonl.part").exists()
    assert len(read_jsonl(target)) == 10


@pytest.mark.parametrize("name", ["job.json", "done.json", "rows.jsonl"])
@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000])
def test_a_damaged_partial_output_is_named(classify, rows, tmp_path, small_chunks, name, content):
    target = tmp_path / "out.jsonl"
    with pytest.raises(PredictionInterrupted):
        predict_files(classify, [rows], target, should_stop=lambda: True)
    (tmp_path / "out.jsonl.part" / name).write_text("" if name == "rows.jsonl" else content)
    with pytest.raises(OptionError, match=r"can only be resumed if .*out\.jsonl\.part"):
        predict_files(classify, [rows], target)
    predict_files(classify, [rows], target, overwrite=True)
    assert len(read_jsonl(target)) == 10
