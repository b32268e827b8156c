"""Indexes of folders: what they hold, and how they follow their files."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from python_processes import PythonProcess
from tiny_checkpoints import sentence

from flax_bigbird.inference import (
    DataError,
    Embedder,
    OptionError,
    PredictionInterrupted,
    build_index,
    load_embedder,
    open_index,
)
from flax_bigbird.inference.search.scan import indexed_format

NUM_TEXTS = 6
CHUNKS: dict[str, Any] = {"chunk_tokens": 8, "chunk_overlap": 2}


@pytest.fixture(scope="module")
def model(make_checkpoint) -> str:
    return make_checkpoint("FlaxBigBirdForMaskedLM")


@pytest.fixture(scope="module")
def embedder(model) -> Embedder:
    return load_embedder(model)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with six texts of different lengths."""
    folder = tmp_path / "texts"
    (folder / "more").mkdir(parents=True)
    for number in range(NUM_TEXTS):
        text = f"{sentence(number, 20)}\n\n{sentence(100 + number, 5 + 12 * number)}"
        name = f"more/{number}.md" if number % 2 else f"{number}.txt"
        (folder / name).write_text(text)
    return folder


def contents(path: Path) -> list[tuple]:
    """Returns the chunks of an index without their keys, and their vectors."""
    with open_index(path) as index:
        chunks = index._chunks.chunks(index._chunks.keys.tolist())
        vectors = index._vectors.get(index._chunks.keys.astype(np.uint64))
        values = [
            (
                index._paths[chunk.content_id][0],
                *chunk[2:],
                np.asarray(vector),
            )
            for chunk, vector in zip(chunks, vectors, strict=True)
        ]
    return sorted(values, key=lambda value: value[:-1])


def assert_same(first: list[tuple], second: list[tuple]) -> None:
    """Asserts that chunks are the same, and their vectors are but for rounding."""
    assert [values[:-1] for values in first] == [values[:-1] for values in second]
    vectors = [np.array([values[-1] for values in chunks]) for chunks in (first, second)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=2e-4)


def test_chunks_are_those_of_encode_chunks(model, embedder, folder, tmp_path):
    summary = build_index(folder, tmp_path / "index", model=model, **CHUNKS)
    assert (summary.num_files, summary.num_added) == (NUM_TEXTS, NUM_TEXTS)
    assert [summary.skipped, summary.duplicates, summary.empty] == [[], [], []]
    expected = []
    for path in folder.rglob("*.*"):
        text = path.read_text()
        vectors, spans = embedder.encode_chunks(text, chunk_size=8, chunk_overlap=2)
        for vector, (start, end) in zip(vectors, spans, strict=True):
            line = text[:start].count("\n") + 1
            name = path.relative_to(folder).as_posix()
            expected.append((name, 0, start, end, line, text[start:end], vector))
    found = contents(tmp_path / "index")
    assert_same(found, sorted(expected, key=lambda values: values[:-1]))
    assert {values[4] for values in found} == {1, 3}
    assert summary.num_chunks == len(expected) > 40


def test_results_are_the_most_similar_chunks(model, embedder, folder, tmp_path):
    build_index(folder, tmp_path / "index", model=model, **CHUNKS)
    query = "a ship leaves the harbour"
    rows = contents(tmp_path / "index")
    vectors = np.array([values[-1] for values in rows])
    scores = embedder.similarity(embedder.encode_query(query), vectors)[0]
    best = np.argsort(-scores)[:5]
    with open_index(tmp_path / "index") as index:
        assert len(index) == len(rows)
        results = index.search(query, 5, exact=True)
        by_graph = index.search(query, 5)
        assert index.search(query, 10_000, exact=True)[:5] == results
        assert index.search("", 5, vector=index.embed_query(query)) == by_graph
    np.testing.assert_allclose([result.score for result in results], scores[best], atol=1e-3)
    assert [result.score for result in by_graph] == pytest.approx([r.score for r in results])
    for result in results:
        text = (folder / result.file).read_text()
        assert text[result.start : result.end] == result.text
        assert result.row is None


