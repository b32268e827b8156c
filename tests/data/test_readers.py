"""What the readers make of files as people have them: names, quotes, missing fields, bad values."""

import bz2
import csv
import gzip
import io
import json
import os
import sys
from pathlib import Path

import pyarrow
import pytest
from tiny_runs import write_jsonl

from flax_bigbird.data import row_cache
from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.files import expand_paths, iterate_rows
from flax_bigbird.data.loading import ORIGIN, load_files
from flax_bigbird.data.readers import json_stream
from flax_bigbird.data.standard_input import standard_input_as_file
from flax_bigbird.tasks.options import TaskOptions

TEXT: dict[str, ColumnKind] = {"text": "text"}
TEXT_LABEL: dict[str, ColumnKind] = {"text": "text", "label": "label"}
TAGGED: dict[str, ColumnKind] = {"tokens": "texts", "tags": "labels"}


def read(*paths, **options):
    """Returns the rows as prediction reads them."""
    kind, files = expand_paths([str(path) for path in paths])
    return [dict(row) for row in iterate_rows(files, kind, **options)]


def zstandard(content: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


def write(path, content: str | bytes):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


# Paths


@pytest.mark.parametrize(
    "name", ["data[1].jsonl", "train [final].jsonl", "*.jsonl", "a{1,2}.jsonl"]
)
def test_a_path_is_no_pattern(tmp_path, name):
    for other in ("data1.jsonl", "train f.jsonl", "b.jsonl", "a1.jsonl"):
        write_jsonl(tmp_path / other, [{"text": "another file"}])
    path = write_jsonl(tmp_path / name, [{"text": "this file"}])
    assert list(load_files([path], TEXT)["text"]) == ["this file"]
    assert read(path) == [{"text": "this file"}]


def test_a_folder_with_brackets(tmp_path):
    for folder in ("speeches[1]", "speeches1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(folder)
    rows = load_files([str(tmp_path / "speeches[1]")], TEXT)
    assert list(rows["text"]) == ["speeches[1]"]


# The cache


def test_a_rewritten_file_with_the_same_time_and_size_is_read_again(tmp_path):
    path = tmp_path / "a.jsonl"
    for text in ("one", "two"):
        write_jsonl(path, [{"text": text}])
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert list(load_files([str(path)], TEXT)["text"]) == [text]


def test_equal_files_are_read_from_the_cache(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one", "label": "x"}])
    first = load_files([path], TEXT_LABEL)
    monkeypatch.setattr(row_cache, "_write", None)
    again = load_files([path], TEXT_LABEL)
    assert again._fingerprint == first._fingerprint
    assert again.to_list() == first.to_list()


# CSV and TSV


def test_texts_that_begin_with_a_quote_do_not_swallow_rows(tmp_path):
    texts = [f"text {n}" for n in range(30)]
    texts[3], texts[9] = '"Never again', '"Go" home'
    lines = [f"{text}\t{n % 2}\n" for n, text in enumerate(texts)]
    path = write(tmp_path / "a.tsv", "text\tlabel\n" + "".join(lines))
    rows = load_files([path], TEXT_LABEL)
    assert list(rows["text"]) == texts
    assert list(rows["label"]) == [n % 2 for n in range(30)]
    assert [row["text"] for row in read(path)] == texts


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("a.tsv", 'text\tlabel\na\tx\n"Never again\tx\nfoo\ty\nhe said"\tx\n', (3, 5)),
        ("a.csv", 'text,label\na,x\nb,y\n"Never again,x\nfoo,y\nhe said",x\n', (4, 6)),
        ("b.csv", 'label,text\n1,"Never again\n0,foo\n1,he said"\n', (2, 4)),
    ],
)
def test_a_quoted_field_that_holds_rows_is_an_error(tmp_path, name, content, lines):
    path = write(tmp_path / name, content)
    message = rf"{name}, line {lines[0]} begins .* ends in line {lines[1]}"
    with pytest.raises(DataError, match=message):
        load_files([path], TEXT_LABEL)
    with pytest.raises(DataError, match=message):
        read(path)


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_quoted_fields_hold_anything(tmp_path, separator, end):
    texts = [
        'one, "two"\nthree',
        "a,b\n\nc,d",
        'ends with "',
        '"',
        "\t",
        "\n",
        " x ",
        '"" , ""\r\n"',
    ]
    written = io.StringIO()
    # With lines that end in "\r", the csv module leaves fields with "\n" without quotes.
    quoting = csv.QUOTE_ALL if end == "\r" else csv.QUOTE_MINIMAL
    writer = csv.writer(written, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([["n", "text", "more"], *([n, text, text] for n, text in enumerate(texts))])
    path = write(tmp_path / ("a.csv" if separator == "," else "a.tsv"), written.getvalue())
    expected = [{"n": str(n), "text": text, "more": text} for n, text in enumerate(texts)]
    assert read(path) == expected
    assert list(load_files([path], TEXT)["text"]) == texts


def test_fields_stay_as_they_are_written(tmp_path):
    values = ["None", "NA", "null", "n/a", "nan", "true", "007", "1e5", " x"]
    rows = [f"{value},{value}" for value in values]
    path = write(tmp_path / "a.csv", "\n".join(["text,label", *rows]))
    loaded = load_files([path], TEXT_LABEL)
    assert list(loaded["text"]) == list(loaded["label"]) == values
    assert [row["label"] for row in read(path)] == values


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["7", "10", "-1"], [7, 10, -1]),
        (["007", "010"], ["007", "010"]),
        (["1", "2.5"], [1.0, 2.5]),
        (["1", "", "2"], [1, None, 2]),
        (["1"] * 1500 + ["2.5"], [1.0] * 1500 + [2.5]),
        (["1"] * 1500 + ["x"], ["1"] * 1500 + ["x"]),
        (["1.50"] * 1500 + ["x"] * 1500, ["1.50"] * 1500 + ["x"] * 1500),
    ],
)
def test_labels_in_csv_are_numbers_if_all_are(tmp_path, labels, expected):
    lines = [f"t,{label}\n" for label in labels]
    path = write(tmp_path / "a.csv", "text,label\n" + "".join(lines))
    assert list(load_files([path], TEXT_LABEL)["label"]) == expected


