"""Files of every kind, and what is wrong with broken ones, by line."""

import json

import pytest
from training_tools import options, write_jsonl

from flax_bigbird.train.reading import (
    DataError,
    check_columns,
    read_dataset,
    read_files,
    read_training_data,
)


def test_kinds_agree(tmp_path):
    """The same rows as JSONL, a JSON array, CSV, TSV and Parquet."""
    import pandas as pd

    rows = [{"text": 'one, "two"\nthree', "label": 1}, {"text": "four é", "label": 0}]
    frame = pd.DataFrame(rows)
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "a.parquet")
    for kind in ("jsonl", "json", "csv", "tsv", "parquet"):
        assert read_files([str(tmp_path / f"a.{kind}")]).to_list() == rows, kind


def test_a_folder_of_texts_is_a_document_a_file(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_text("second\n\nwith lines")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "deep" / "c.txt").write_text("third")
    assert list(read_files([str(tmp_path)])["text"]) == ["first", "second\n\nwith lines", "third"]


def test_a_document_longer_than_the_csv_modules_limit(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "word " * 100_000 + "\n")
    assert len(read_files([str(tmp_path / "a.csv")])[0]["text"]) > 490_000


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
        read_files([str(tmp_path / name)])


def test_missing_files_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match=r"must exist; .*none\.csv does not"):
        read_files([str(tmp_path / "none.csv")])
    with pytest.raises(DataError, match=r"must hold \.txt files"):
        read_files([str(tmp_path)])


def test_mixed_kinds(tmp_path):
    for name in ("a.csv", "b.jsonl"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match="of one kind"):
        read_files([str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")])


def test_a_dataset_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="must be one that `datasets` loads"):
        read_dataset(str(tmp_path / "none"), None, "train")


def test_a_missing_column_names_those_that_exist(tmp_path):
    rows = read_files([write_jsonl(tmp_path / "a.jsonl", [{"body": "x", "class": 1}])])
    with pytest.raises(DataError, match="must have a column 'text'; got body, class"):
        check_columns(rows, ["text"], "training data")


def test_held_out_rows_are_those_of_the_seed(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": str(n)} for n in range(20)])
    common = {"train_files": [file], "validation_share": 0.2}
    first, second, other = (
        read_training_data(options(tmp_path, seed=seed, **common)) for seed in (0, 0, 1)
    )
    assert len(first[1]) == 4
    assert set(first[0]["text"]) | set(first[1]["text"]) == {str(n) for n in range(20)}
    assert list(first[1]["text"]) == list(second[1]["text"])
    assert list(first[1]["text"]) != list(other[1]["text"])


def test_no_share_no_validation(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    training, validation = read_training_data(
        options(tmp_path, train_files=[file], validation_share=0)
    )
    assert (len(training), validation) == (1, None)
    with pytest.raises(DataError, match="two or more; got 1"):
        read_training_data(options(tmp_path, train_files=[file]))