def test_an_index_follows_its_files(model, folder, tmp_path):
    """Only contents that are new are embedded; the index is then that of a new build."""
    path = tmp_path / "index"
    counts = []

    def build(**options):
        summary = build_index(
            folder, path, on_start=lambda done, total: counts.append(total), **options
        )
        assert not (tmp_path / "index.part").exists()
        assert len(list(path.iterdir())) == 2
        return summary

    build(model=model, **CHUNKS)
    (folder / "0.txt").write_text("the cow grazes in a meadow")
    (folder / "new.txt").write_text("a ship leaves the harbour at noon")
    (folder / "2.txt").unlink()
    (folder / "4.txt").rename(folder / "moved.txt")
    summary = build()
    assert counts == [NUM_TEXTS, 2]
    changes = (summary.num_added, summary.num_changed, summary.num_removed)
    assert changes == (2, 1, 2)
    build_index(folder, tmp_path / "fresh", model=model, **CHUNKS)
    assert_same(contents(path), contents(tmp_path / "fresh"))
    manifest = (path / "manifest.json").read_bytes()
    assert build().num_changed == 0
    assert counts == [NUM_TEXTS, 2, 0]
    assert (path / "manifest.json").read_bytes() == manifest
    for number in range(NUM_TEXTS):  # so many that the graph is built again
        for old in folder.rglob(f"{number}.*"):
            old.unlink()
    build()
    shutil.rmtree(tmp_path / "fresh")
    build_index(folder, tmp_path / "fresh", model=model, **CHUNKS)
    assert_same(contents(path), contents(tmp_path / "fresh"))
    with open_index(path) as index:
        (result,) = index.search("harbour", 1, hybrid=True)
    assert result.file in ("new.txt", "moved.txt")


def test_a_file_of_the_same_size_and_an_old_time_is_not_read(model, folder, tmp_path):
    for path in folder.rglob("*.*"):
        os.utime(path, ns=(10**18, 10**18))
    build_index(folder, tmp_path / "index", model=model, **CHUNKS)
    text = (folder / "0.txt").read_text()
    (folder / "0.txt").write_text(text.replace("cow", "sow").replace("the", "she"))
    assert build_index(folder, tmp_path / "index").num_changed == 1
    os.utime(folder / "0.txt", ns=(10**18, 10**18))
    assert build_index(folder, tmp_path / "index").num_changed == 0
    (folder / "0.txt").write_text(text)
    os.utime(folder / "0.txt", ns=(10**18, 10**18))
    assert build_index(folder, tmp_path / "index").num_changed == 0


def test_tables_have_a_document_per_row(model, folder, tmp_path):
    rows = [{"body": sentence(n, 12), "text": "no"} for n in range(4)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pyarrow.table({"body": [sentence(n, 6) for n in range(10, 13)], "x": [1, 2, 3]})
    pyarrow.parquet.write_table(table, folder / "b.parquet")
    (folder / "c.csv").write_text("body,y\nthe cow grazes,1\n,2\n")
    (folder / "d.csv").write_text("other\n1\n")
    path = tmp_path / "index"
    summary = build_index(folder, path, model=model, text_column="body", **CHUNKS)
    assert [skipped.path for skipped in summary.skipped] == ["d.csv"]
    assert "column 'body' must hold a text" in summary.skipped[0].reason
    places = {(values[0], values[1]) for values in contents(path)}
    tables = {place for place in places if place[1]}
    assert tables == {
        *(("a.jsonl", n) for n in (1, 2, 3, 4)),
        *(("b.parquet", n) for n in (1, 2, 3)),
        ("c.csv", 1),
    }
    assert len({name for name, row in places if not row}) == NUM_TEXTS


def test_characters_and_lines_are_those_of_the_file(model, tmp_path):
    folder, lines = (
        tmp_path / "texts",
        ["the cow 😀 and e\u0301 ships", "", "\u200dships leave 👨‍👩‍👧 the cow"],
    )
    folder.mkdir()
    file = folder / "é 文.txt"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines * 3).encode())
    build_index(folder, tmp_path / "index", model=model, chunk_tokens=4, chunk_overlap=1)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        text = stream.read()
    chunks = contents(tmp_path / "index")
    assert len(chunks) > len(lines)
    for _, row, start, end, line, shown, _ in chunks:
        assert (row, shown, line) == (0, text[start:end], 1 + text[:start].count("\n"))
    covered = {place for chunk in chunks for place in range(*chunk[2:4])}
    assert all(place in covered for place, c in enumerate(text) if c.isascii() and c.isalpha())