def test_only_an_empty_field_is_missing(tmp_path):
    path = write(tmp_path / "a.csv", 'n,text\n1,\n2,""\n3,NA\n')
    assert list(load_files([path], TEXT)["text"]) == [None, "", "NA"]


# Columns that are not needed


@pytest.mark.parametrize(
    "extra",
    [
        lambda n: {"id": n if n < 2000 else f"x{n}"},
        lambda n: {"note": None if n < 2000 else "late"},
        lambda n: {f"only_{n % 7}": [n] if n % 2 else {"a": n}},
        lambda n: {"big": 10**30, "nan": float("nan")},
    ],
)
def test_columns_that_are_not_needed_do_not_stop_the_reading(tmp_path, extra):
    rows = [{"text": f"t{n}", "label": n % 2} | extra(n) for n in range(2100)]
    loaded = load_files([write_jsonl(tmp_path / "a.jsonl", rows)], TEXT_LABEL)
    assert loaded.column_names == ["text", "label", ORIGIN]
    assert list(loaded["text"]) == [row["text"] for row in rows]


def test_files_with_other_columns(tmp_path):
    first = write_jsonl(tmp_path / "a.jsonl", [{"id": 1, "text": "a"}])
    second = write_jsonl(tmp_path / "b.jsonl", [{"text": "b", "id": "two", "note": []}])
    assert list(load_files([first, second], TEXT)["text"]) == ["a", "b"]


