"""Vectors of files: in order, stored compactly, resumed after interruptions and kills."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from python_processes import PythonProcess, run_python
from tiny_checkpoints import read_jsonl, sentence, write_jsonl

from flax_bigbird.inference import (
    DataError,
    OptionError,
    PredictionInterrupted,
    embed_files,
    load_embedder,
)

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def model(make_checkpoint) -> str:
    return make_checkpoint("FlaxBigBirdForMaskedLM")


@pytest.fixture(scope="module")
def embedder(model):
    return load_embedder(model)


@pytest.fixture(scope="module")
def chunk_embedder(model):
    return load_embedder(model, chunk_tokens=6, chunk_overlap=2)


def read_vectors(path: Path, name: str = "vector") -> np.ndarray:
    column = pyarrow.parquet.read_table(path)[name]
    rows = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate(rows or [np.zeros(0)]).reshape(len(column), column.type.list_size)


def test_vectors_of_files_are_those_of_encode(embedder, rows, tmp_path, small_chunks):
    progress = []
    target = tmp_path / "out.parquet"
    count = embed_files(embedder, [rows], target, keep=["id"], on_progress=progress.append)
    assert (count, progress) == (10, [3, 6, 9, 10])
    schema = pyarrow.parquet.read_schema(target)
    assert schema.names == ["document", "id", "vector"]
    assert schema.field("vector").type == pyarrow.list_(pyarrow.float32(), 32)
    table = pyarrow.parquet.read_table(target)
    assert table["document"].to_pylist() == list(range(10))
    assert table["id"].to_pylist() == [f"n{n}" for n in range(10)]
    expected = embedder.encode([row["text"] for row in read_jsonl(rows)])
    np.testing.assert_allclose(read_vectors(target), expected, atol=TOLERANCE)
    embed_files(embedder, [rows], tmp_path / "out.npy")
    vectors = np.load(tmp_path / "out.npy", mmap_mode="r")
    assert (vectors.dtype, vectors.shape) == (np.float32, (10, 32))
    np.testing.assert_array_equal(vectors, read_vectors(target))
    assert not list(tmp_path.glob("*.part"))


def test_chunks_of_files_are_those_of_encode_chunks(embedder, chunk_embedder, rows, tmp_path):
    target = tmp_path / "out.parquet"
    embed_files(chunk_embedder, [rows], target, keep=["text"])
    texts = [row["text"] for row in read_jsonl(rows)]
    chunks = embedder.encode_chunks(texts, chunk_size=6, chunk_overlap=2)
    expected = [
        (document, chunk, start, end, texts[document])
        for document, (_, spans) in enumerate(chunks)
        for chunk, (start, end) in enumerate(spans)
    ]
    columns = pyarrow.parquet.read_table(target).drop_columns("vector").to_pydict()
    assert list(columns) == ["document", "chunk", "start", "end", "text"]
    assert list(zip(*columns.values(), strict=True)) == expected
    vectors = np.concatenate([vectors for vectors, _ in chunks])
    np.testing.assert_allclose(read_vectors(target), vectors, atol=TOLERANCE)


def test_texts_without_tokens_have_no_chunks(chunk_embedder, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": t} for t in ("", "the cow", " \n")])
    embed_files(chunk_embedder, [source], tmp_path / "out.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet")["document"].to_pylist() == [1]
    empty = write_jsonl(tmp_path / "empty.jsonl", [{"text": ""}])
    embed_files(chunk_embedder, [empty], tmp_path / "empty.parquet")
    assert read_vectors(tmp_path / "empty.parquet").shape[0] == 0


def test_names_that_clash_with_kept_columns(chunk_embedder, tmp_path):
    row = {"text": "the cow", "vector": 1, "start": "a"}
    source = write_jsonl(tmp_path / "in.jsonl", [row])
    embed_files(chunk_embedder, [source], tmp_path / "out.parquet", keep=["vector", "start"])
    (answer,) = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert (answer["vector"], answer["start"], answer["predicted_start"]) == (1, "a", 0)
    assert len(answer["predicted_vector"]) == 32


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_a_resumed_embedding_has_the_bytes_of_an_uninterrupted_one(
    embedder, rows, tmp_path, small_chunks, suffix
):
    """Interrupted after a chunk, with a part of the next chunk written."""
    embed_files(embedder, [rows], tmp_path / f"uninterrupted.{suffix}")
    target = tmp_path / f"out.{suffix}"
    with pytest.raises(PredictionInterrupted, match="stopped after 3 rows"):
        embed_files(embedder, [rows], target, should_stop=lambda: True)
    assert not target.exists()
    part = tmp_path / f"out.{suffix}.part"
    header = 0 if suffix == "parquet" else 128
    assert (part / "vectors.f32").stat().st_size == header + 3 * 32 * 4
    with (part / "vectors.f32").open("ab") as stream:
        stream.write(b"." * 100_001)
    starts = []
    embed_files(embedder, [rows], target, on_start=lambda *counts: starts.append(counts))
    assert starts == [(3, 10)]
    assert target.read_bytes() == (tmp_path / f"uninterrupted.{suffix}").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "chunk"), [("npy", 0), ("parquet", 6)])
def test_a_killed_embedding_is_resumed(model, rows, tmp_path, small_chunks, suffix, chunk):
    """Killed as soon as the unfinished output has more bytes than each of several sizes."""
    worker = [Path(__file__).with_name("embed_worker.py"), model, rows]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    embedder = load_embedder(model, chunk_tokens=chunk or None)
    embed_files(embedder, [rows], tmp_path / f"uninterrupted.{suffix}")
    target = tmp_path / f"out.{suffix}"
    vectors = tmp_path / f"out.{suffix}.part" / "vectors.f32"
    for size in (0, 500):
        process = PythonProcess(*worker, str(target), str(chunk), environment=environment)
        while process.poll() is None:
            if vectors.exists() and vectors.stat().st_size > size:
                process.kill()
                break
            time.sleep(0.001)
        process.communicate()
    if not target.exists():
        run_python(*worker, str(target), str(chunk), environment=environment)
    assert target.read_bytes() == (tmp_path / f"uninterrupted.{suffix}").read_bytes()


def test_another_job_does_not_resume_an_embedding(embedder, model, rows, tmp_path, small_chunks):
    target = tmp_path / "out.npy"
    with pytest.raises(PredictionInterrupted):
        embed_files(embedder, [rows], target, should_stop=lambda: True)
    others: list[dict[str, Any]] = [
        {"normalize_embeddings": True},
        {"pooling_mode": "cls"},
        {"prompt": "a "},
    ]
    for options in others:
        with pytest.raises(OptionError, match=r"only be resumed with what .* has other options"):
            embed_files(load_embedder(model, **options), [rows], target)
    (tmp_path / "out.npy.part" / "vectors.f32").write_bytes(b"")
    with pytest.raises(OptionError, match="only be resumed if its answers so far are there"):
        embed_files(embedder, [rows], target)
    embed_files(embedder, [rows], target, overwrite=True)
    assert np.load(target).shape == (10, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "out.jsonl"}, "output must end in .parquet or .npy; got 'out.jsonl'"),
        ({"output": "none/out.npy"}, "output must be in a directory that exists"),
        ({"keep": ["id"]}, "kept columns need a .parquet file; got keep=id for 'out.npy'"),
        ({"output": "out.parquet", "keep": ["name"]}, "keep must name columns of the input; got"),
        ({"chunks": True}, "the vectors of chunks need a .parquet file, which says where"),
        ({"lines": '{"text": "a"}\n{"text": \n'}, "in.jsonl, line 2 is not"),
    ],
)
def test_invalid_calls_write_nothing(embedder, chunk_embedder, rows, tmp_path, change, message):
    if "lines" in change:
        Path(rows).write_text(change["lines"])
    before = sorted(tmp_path.rglob("*"))
    used = chunk_embedder if change.get("chunks") else embedder
    target = tmp_path / change.get("output", "out.npy")
    with pytest.raises((OptionError, DataError), match=message):
        embed_files(used, [rows], target, keep=change.get("keep", ()))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_text_that_is_missing_is_named(embedder, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": sentence(0, 3)}, {"text": None}])
    message = r"in\.jsonl, line 2: column 'text' must hold a text; got None"
    with pytest.raises(DataError, match=message):
        embed_files(embedder, [source], tmp_path / "out.npy")


def test_two_columns_of_texts_are_refused(embedder, tmp_path):
    """The first of them was embedded silently; a column that is not read may occur twice."""
    source = tmp_path / "in.csv"
    source.write_text("text,note,note,text\na,1,2,b\n")
    with pytest.raises(DataError, match=r"a name of its own; .*in\.csv has two named 'text'"):
        embed_files(embedder, [source], tmp_path / "out.npy")
    assert not list(tmp_path.glob("out*"))
    source.write_text("text,note,note\na,1,2\n")
    assert embed_files(embedder, [source], tmp_path / "out.npy") == 1
