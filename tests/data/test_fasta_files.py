"""FASTA files: records as rows, long records in parts, and files as people have them."""

import bz2
import gzip
import sys
import tracemalloc

import numpy as np
import pyarrow
import pytest

from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.files import expand_paths, iterate_rows
from flax_bigbird.data.loading import ORIGIN, file_columns, load_files
from flax_bigbird.data.readers import fasta_files
from flax_bigbird.data.standard_input import standard_input_as_file

TEXT: dict[str, ColumnKind] = {"text": "text"}


def write(path, content: str | bytes):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(path, file_format=None):
    kind, files = expand_paths([path], file_format)
    return list(iterate_rows(files, kind))


def random_bases(count: int, seed: int) -> str:
    letters = np.frombuffer(b"ACGT", np.uint8)
    return np.random.default_rng(seed).choice(letters, count).tobytes().decode()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n"])
def test_a_record_is_a_row(tmp_path, end, last):
    content = ">chr1  Homo sapiens\tchromosome 1\nACGT\nAC\n\n>chr2\nGG\nTT" + last
    path = write(tmp_path / "a.fa", content.replace("\n", end))
    assert [dict(row) for row in read(path)] == [
        {"text": "ACGTAC", "id": "chr1", "description": "Homo sapiens chromosome 1", "start": 0},
        {"text": "GGTT", "id": "chr2", "description": "", "start": 0},
    ]
    assert [row.origin for row in read(path)] == [f"{path}, line 1", f"{path}, line 5"]
    rows = load_files([path], TEXT)
    assert list(rows["text"]) == ["ACGTAC", "GGTT"]
    assert list(rows[ORIGIN]) == [f"{path}, line 1", f"{path}, line 5"]
    assert file_columns([path]) == ["text", "id", "description", "start"]


@pytest.mark.parametrize(
    "name", ["a.fasta", "a.fna", "a.ffn", "a.faa", "A.FA", "a.fa.gz", "a.fasta.bz2", "a.fna.zst"]
)
def test_names_show_the_format(tmp_path, name):
    content = b">x\nACGT\n"
    if name.endswith(".gz"):
        content = gzip.compress(content)
    elif name.endswith(".bz2"):
        content = bz2.compress(content)
    elif name.endswith(".zst"):
        content = pyarrow.Codec("zstd").compress(content, asbytes=True)
    assert [row["text"] for row in read(write(tmp_path / name, content))] == ["ACGT"]


def test_the_format_can_be_named(tmp_path):
    assert read(write(tmp_path / "genome.txt", ">x\nACGT"), "fasta")[0]["text"] == "ACGT"


def test_standard_input_is_recognized(tmp_path, monkeypatch):
    with open(write(tmp_path / "input", ">x\nACGT\n")) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        with standard_input_as_file(["-"]) as (file,):
            assert [row["id"] for row in read(file)] == ["x"]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (">x\nacgtNNNNac\n", ["ACGTNNNNAC"]),  # lower case is soft masking
        ("; a comment\n;another\n>x\nAC\n; inside\nGT\n", ["ACGT"]),
        (">x\n AC GT \t10\n", ["ACGT10"]),
        ("\n\n>x\n\nAC\n\n\nGT\n\n", ["ACGT"]),
        (">sp|P1|A_HUMAN protein\nMKV-LX*\n", ["MKV-LX*"]),
        (">x\n>y\nAC\n>z\n\n", ["", "AC", ""]),
        (">x\nAC[MASK]GT\n", ["AC[MASK]GT"]),
        ("\ufeff>x\nAC\n", ["AC"]),
        (">x\n" + "N" * 300 + "\n", ["N" * 300]),  # a short record stays as it is
    ],
)
def test_odd_files(tmp_path, content, texts):
    assert [row["text"] for row in read(write(tmp_path / "a.fa", content))] == texts