def test_a_parquet_file_with_a_column_that_cannot_be_converted(tmp_path):
    import pyarrow
    import pyarrow.parquet

    times = pyarrow.array([2**62, 1], pyarrow.timestamp("us"))  # far beyond what Python knows
    table = pyarrow.table({"when": times, "text": ["a", "b"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    rows = load_files([str(tmp_path / "a.parquet")], TEXT)
    assert list(rows["text"]) == ["a", "b"]


def test_all_columns_with_types_that_change(tmp_path):
    """A task of one's own that does not name its columns gets all of them."""
    rows = [{"text": "a", "n": 1}] * 1500 + [{"text": "b", "n": 1.5, "late": ["x"]}]
    loaded = load_files([write_jsonl(tmp_path / "a.jsonl", rows)])
    assert loaded[1500] | {ORIGIN: ""} == rows[1500] | {ORIGIN: ""}
    assert loaded[0]["n"] == 1.0
    assert loaded[0]["late"] is None


# Encodings


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "json", "csv"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, suffix):
    content = {
        "txt": "héllo",
        "jsonl": '{"text": "héllo"}',
        "json": '[{"text": "héllo"}]',
        "csv": "text\nhéllo",
    }[suffix]
    path = write(tmp_path / f"a.{suffix}", b"\xef\xbb\xbf" + content.encode())
    assert list(load_files([path], TEXT)["text"]) == ["héllo"]
    assert read(path)[0]["text"] == "héllo"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", ["txt", "jsonl", "json", "csv"])
def test_utf_16_is_named(tmp_path, encoding, suffix):
    path = write(tmp_path / f"a.{suffix}", '[{"text": "a"}]'.encode(encoding))
    for reader in (load_files, lambda paths: read(*paths)):
        with pytest.raises(DataError, match=rf"a\.{suffix} is UTF-16 or UTF-32: convert it"):
            reader([path])


# Values that cannot be used


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"tokens": ["a", None], "tags": [1, 1]}, TAGGED, "line 3 holds null as item 2"),
        ({"tokens": ["a", 5], "tags": [1, 1]}, TAGGED, "line 3 holds 5 as item 2"),
        ({"tokens": ["{"], "tags": [None]}, TAGGED, r"names or finite.*line 3 holds \[None\]"),
        ({"tokens": "a b", "tags": [1, 1]}, TAGGED, "lists of texts; .*line 3 holds 'a b'"),
        ({"tokens": ["a"], "tags": 1}, TAGGED, "must hold lists; .*line 3 holds 1"),
        ({"tokens": ["a"], "tags": ["O"]}, TAGGED, r"one type, .*line 3 holds \['O'\]"),
        ({"text": "\ud83d!", "label": 1}, TEXT_LABEL, r"line 3 holds the lone surrogate \\ud83d"),
        ({"text": "a", "label": float("nan")}, TEXT_LABEL, "finite numbers; .*line 3 holds nan"),
        ({"text": "a", "label": "\udc00"}, TEXT_LABEL, "line 3 holds the lone surrogate"),
        ({"text": "a", "label": {"x": 1}}, TEXT_LABEL, r"line 3 holds \{'x': 1\}"),
        ({"text": "a", "label": "b"}, TEXT_LABEL, "line 3 holds 'b', and .* hold integers"),
        ({"text": "a", "label": 2**70}, TEXT_LABEL, "64 bits; .*line 3 holds 1180"),
        ({"text": 5, "label": 1}, TEXT_LABEL, "must hold texts; .*line 3 holds 5"),
        ({"text": ["a", "b"], "label": 1}, TEXT_LABEL, r"texts; .*line 3 holds \['a', 'b'\]"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(tmp_path, row, columns, message):
    good = {"tokens": ["a"], "tags": [1]} if columns is TAGGED else {"text": "a", "label": 1}
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([json.dumps(good), "", json.dumps(row), json.dumps(good)]))
    with pytest.raises(DataError, match=rf"a\.jsonl, {message}|{message}") as caught:
        load_files([str(path)], columns)
    assert f"{path}, line 3" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '["a", "b"]\n["c", "d"]\n', r'a\.jsonl, row 1 is "a"'),
        ("a.json", '[{"text": "a"}, null]', r"a\.json, row 2 is null"),
        ("a.json", '[{"text": "a"} {"text": "b"}]', r"not after row 1: .* comma or \], line 1"),
        ("a.json", '[{"text": "a"}\n', r"not after row 1"),
        ("a.json", '[{"text": "a"}]\n\nx', r"not after row 1: nothing may follow .*, line 3"),
        ("a.jsonl", "null\n", "line 1 is null"),
        ("a.json", '{"text": {"0": "a", "1": "b"}, "y": {"0": 1, "1": 2}}', "DataFrame.to_json"),
        ("a.jsonl", '{"text": ' + "[" * 100_000, "line 1 is not"),
        ("a.json", "[" * 100_000, "a.json must be JSON"),
        ("a.jsonl", "\n\n", "must have rows"),
        ("a.csv", "text,label\n", "must have rows"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz is not .*: compress it again"),
        # Without the time in its header, workers of pytest-xdist collect the same names.
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9],
            "complete and undamaged",
        ),
        ("a.jsonl.bz2", b"BZh91", "complete and undamaged"),
        ("a.jsonl.zst", b"no zstd", r"a\.jsonl\.zst is not .*: compress it again"),
        ("a.jsonl.zst", zstandard(b'{"text": "a"}\n' * 99)[:-9], "complete and undamaged"),
        ("a.jsonl.xz", b"x", r"got \.jsonl\.xz"),
        ("a.json", '[{"text": ' + "1" * 5000 + "}]", r"a\.json must be JSON.*digits"),
        ("a.parquet.gz", b"x", r"got \.parquet\.gz"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        load_files([path], TEXT)


def test_a_damaged_parquet_file(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": [f"text {n}" for n in range(5000)]})
    pyarrow.parquet.write_table(table, path, compression="gzip")
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    for reader in (lambda: load_files([str(path)], TEXT), lambda: read(path)):
        with pytest.raises(DataError, match=r"a\.parquet is not after row \d+"):
            reader()


# Compressed files and arrays


@pytest.mark.parametrize(
    ("suffix", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("zst", zstandard)]
)
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "txt", "conll"])
def test_compressed_files(tmp_path, suffix, compress, kind):
    content = {
        "jsonl": '{"text": "héllo"}\n',
        "json": '[{"text": "héllo"}]',
        "csv": "text\nhéllo\n",
        "tsv": "text\tn\nhéllo\t1\n",
        "txt": "héllo",
        "conll": "héllo",
    }[kind]
    path = write(tmp_path / f"a.{kind}.{suffix}", compress(content.encode()))
    if kind == "conll":
        assert read(path)[0]["tokens"] == ["héllo"]
        return
    assert list(load_files([path], TEXT)["text"]) == ["héllo"]
    assert read(path)[0]["text"] == "héllo"
    if kind == "txt":
        assert list(load_files([str(tmp_path)])["text"]) == ["héllo"]


