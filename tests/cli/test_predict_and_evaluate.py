"""`bigbird predict` and `bigbird evaluate` from the command line to the files that they write."""

import json
from pathlib import Path

import pytest
from tiny_checkpoints import Checkpoints, read_jsonl, sentence, write_jsonl

from flax_bigbird.cli.main import main


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    return Checkpoints(tmp_path_factory.mktemp("models"))("FlaxBigBirdForSequenceClassification")


@pytest.fixture
def rows(tmp_path) -> str:
    texts = [{"id": f"n{n}", "text": sentence(n, 1 + 7 * (n % 5))} for n in range(10)]
    return write_jsonl(tmp_path / "in.jsonl", texts)


def test_predict_writes_answers_and_evaluate_metrics(classifier, rows, tmp_path, capsys):
    target = tmp_path / "out.jsonl"
    assert main(["predict", classifier, rows, "-o", str(target), "--keep", "id"]) == 0
    assert "10 rows" in capsys.readouterr().out
    assert [row["id"] for row in read_jsonl(target)] == [f"n{n}" for n in range(10)]
    answers = read_jsonl(target)
    labels = ["neither", *(answer["label"] for answer in answers[1:])]
    examples = [
        {"text": row["text"], "label": label}
        for row, label in zip(read_jsonl(rows), labels, strict=True)
    ]
    labeled = write_jsonl(tmp_path / "labeled.jsonl", examples)
    out = tmp_path / "metrics.json"
    assert main(["evaluate", classifier, labeled, "-o", str(out)]) == 0
    right = 10 if answers[0]["label"] == "neither" else 9
    metrics = json.loads(out.read_text())["metrics"]
    assert metrics["accuracy"] == pytest.approx(right / 10)
    assert "accuracy" in capsys.readouterr().out


def test_predict_needs_a_new_output(classifier, rows, tmp_path, capsys):
    target = tmp_path / "out.jsonl"
    target.write_text("")
    assert main(["predict", classifier, rows, "-o", str(target)]) == 2
    shown = capsys.readouterr()
    assert "output must be new" in shown.err
    assert shown.out == "", "the progress bar must wait until all is checked"
    assert main(["predict", classifier, rows]) == 2
    assert "add --output FILE.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ('{"text": 3}\n{"text": "a"}\n', [], "in.jsonl, line 1: column 'text' must hold"),
        ("", [], "in.jsonl"),
        ('{"text": "a"}\n', ["--mesh", "data=99"], "mesh"),
    ],
)
def test_a_progress_bar_starts_after_the_checks(classifier, tmp_path, capsys, text, flags, message):
    (tmp_path / "in.jsonl").write_text(text)
    line = ["predict", classifier, str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl")]
    assert main([*line, *flags]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in " ".join(shown.err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_evaluate_does_not_replace_its_input(classifier, tmp_path, capsys):
    labeled = write_jsonl(tmp_path / "labeled.jsonl", [{"text": "a", "label": "barn"}])
    assert main(["evaluate", classifier, labeled, "-o", labeled]) == 2
    assert "output must not be a file that is read" in capsys.readouterr().err


def test_evaluate_names_an_unknown_label(classifier, tmp_path, capsys):
    unknown = write_jsonl(tmp_path / "unknown.jsonl", [{"text": "a", "label": "barn"}])
    assert main(["evaluate", classifier, unknown]) == 2
    assert "unknown.jsonl, line 1 has 'barn'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_an_option_of_another_task_is_refused(classifier, rows, tmp_path, command, capsys):
    line = [command, classifier, rows, "-o", str(tmp_path / "out.jsonl"), "--stride", "8"]
    assert main(line) == 2
    assert "stride is an option of question-answering; got it for" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [Path(rows)]


def test_a_misspelled_shipped_model_is_named(tmp_path, capsys):
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a [MASK]"}])
    line = ["predict", "bigbird-books-mni", str(rows), "-o", str(tmp_path / "out.jsonl")]
    assert main(line) == 2
    message = capsys.readouterr().err
    assert message.endswith(": did you mean bigbird-books-mini?\n")


def test_a_model_that_is_missing_needs_no_argument_of_python(tmp_path, capsys):
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a [MASK]"}])
    assert main(["predict", "nothing", str(rows), "-o", str(tmp_path / "out.jsonl")]) == 2
    assert capsys.readouterr().err.endswith(": check the path\n")


def test_a_run_that_is_not_finished_is_no_model_yet(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/options.yaml").write_text("task: masked-lm\n")
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}])
    assert main(["evaluate", str(tmp_path / "run"), str(rows)]) == 2
    message = capsys.readouterr().err
    assert "holds a run of bigbird train that is not finished: finish it" in message


def test_missing_parameters_are_named_without_saying_that_they_exist(tmp_path, capsys):
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a", "label": "b"}])
    line = ["evaluate", "bigbird-books-mini", str(rows), "--task", "sequence-classification"]
    assert main(line) == 2
    message = capsys.readouterr().err
    assert "SequenceClassification; bigbird-books-mini lacks bert/pooler/bias, " in message
    assert "initialized" not in message


def test_messages_of_an_evaluation_are_sentences(classifier, tmp_path, capsys):
    examples = [{"text": text, "label": "neither"} for text in ("", sentence(5, 3))]
    labeled = write_jsonl(tmp_path / "labeled.jsonl", examples)
    assert main(["evaluate", classifier, labeled]) == 0
    assert "labeled.jsonl, line 1.sequence-classification" in "".join(
        capsys.readouterr().out.splitlines()
    )


@pytest.mark.parametrize(
    ("row", "flags", "remedy"),
    [
        (
            {"text": "a"},
            [],
            "must have a column 'label'; got text: name the right one with label_column",
        ),
        ({"text": "a", "label": "b"}, ["--text-column", "c"], "with text_column"),
    ],
)
def test_a_missing_column_of_evaluation_names_its_option(
    classifier, tmp_path, capsys, row, flags, remedy
):
    labeled = write_jsonl(tmp_path / "labeled.jsonl", [row])
    assert main(["evaluate", classifier, labeled, *flags]) == 2
    assert capsys.readouterr().err.endswith(f"{remedy}\n")


def test_a_broken_line_of_json_is_named_by_line_and_column(classifier, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "no"}\n{"text": "a\n{}\n')
    assert main(["evaluate", classifier, str(tmp_path / "rows.jsonl")]) == 2
    assert "rows.jsonl, line 2 is not (Unterminated string, column 10):" in capsys.readouterr().err
