"""`bigbird index` and `bigbird search` from the command line to what they print."""

import json
import sys

import pytest
from tiny_checkpoints import Checkpoints, sentence

from flax_bigbird.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return Checkpoints(tmp_path_factory.mktemp("models"))("FlaxBigBirdForMaskedLM")


@pytest.fixture(scope="module")
def index(model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(4):
        (folder / f"{number}.txt").write_text(sentence(number, 10))
    (folder / "rows.jsonl").write_text(json.dumps({"text": "the cow\n" * 90}) + "\n")
    path = str(folder.parent / f"{folder.name}-index")
    options = ["--model", model, "--chunk-tokens", "300", "--max-length", "64"]
    assert main(["index", str(folder), "-o", path, *options]) == 0
    return path


def test_what_was_done_is_printed(model, tmp_path, capsys):
    (tmp_path / "a.txt").write_text(sentence(1, 10))
    (tmp_path / "b.txt").write_text(sentence(1, 10))
    (tmp_path / "c.txt").write_bytes(b"\xff")
    (tmp_path / "d.md").write_text("")
    (tmp_path / "e.py").write_text("x")
    command = ["index", str(tmp_path), "--output", str(tmp_path / "index"), "--model", model]
    assert main(command) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for message in (
        "skipped c.txt: data files must be UTF-8",
        "b.txt is the same as a.txt, and is indexed once",
        "1 file is empty, d.md",
        "1 file of another format is not indexed",
        "3 files added, 0 changed, 0 removed; 1 chunk",
    ):
        assert message in shown
    assert main(command) == 0
    assert "0 files added, 0 changed, 0 removed; 1 chunk" in capsys.readouterr().out


def test_results_are_printed_as_a_table_or_as_json(index, capsys):
    command = ["search", index, "the cow", "--top-k", "5", "--exact"]
    assert main([*command, "--format", "json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert len(results) == 5
    scores = [result["score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    row = next(result for result in results if result["file"] == "rows.jsonl")
    assert (row["row"], row["line"], row["start"], row["duplicates"]) == (1, 1, 0, [])
    assert row["text"].startswith("the cow\nthe cow")
    assert main([*command, "--hybrid"]) == 0
    shown = capsys.readouterr().out
    assert "rows.jsonl, row 1, line 1, characters 0-" in shown
    assert " cow ... 2. " in " ".join(shown.split())
    assert shown.startswith("1. ")


def test_names_and_texts_do_not_control_the_terminal(model, tmp_path, capsys):
    folder = tmp_path / "texts"
    (folder / "[").mkdir(parents=True)
    (folder / "[" / "bold].txt").write_bytes(b"\xff")
    (folder / "\x1b[2J.md").write_text("the cow \x1b]0;title\x07 [/red] ships")
    (tmp_path / "index[").mkdir()
    index = str(tmp_path / "index[" / "b]")
    assert main(["index", str(folder), "-o", index, "--model", model]) == 0
    shown = "".join(capsys.readouterr().out.splitlines())
    assert "skipped [/bold].txt: data files" in shown
    assert f"1 file: {index}" in shown
    assert main(["search", index, "cow", "--words"]) == 0
    shown = capsys.readouterr().out
    assert "1. \\x1b[2J.md, line 1" in shown
    assert "the cow \\x1b]0;title\\x07 [/red] ships" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "{folder}", "-o", "out"], "none does not exist"),
        (["index", "{index}"], "output must be given; got none: add --output INDEX"),
        (["index", "{index}", "-o", "out", "--chunk-tokens", "0"], "chunk_tokens must be at least"),
        (
            ["index", "{index}", "-o", "out", "--separator", ";"],
            "separator is an option of files of one format; got it for a",
        ),
        (
            ["index", "{index}", "-o", "out", "--max-length", "x"],
            "max_length must be of type int; got 'x'",
        ),
        (["search", "{folder}", "x"], "none does not exist: check the path, or build it with"),
        (["search", "{index}", " "], "a query must have words"),
        (["search", "{index}", "x", "--top-k", "0"], "top_k must be at least 1; got 0"),
        (["search", "{index}", "x", "--top-k", "many"], "top_k must be of type int; got 'many'"),
        (["search", "{index}", "x", "--format", "xml"], "format must be one of table, json"),
        (["search", "{index}", "x", "--model", "none"], "needs the model that it was built with"),
    ],
)
def test_errors_are_one_line(index, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    given = [a.format(index=index, folder=tmp_path / "none") for a in arguments]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["usearch", "bm25s"])
def test_a_missing_extra_names_the_command_that_installs_it(index, monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, name, None)
    for arguments in (["search", index, "x"], ["index", index, "-o", index]):
        assert main(arguments) == 2
        assert 'pip install "flax-bigbird[search]"' in capsys.readouterr().err