def test_a_zstd_file_of_several_frames_is_read_to_its_end(tmp_path):
    content = b"".join(zstandard(b'{"text": "%d"}\n' % n) for n in range(5))
    path = write(tmp_path / "a.jsonl.zst", content)
    assert [row["text"] for row in read(path)] == list("01234")


def test_zstd_needs_pyarrow(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl.zst", zstandard(b'{"text": "a"}'))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"a\.jsonl\.zst needs the package pyarrow: pip install"):
        read(path)


@pytest.mark.parametrize("size", [1, 2, 7, 20, 1000])
def test_an_array_is_read_in_parts(tmp_path, monkeypatch, size):
    monkeypatch.setattr(json_stream, "CHUNK_SIZE", size)
    rows = [{"text": 'é "\\u00e9" \n' * n, "n": -n, "x": [{}, None, 1.5e3]} for n in range(12)]
    for indent in (None, 2):
        path = write(tmp_path / "a.json", json.dumps(rows, indent=indent) + " \n")
        assert read(path) == rows
    assert read(write(tmp_path / "b.json", "[ ]")) == []


# Separators and standard input


def test_semicolons_are_found_or_given(tmp_path):
    found = write(tmp_path / "a.csv", 'text;label\na, b;1\n"c; d";2\n')
    assert list(load_files([found], TEXT_LABEL)["text"]) == ["a, b", "c; d"]
    given = write(tmp_path / "b.csv", "text|a,b;label\nx|y\n")
    assert read(given, separator="|") == [{"text": "x", "a,b;label": "y"}]
    assert list(load_files([given], TEXT, separator="|")["text"]) == ["x"]
    with pytest.raises(OptionError, match=r"separator belongs to CSV files; got '\|' for .* json"):
        load_files([write(tmp_path / "a.jsonl", "{}")], separator="|")


@pytest.mark.parametrize("separator", ["", ";;", '"', "\n"])
def test_a_separator_is_one_character(separator):
    with pytest.raises(OptionError, match="separator must be one character"):
        TaskOptions(separator=separator)


@pytest.mark.parametrize(
    ("content", "suffix"), [('\n{"text": "a"}', ".jsonl"), ("[]", ".jsonl"), ("text\na", ".csv")]
)
def test_standard_input_is_copied(monkeypatch, content, suffix):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    with standard_input_as_file(["-"]) as (path,):
        assert Path(path).suffix == suffix
        assert Path(path).read_text() == content
    assert not Path(path).exists()
    with pytest.raises(OptionError, match="must be the only input; got 2"):
        standard_input_as_file(["-", "a"]).__enter__()
    with standard_input_as_file(["a"]) as paths:
        assert paths == ["a"]


def test_a_tab_is_the_separator_of_a_file_without_commas(tmp_path):
    path = write(tmp_path / "a.csv", "text\tlabel\na, b; c\tx\n")
    assert read(path) == [{"text": "a, b; c", "label": "x"}]
    path = write(tmp_path / "b.csv", "text,label\ta\nb,c\n")
    assert read(path) == [{"text": "b", "label\ta": "c"}]


def test_two_columns_of_one_name(tmp_path):
    """The second was dropped silently; it does not matter in a column that nobody reads."""
    path = write(tmp_path / "a.csv", "text,label,label,note,note\na,x,y,1,2\n")
    with pytest.raises(DataError, match=r"a name of its own; .*a\.csv has two named 'label'"):
        load_files([str(path)], TEXT_LABEL)
    assert load_files([str(path)], TEXT)["text"] == ["a"]


def test_a_row_with_too_few_fields(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\na,x\n   \nb\n")  # the third line is blank
    with pytest.raises(DataError, match=r"line 4 has 1: add the others, or quote a text that goes"):
        read(path)


@pytest.mark.parametrize("label", ["1234567890123456789", "-9" + "0" * 18, "1e999", "1.5e400"])
def test_numbers_that_would_lose_digits_are_names(tmp_path, label):
    """Ids of 19 digits became floats, and several of them the same one; 1e999 became infinity."""
    path = write(tmp_path / "a.csv", f"text,label\na,{label}\nb,1\n")
    assert load_files([str(path)], TEXT_LABEL)["label"] == [label, "1"]


# Columns that hold a text or a list of texts


@pytest.mark.parametrize("value", ["a ship", ["a ship", "a cow"]])
def test_a_text_or_a_list_of_texts(tmp_path, value):
    columns: dict[str, ColumnKind] = {"documents": "text_or_texts"}
    path = write_jsonl(tmp_path / "a.jsonl", [{"documents": value}, {"documents": value}])
    assert list(load_files([path], columns)["documents"]) == [value, value]
    mixed = write_jsonl(tmp_path / "b.jsonl", [{"documents": "a"}, {"documents": ["b"]}])
    with pytest.raises(DataError, match=r"'documents' must hold values of one type.*line 2"):
        load_files([mixed], columns)
    wrong = write_jsonl(tmp_path / "c.jsonl", [{"documents": value}, {"documents": ["b", 3]}])
    with pytest.raises(DataError, match=r"must hold lists of texts; .*line 2 holds 3 as item 2"):
        load_files([wrong], columns)


def test_numbers_in_a_csv_file_are_texts_where_texts_are_read(tmp_path):
    path = write(tmp_path / "a.csv", "documents\n12\n0.5\n")
    assert list(load_files([path], {"documents": "text_or_texts"})["documents"]) == ["12", "0.5"]