def test_files_that_cannot_be_indexed_are_reported(model, folder, tmp_path):
    (folder / "empty.txt").write_bytes(b"")
    (folder / "white.txt").write_text(" \n")
    (folder / "latin.txt").write_bytes("é".encode("latin-1"))
    (folder / "more" / "latin copy.txt").write_bytes("é".encode("latin-1"))
    (folder / "binary.txt").write_bytes(b"text\0\1\2")
    (folder / "null.jsonl").write_text('{"text": null}\n')
    (folder / "copy.txt").write_bytes((folder / "0.txt").read_bytes())
    (folder / "program.py").write_text("x")
    (folder / ".hidden.txt").write_text("x")
    (folder / "more" / "loop").symlink_to(folder)
    (folder / "a link").symlink_to(folder / "more")
    (folder / "broken.md").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.txt")
    (folder / "bad.json").write_text('{"text": "a"}\n{"text"')
    os.close(os.open(os.fsencode(folder) + b"/\xff.txt", os.O_CREAT))
    path = folder / "index"
    summary = build_index(folder, path, model=model, **CHUNKS)
    reasons = {
        "a link": "it is the directory more, which is read once",
        "bad.json": "line 2 is not",
        "binary.txt": "must not hold NUL characters",
        "broken.md": "No such file",
        "latin.txt": "must be UTF-8",
        "more/latin copy.txt": "it is the same as latin.txt, which is skipped",
        "null.jsonl": "column 'text' must hold a text; got None, of type NoneType: write a text",
        "more/loop": "it is the directory ., which is read once",
        "pipe.txt": "it is no regular file",
        "\\udcff.txt": "the name of a file must be UTF-8, and this one is not: rename it",
    }
    skipped = dict(summary.skipped)
    assert skipped.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in skipped[name], name
    assert summary.duplicates == [("copy.txt", "0.txt")]
    assert summary.empty == ["empty.txt", "white.txt"]
    assert (summary.num_others, summary.num_files) == (1, NUM_TEXTS + 3)
    (folder / "0.txt").unlink()  # the copy stays, and so does the index in the folder
    summary = build_index(folder, path)
    assert (summary.num_removed, summary.num_added) == (1, 0)
    assert any(values[0] == "copy.txt" for values in contents(path))


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.md", "text"),
        ("a.MD.gz", "text"),
        ("a.txt.zst", "text"),
        ("a.jsonl.bz2", "json"),
        ("a.parquet", "parquet"),
        ("a.parquet.gz", None),
        ("a.py", None),
        ("a.gz", None),
        ("md", None),
    ],
)
def test_the_format_follows_from_the_name(name, format):
    assert indexed_format(Path(name)) == format


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can read every file")
def test_unreadable_files_are_reported(model, folder, tmp_path):
    (folder / "0.txt").chmod(0)
    (folder / "more").chmod(0)
    try:
        summary = build_index(folder, tmp_path / "index", model=model, **CHUNKS)
    finally:
        (folder / "more").chmod(0o700)
    assert [skipped.path for skipped in summary.skipped] == ["0.txt", "more"]
    assert summary.num_files == 2


