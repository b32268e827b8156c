"""Reads SQuAD's own JSON format, versions 1.1 and 2.0: one row for each question.

A file is `{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers":
[{"text", "answer_start"}]}]}]}]}`. In version 2.0, `is_impossible` marks a question without an
answer (Rajpurkar et al., 2018).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.readers.json_stream import JsonStream, open_json
from flax_bigbird.data.readers.rows import FileRow


def is_squad(file: Path) -> bool:
    """Returns whether a JSON file is in SQuAD's format: its `data` are lists of `paragraphs`."""
    try:
        with open_json(file) as stream:
            for key in stream.iterate_object():
                if key == "data" and stream.next_character() == "[":
                    for _ in stream.iterate_array():
                        return stream.next_character() == "{" and _has_paragraphs(stream)
                    return False
                stream.value()
    except DataError:  # the reader that is chosen reports it
        pass
    return False


def read_squad(file: Path) -> Iterator[FileRow]:
    """Yields the questions of a file in SQuAD's format; one paragraph is in memory at a time.

    A row has the columns `title`, if the article has one before its paragraphs, `context`, and all
    that the question has: `id`, `question`, `answers` (a list of objects), and others. A question
    with `is_impossible` has no answers.

    Raises:
      DataError: if the file does not follow the format. The message names the question, as in
        `data[0].paragraphs[2].qas[1]`.
    """
    with open_json(file) as stream:
        for key in stream.iterate_object():
            if key != "data":
                stream.value()
                continue
            for index in stream.iterate_array():
                yield from _article_rows(file, stream, f"data[{index}]")
        stream.check_end()


def _has_paragraphs(stream: JsonStream) -> bool:
    for key in stream.iterate_object():
        if key == "paragraphs":
            return stream.next_character() == "["
        stream.value()
    return False


def _article_rows(file: Path, stream: JsonStream, place: str) -> Iterator[FileRow]:
    """Yields the questions of the next value, which must be an article."""
    title: dict[str, Any] = {}
    has_paragraphs = False
    if stream.next_character() != "{":
        raise _wrong_type(file, place, "an object with paragraphs", stream.value())
    for key in stream.iterate_object():
        if key != "paragraphs":
            value = stream.value()
            title |= {"title": value} if key == "title" else {}
            continue
        has_paragraphs = True
        if stream.next_character() != "[":
            raise _wrong_type(file, f"{place}.paragraphs", "a list", stream.value())
        for index in stream.iterate_array():
            name = f"{place}.paragraphs[{index}]"
            yield from _paragraph_rows(file, stream.value(), name, title)
            stream.last = name
    if not has_paragraphs:
        raise _wrong_type(file, place, "an object with paragraphs", title)


def _paragraph_rows(
    file: Path, paragraph: Any, place: str, title: dict[str, Any]
) -> Iterator[FileRow]:
    if not isinstance(paragraph, dict) or not isinstance(paragraph.get("context"), str):
        raise _wrong_type(file, place, "an object with a text context", paragraph)
    questions = paragraph.get("qas")
    if not isinstance(questions, list):
        raise _wrong_type(file, f"{place}.qas", "a list of questions", questions)
    for index, question in enumerate(questions):
        name = f"{place}.qas[{index}]"
        if not isinstance(question, dict):
            raise _wrong_type(file, name, "an object with a question", question)
        row = title | {"context": paragraph["context"]} | question
        if question.get("is_impossible") and question.get("answers"):
            raise DataError(
                "a question with is_impossible must have no answers; "
                f"{file}, {name} has {str(question['answers'])[:60]}: remove one of the two"
            )
        if question.get("is_impossible"):
            row["answers"] = []
        yield FileRow(row, f"{file}, {name}")


def _wrong_type(file: Path, place: str, expected: str, value: Any) -> DataError:
    got = "none" if value is None else str(value)[:60]
    return DataError(
        f"{place} of a file in SQuAD's format must be {expected}; {file} has {got}: correct it"
    )
