"""Reads CoNLL files: one word with its tags per line, and a blank line after each sentence.

The rows of a file are its documents if it marks them with `-DOCSTART-`, and otherwise its
sentences. The first column holds the words and the last one the tags. The fields of a line are
separated by tabs if it has one, and otherwise by spaces. A line that begins with `# ` before the
first word of a sentence is a comment.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from flax_bigbird._messages import pluralize
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.readers.lines import iterate_lines
from flax_bigbird.data.readers.rows import FileRow

DOCUMENT_START = "-DOCSTART-"

_SPACES = re.compile(r"[ \t]+")

Word = tuple[int, list[str]]
"""The number of a line, and its fields."""


def read_conll(file: Path) -> Iterator[FileRow]:
    """Yields the documents or sentences of a CoNLL file.

    A row has the columns `tokens`, `tags` if there are two columns or more, and `column_1`,
    `column_2` and so on, which are all columns of the file.

    Where two sentences of a document meet, `I-X` after an entity of the type X would continue that
    entity. It is read as `B-X`, which is how IOB1 separates two entities.

    Raises:
      DataError: if the file is not UTF-8, or if a line has another number of columns than the
        first. The message names the line.
    """
    has_documents = any(line.startswith(DOCUMENT_START) for _, line in iterate_lines(file))
    document: list[Word] = []
    for sentence in _iterate_sentences(file):
        if not has_documents:
            yield _row(file, sentence)
        elif sentence:
            if document:
                sentence = _separate_entities(document[-1][1], sentence)
            document += sentence
        elif document:
            yield _row(file, document)
            document = []
    if document:
        yield _row(file, document)


def _iterate_sentences(file: Path) -> Iterator[list[Word]]:
    """Yields the sentences, and an empty list where a document starts."""
    sentence: list[Word] = []
    num_columns = 0
    for number, line in iterate_lines(file):
        line = line.strip("\r\n")
        is_start = line.startswith(DOCUMENT_START)
        if is_start or not line.strip():
            if sentence:
                yield sentence
                sentence = []
            if is_start:
                yield []
            continue
        if not sentence and (line.startswith("# ") or line == "#"):
            continue
        fields = _split(line)
        num_columns = num_columns or len(fields)
        if len(fields) != num_columns or not all(fields):
            raise DataError(
                f"every word of a CoNLL file must have the {pluralize(num_columns, 'column')} of "
                f"the first; {file}, line {number} has {len(list(filter(None, fields)))}: correct "
                "it, and separate columns by single tabs or by spaces"
            )
        sentence.append((number, fields))
    if sentence:
        yield sentence


def _split(line: str) -> list[str]:
    if "\t" in line:
        return [field.strip(" ") for field in line.strip(" ").split("\t")]
    return _SPACES.split(line.strip(" "))


def _separate_entities(last: list[str], sentence: list[Word]) -> list[Word]:
    """Returns a sentence whose first word does not continue an entity that ends in `last`."""
    number, fields = sentence[0]
    fields = [
        f"B-{field[2:]}"
        if column > 0 and field.startswith("I-") and previous[1:] == field[1:]
        else field
        for column, (previous, field) in enumerate(zip(last, fields, strict=True))
    ]
    return [(number, fields), *sentence[1:]]


def _row(file: Path, words: list[Word]) -> FileRow:
    columns = [list(column) for column in zip(*(fields for _, fields in words), strict=True)]
    row: dict[str, list[str]] = {"tokens": columns[0]}
    if len(columns) > 1:
        row["tags"] = columns[-1]
    row |= {f"column_{number}": column for number, column in enumerate(columns, 1)}
    return FileRow(row, f"{file}, line {words[0][0]}")