def test_an_interrupted_build_is_resumed(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("flax_bigbird.inference.predictor.MAX_ROWS_PER_CHUNK", 2)
    path = tmp_path / "index"
    with pytest.raises(PredictionInterrupted):
        build_index(folder, path, model=model, should_stop=lambda: True, **CHUNKS)
    assert not path.exists()
    with pytest.raises(OptionError, match="other chunk_overlap: use the same"):
        build_index(folder, path, model=model, chunk_tokens=8)
    (folder / "0.txt").write_text("the cow at noon")  # one of the two that are done
    starts = []
    build_index(folder, path, model=model, on_start=lambda *counts: starts.append(counts), **CHUNKS)
    assert starts == [(1, NUM_TEXTS)]
    build_index(folder, tmp_path / "fresh", model=model, **CHUNKS)
    assert_same(contents(path), contents(tmp_path / "fresh"))


@pytest.mark.slow
def test_a_killed_build_is_resumed_and_leaves_the_old_index_whole(model, folder, tmp_path):
    worker = [Path(__file__).with_name("index_worker.py"), model]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    path = tmp_path / "index"

    def run(point):
        process = PythonProcess(*worker, str(folder), str(path), point, environment=environment)
        process.communicate()
        return process

    for point in ("embed", "data", "manifest"):
        assert run(point).returncode == -9
        with pytest.raises(OptionError, match=r"was interrupted|does not exist"):
            open_index(path)
    assert run("").returncode == 0
    before = contents(path)
    (folder / "0.txt").write_text("the cow at noon")
    (folder / "new.txt").write_text("a ship leaves " * 9)
    for point in ("embed", "data", "manifest"):
        assert run(point).returncode == -9
        assert_same(contents(path), before)
    assert run("remove").returncode == -9
    build_index(folder, tmp_path / "fresh", model=model, chunk_tokens=8)
    assert_same(contents(path), contents(tmp_path / "fresh"))
    build_index(folder, path)
    assert not (tmp_path / "index.part").exists()
    (folder / "0.txt").unlink()
    build_index(folder, path)
    assert len(list(path.iterdir())) == 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("no folder", DataError, "must be a directory; .*none does not exist"),
        ("no texts", DataError, "must hold files of the formats .md"),
        ("no readable texts", DataError, r"none of the files in .* can be read \(a.txt: "),
        ("foreign", OptionError, "has no manifest.json"),
        ("foreign, overwrite", OptionError, "has no manifest.json"),
        ("a file", OptionError, "index is a file"),
        ("other folder", OptionError, "from the folder that it was built from"),
        ("other options", OptionError, "has other chunk_tokens: leave them out"),
        ("other prompt", OptionError, "has other query_prompt: leave them out"),
        ("other model", OptionError, "has other parameters: give that model"),
        ("option", OptionError, "separator is an option of files of one format"),
    ],
)
def test_invalid_calls_change_nothing(
    make_checkpoint, model, folder, tmp_path, monkeypatch, change, error, message
):
    path = tmp_path / "index"
    source = folder
    options: dict[str, Any] = {}
    if change.startswith("other"):
        build_index(folder, path, model=model, **CHUNKS)
    if change.startswith(("foreign", "a file")):
        path.write_text("x") if change == "a file" else path.mkdir()
    if change.startswith("foreign"):
        (path / "letters.txt").write_text("x")
        options = {"overwrite": change != "foreign"}
    if change == "no folder":
        source = tmp_path / "none"
    if change in ("no texts", "no readable texts", "other folder"):
        source = tmp_path / "others"
        source.mkdir()
    if change == "no readable texts":
        (source / "a.txt").write_bytes(b"\xff\xfe")
    if change == "other options":
        options = {"chunk_tokens": 9}
    if change == "other prompt":
        options = {"query_prompt": "q: "}
    if change == "other model":
        options = {"model": make_checkpoint("FlaxBigBirdForMaskedLM", hidden_size=64)}
    if change == "option":
        options = {"separator": ";"}
    if change == "other folder":
        (source / "a.txt").write_text("the cow")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(error, match=message):
        build_index(source, path, **({"model": model} | options))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_folder_that_has_moved_is_not_embedded_again(model, folder, tmp_path):
    build_index(folder, tmp_path / "index", model=model, **CHUNKS)
    moved = folder.rename(tmp_path / "moved")
    (moved / "new.txt").write_text("the cow")
    starts = []
    build_index(moved, tmp_path / "index", on_start=lambda *counts: starts.append(counts))
    assert starts == [(0, 1)]
