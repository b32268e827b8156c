"""Files of every format, datasets, splits, and checks of columns."""

import json

import pytest
from tiny_runs import write_jsonl

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.loading import (
    ORIGIN,
    load_dataset_split,
    load_files,
    require_columns,
    require_texts,
)


def test_all_formats_hold_the_same_rows(tmp_path):
    """The same rows as JSONL, a JSON array, CSV, TSV, and Parquet."""
    import pandas as pd

    rows = [{"text": 'one, "two"\nthree', "label": 1}, {"text": "four é", "label": 0}]
    frame = pd.DataFrame(rows)
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "a.parquet")
    for suffix in ("jsonl", "json", "csv", "tsv", "parquet"):
        loaded = load_files([str(tmp_path / f"a.{suffix}")])
        assert loaded.remove_columns(ORIGIN).to_list() == rows, suffix


def test_a_folder_of_text_files_has_one_document_per_file(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_text("second\n\nwith lines")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "deep" / "c.txt").write_text("third")
    assert list(load_files([str(tmp_path)])["text"]) == ["first", "second\n\nwith lines", "third"]


def test_a_document_longer_than_the_limit_of_the_csv_module(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "word " * 100_000 + "\n")
    assert len(load_files([str(tmp_path / "a.csv")])[0]["text"]) > 490_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl, line 2 is not \("),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', r"a\.jsonl, line 2 is \[1\]"),
        ("a.json", b'[{"text": "a"},]', r"a\.json must be JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2 is not .byte 0xff at column 11"),
        ("a.csv", b"text,label\na,1\nb,c,2\n", r"header's 2 columns; .*a\.csv, line 3 has 3"),
        ("a.txt", b"ab\xe9", "must be UTF-8"),
        ("a.jsonl", b"", "is empty"),
        ("a.pdf", b"x", r"must be of one kind .*got \.pdf"),
        ("a.parquet", b"PAR1 no", "must be readable as parquet"),
    ],
)
def test_broken_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_files([str(tmp_path / name)])


def test_missing_files_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match=r"must exist; .*none\.csv does not"):
        load_files([str(tmp_path / "none.csv")])
    with pytest.raises(DataError, match=r"must hold \.txt files"):
        load_files([str(tmp_path)])


def test_files_of_different_formats(tmp_path):
    for name in ("a.csv", "b.jsonl"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match="of one kind"):
        load_files([str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")])


def test_a_dataset_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match="must be one that `datasets` loads"):
        load_dataset_split(str(tmp_path / "none"), None, "train")


def test_a_folder_whose_path_is_a_pattern_is_refused(tmp_path):
    """`datasets` would read the folder `a1` in its place."""
    for name in ("a[1]", "a1"):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "train.jsonl", [{"text": name}])
    with pytest.raises(DataError, match=r"must not hold .* got .*a\[1\]: rename it"):
        load_dataset_split(str(tmp_path / "a[1]"), None, "train")


def test_a_missing_column_is_an_error_that_lists_the_columns(tmp_path):
    rows = load_files([write_jsonl(tmp_path / "a.jsonl", [{"body": "x", "class": 1}])])
    with pytest.raises(DataError, match="must have a column 'text'; got body, class"):
        require_columns(rows, ["text"], "train")


def test_missing_and_empty_texts(tmp_path):
    rows = load_files([write_jsonl(tmp_path / "a.jsonl", [{"a": "x"}, {"a": None}, {"a": None}])])
    with pytest.raises(
        DataError, match=r"must hold a text in every row; .*a\.jsonl, line 2 has none \(2 in"
    ):
        require_texts(rows, ["a"], "validation")
    rows = load_files([write_jsonl(tmp_path / "b.jsonl", [{"a": "x"}, {"a": ""}, {"a": " \n"}])])
    assert require_texts(rows, ["a"], "train") == [
        f"2 texts in column 'a' of the training data are empty, {tmp_path}/b.jsonl, line 2 first"
    ]
    rows = load_files([write_jsonl(tmp_path / "c.jsonl", [{"a": 1}])])
    with pytest.raises(DataError, match="column 'a' of the data must hold texts; it holds int64"):
        require_texts(rows, ["a"], "test")