def test_a_header_without_a_name(tmp_path):
    rows = read(write(tmp_path / "a.fa", ">\nAC\n>  \nGT\n> x y\nAA\n"))
    assert [(row["id"], row["description"]) for row in rows] == [("", ""), ("", ""), ("x", "y")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("; c\n\nACGT\n>x\nAC\n", "must begin with a header.*a.fa, line 3 is 'ACGT'"),
        ("@read\nACGT\n+\nIIII\n", "must begin with a header.*a.fa, line 1 is '@read'"),
        (b">x\nAC\n\x00\x01\x02\n", "line 3 holds the byte 0x00"),
        (b"\x7fELF\x02\x01\x01\n", "line 1 holds the byte 0x7f"),
        (b"\x89PNG\r\n\x1a\n", "line 1 holds the byte 0x89"),
        (">x\nACGé\n", "line 2 holds the byte 0xc3"),
        (">x\nACG>y\nAC\n", "line 2 holds the byte 0x3e.*on a line of its own"),
        (b">caf\xe9\nAC\n", "a.fa, line 1 is not .byte 0xe9 at column 5"),
        (">x\rACGT\r", "a.fa, line 1 holds a carriage return alone"),
        (">x\nAC\n".encode("utf-16"), "UTF-16"),
        (">" + "x" * (fasta_files.MAX_HEADER_LENGTH + 1), "a header .* at most 1,048,576 bytes"),
    ],
)
def test_what_is_no_fasta_file_is_an_error_with_its_line(tmp_path, content, message):
    path = write(tmp_path / "a.fa", content)
    with pytest.raises(DataError, match=message):
        read(path)
    with pytest.raises(DataError, match=message):
        load_files([path], TEXT)


def test_a_file_without_records_is_an_error(tmp_path):
    with pytest.raises(DataError, match="must have rows"):
        load_files([write(tmp_path / "a.fa", "; nothing\n\n")], TEXT)


@pytest.mark.parametrize("width", [1, 7, 70, 10**6])
def test_long_records_are_split_at_multiples_and_gaps(tmp_path, monkeypatch, width):
    monkeypatch.setattr(fasta_files, "MAX_ROW_LENGTH", 1000)
    bases = random_bases(4321, seed=1)
    gaps = [(0, 150), (400, 499), (700, 800), (1900, 2300), (3000, 4000), (4221, 4321)]
    for start, end in gaps:
        bases = bases[:start] + "N" * (end - start) + bases[end:]
    lines = [bases[start : start + width] for start in range(0, len(bases), width)]
    path = write(tmp_path / "a.fa", ">chrX the X\n" + "\n".join(lines) + "\n>short\n" + "N" * 999)
    *rows, short = read(path)
    assert short["text"] == "N" * 999
    expected = [(150, 700), (800, 1000), (1000, 1900), (2300, 3000), (4000, 4221)]
    assert [(row["start"], row["start"] + len(row["text"])) for row in rows] == expected
    for row in rows:
        assert row["text"] == bases[row["start"] :][: len(row["text"])]
        assert (row["id"], row["description"]) == ("chrX", "the X")
    assert rows[2].origin == f"{path}, line 1, start 1,000"


def test_a_record_of_the_maximum_length_is_one_row(tmp_path):
    bases = random_bases(fasta_files.MAX_ROW_LENGTH, seed=2)
    (row,) = read(write(tmp_path / "a.fa", f">x\n{bases}\n"))
    assert row["text"] == bases
    rows = read(write(tmp_path / "b.fa", f">x\n{bases}A\n"))
    assert [(row["start"], row["text"]) for row in rows] == [(0, bases), (len(bases), "A")]


def test_a_chromosome_in_one_line_needs_little_memory(tmp_path):
    path = tmp_path / "a.fa"
    path.write_bytes(b">x\n" + b"ACGTTGCA" * 1_000_000)
    tracemalloc.start()
    try:
        count = sum(len(row["text"]) for row in iterate_rows([path], "fasta"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 8_000_000
    assert peak < 2_000_000
