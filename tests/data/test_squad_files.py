"""SQuAD's own JSON format: one row per question, read in parts, with the place of every error."""

import json

import pytest

from flax_bigbird.data.columns import ColumnKind
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.files import expand_paths, iterate_rows
from flax_bigbird.data.loading import ORIGIN, load_files
from flax_bigbird.data.readers import json_stream

SQUAD: dict[str, ColumnKind] = {"question": "text", "context": "text", "answers": "answers"}


def question(identity, *answers, **more):
    return {"id": identity, "question": f"Who is {identity}?", "answers": list(answers)} | more


def answer(text, start):
    return {"text": text, "answer_start": start}


ARTICLES = [
    {
        "title": "One",
        "paragraphs": [
            {
                "context": "Ann met Bob.",
                "qas": [
                    question("a", answer("Ann", 0), answer("Ann met", 0), is_impossible=False),
                    question("b", is_impossible=True, plausible_answers=[answer("Bob", 8)]),
                ],
            },
            {"context": "Nobody \"asked\" 'é'.", "qas": []},
        ],
    },
    {"paragraphs": [{"context": "Cid.", "qas": [question("c", answer("Cid", 0))]}]},
]


def write(path, articles, **options):
    file = {"version": "v2.0", "data": articles, "notes": {"data": [1]}}
    path.write_text(json.dumps(file, **options))
    return str(path)


def read(path):
    kind, files = expand_paths([path])
    return list(iterate_rows(files, kind))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("size", [1, 13, 2**20])
def test_questions_are_rows(tmp_path, monkeypatch, indent, size):
    monkeypatch.setattr(json_stream, "CHUNK_SIZE", size)
    path = write(tmp_path / "dev.json", ARTICLES, indent=indent)
    rows = read(path)
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert [row.get("title") for row in rows] == ["One", "One", None]
    assert [row["context"] for row in rows] == ["Ann met Bob.", "Ann met Bob.", "Cid."]
    assert rows[1].origin == f"{path}, data[0].paragraphs[0].qas[1]"
    loaded = load_files([path], SQUAD)
    assert list(loaded["answers"]) == [
        {"text": ["Ann", "Ann met"], "answer_start": [0, 0]},
        {"text": [], "answer_start": []},
        {"text": ["Cid"], "answer_start": [0]},
    ]
    assert loaded[2][ORIGIN] == f"{path}, data[1].paragraphs[0].qas[0]"


def test_questions_without_answers_have_no_column_of_answers(tmp_path):
    unanswered = {"id": "a", "question": "Who?"}
    impossible = {"id": "b", "question": "Who?", "is_impossible": True}
    articles = [{"paragraphs": [{"context": "Ann.", "qas": [unanswered, impossible]}]}]
    rows = read(write(tmp_path / "test.json", articles))
    assert "answers" not in rows[0]
    assert rows[1]["answers"] == []


def test_lists_of_answers_are_read_in_lines_too(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"question": "Who?", "context": "Ann.", "answers": [answer("Ann", 0)]}
    path.write_text(json.dumps(row))
    expected = {"text": ["Ann"], "answer_start": [0]}
    assert list(load_files([str(path)], SQUAD)["answers"]) == [expected]


def test_a_column_of_data_is_not_squad(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [{"data": [{"x": 1}]}, {"data": []}, {"data": "text"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert [dict(row) for row in read(str(path))] == lines


def with_question(**changes):
    return [
        {"paragraphs": [{"context": "Ann.", "qas": [question("a", answer("Ann", 0)) | changes]}]}
    ]


@pytest.mark.parametrize(
    ("articles", "message"),
    [
        ([ARTICLES[0], 3], r"data\[1\] .* must be an object with paragraphs; .* has 3"),
        ([ARTICLES[0], {"title": "x"}], r"data\[1\] .* must be an object with paragraphs"),
        ([ARTICLES[0], {"paragraphs": {}}], r"data\[1\]\.paragraphs .* must be a list"),
        ([{"paragraphs": [{"qas": []}]}], r"data\[0\]\.paragraphs\[0\] .* text context"),
        ([{"paragraphs": [{"context": "x"}]}], r"paragraphs\[0\]\.qas .*; .* has none"),
        ([{"paragraphs": [{"context": "x", "qas": ["y"]}]}], r"qas\[0\] .* object .* has y"),
        (with_question(is_impossible=True), r"is_impossible must have no answers; .*qas\[0\] has"),
        (with_question(question=7), r"column 'question' must hold texts; .*qas\[0\] holds 7"),
        (with_question(answers=[{"answer_start": 1}]), r"answers must hold .*qas\[0\] has \[\{"),
        (with_question(answers=[answer(5, 1)]), r"answers must hold .*qas\[0\] has a text"),
        (with_question(answers=[answer("x", "1")]), r"one whole number .*qas\[0\] has"),
        (with_question(answers="Ann"), r"answers must hold .*qas\[0\] has 'Ann'"),
    ],
)
def test_errors_name_the_question(tmp_path, articles, message):
    path = write(tmp_path / "dev.json", articles)
    with pytest.raises(DataError, match=rf"(?s){message}"):
        load_files([path], SQUAD)


def test_a_file_that_is_cut_off(tmp_path):
    path = write(tmp_path / "dev.json", ARTICLES, indent=1)
    content = (tmp_path / "dev.json").read_text()
    (tmp_path / "dev.json").write_text(content[: content.index('"Cid."')])
    with pytest.raises(DataError, match=r"not after data\[0\]\.paragraphs\[1\]: .*, line \d+"):
        load_files([path], SQUAD)
