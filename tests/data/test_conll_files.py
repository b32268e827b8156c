"""CoNLL files: documents or sentences as rows, columns, comments, and the lines of errors."""

import pytest

from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.files import expand_paths, iterate_rows
from flax_bigbird.data.loading import load_files
from flax_bigbird.tasks.tag_schemes import detect_tag_scheme, group_words

TAGGED: dict[str, ColumnKind] = {"tokens": "texts", "tags": "labels"}


def write(path, content):
    path.write_bytes(content.encode())
    return str(path)


def read(path, file_format=None):
    kind, files = expand_paths([path], file_format)
    return list(iterate_rows(files, kind))


FOUR = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

Peter NNP B-NP B-PER
-DOCSTART- -X- -X- O

BRUSSELS NNP B-NP B-LOC

"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_documents_of_four_columns(tmp_path, end):
    path = write(tmp_path / "eng.conll", "\ufeff" + FOUR.replace("\n", end))
    rows = read(path)
    assert [row["tokens"] for row in rows] == [["EU", "rejects", "Peter"], ["BRUSSELS"]]
    assert [row["tags"] for row in rows] == [["B-ORG", "O", "B-PER"], ["B-LOC"]]
    assert rows[0]["column_2"] == ["NNP", "VBZ", "NNP"]
    assert rows[0]["column_4"] == rows[0]["tags"]
    assert [row.origin for row in rows] == [f"{path}, line 3", f"{path}, line 9"]
    assert list(load_files([path], TAGGED)["tags"]) == [row["tags"] for row in rows]
    pos: dict[str, ColumnKind] = {"tokens": "texts", "column_2": "labels"}
    assert list(load_files([path], pos)["column_2"])[1] == ["NNP"]


@pytest.mark.parametrize("separator", [" ", "\t", "  "])
def test_sentences_of_two_columns(tmp_path, separator):
    lines = ["# id 1", "#", "Mr.~O", "#~O", "# x~O", "", " \t", "", "# id 2", "Adams~B-PER"]
    content = "\n".join(lines).replace("# x~O", "x~O").replace("~", separator)
    rows = read(write(tmp_path / "a.bio", content))
    assert [row["tokens"] for row in rows] == [["Mr.", "#", "x"], ["Adams"]]
    assert [row["tags"] for row in rows] == [["O", "O", "O"], ["B-PER"]]
    assert [row.origin.rpartition(" ")[2] for row in rows] == ["3", "10"]


def test_words_without_tags(tmp_path):
    path = write(tmp_path / "a.conll", "Mr.\nAdams\n\nBoston\n")
    assert [dict(row) for row in read(path)] == [
        {"tokens": ["Mr.", "Adams"], "column_1": ["Mr.", "Adams"]},
        {"tokens": ["Boston"], "column_1": ["Boston"]},
    ]
    with pytest.raises(DataError, match="must have a column 'tags'"):
        load_files([path], TAGGED)


def test_words_with_spaces_between_tabs(tmp_path):
    (row,) = read(write(tmp_path / "a.conll", "New York\tB-LOC\nno\u00a0break\tO\n"))
    assert row["tokens"] == ["New York", "no\u00a0break"]


def test_words_before_the_first_document_are_one(tmp_path):
    content = "a O\n\nb O\n\n-DOCSTART- O\n\nc O\n-DOCSTART- O\n-DOCSTART- O\nd O"
    rows = read(write(tmp_path / "a.conll", content))
    assert [row["tokens"] for row in rows] == [["a", "b"], ["c"], ["d"]]


def test_entities_end_with_their_sentence(tmp_path):
    content = "-DOCSTART- O\n\nParis I-LOC\n\nLondon I-LOC\nCity I-LOC\n\nAnn I-PER\n"
    (row,) = read(write(tmp_path / "a.conll", content))
    assert row["tags"] == ["I-LOC", "B-LOC", "I-LOC", "I-PER"]
    scheme = detect_tag_scheme([row["tags"]])
    assert scheme == "IOB1"
    assert group_words(row["tags"], scheme) == [("LOC", 0, 1), ("LOC", 1, 3), ("PER", 3, 4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a O\nb\n", "the 2 columns of the first; .*, line 2 has 1"),
        ("a O\n\nb N O\n", "the 2 columns of the first; .*, line 3 has 3"),
        ("a\tO\nb\t\n", "the 2 columns of the first; .*, line 2 has 1"),
        ("a O\nb\tO O\n", None),
    ],
)
def test_lines_with_other_columns(tmp_path, content, message):
    path = write(tmp_path / "a.conll", content)
    if message is None:
        assert read(path)[0]["tags"] == ["O", "O O"]
        return
    with pytest.raises(DataError, match=message):
        load_files([path], TAGGED)


def test_the_format_can_be_given(tmp_path):
    path = write(tmp_path / "train.txt", FOUR)
    with pytest.raises(DataError, match=r"is a CoNLL file, .*: set file_format=conll"):
        load_files([path], TAGGED)
    assert read(path, "conll") == read(write(tmp_path / "eng.conll", FOUR))
    rows = load_files([write(tmp_path / "eng.testa", FOUR)], TAGGED, file_format="conll")
    assert len(rows) == 2
    assert len(load_files([str(tmp_path)], TAGGED, file_format="conll")) == 2
