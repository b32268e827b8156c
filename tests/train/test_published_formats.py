"""Files as data sets publish them: trained on, evaluated and answered by the same reader."""

import csv
import json

import pytest
from tiny_runs import tiny_run_options

from flax_bigbird.inference import evaluate, load_predictor, predict_files
from flax_bigbird.train import train

WORDS = ["ann", "bob", "cid", "dee", "eve", "fay", "gus", "hal"]


def write_squad(path):
    """Writes 40 questions of SQuAD 2.0, a quarter of them impossible."""
    questions = []
    for number in range(40):
        name = WORDS[number % 8]
        impossible = number % 4 == 0
        answers = [] if impossible else [{"text": name, "answer_start": 4}]
        questions.append(
            {
                "context": f"the {name} met {WORDS[(number + 3) % 8]} at noon",
                "qas": [
                    {
                        "id": str(number),
                        "question": "who met",
                        "is_impossible": impossible,
                        "answers": answers,
                    }
                ],
            }
        )
    path.write_text(json.dumps({"version": "v2.0", "data": [{"paragraphs": questions}]}))
    return {"keep": ["id"], "num_rows": 40, "metric": "f1"}


def write_conll(path):
    """Writes 20 documents of two sentences each."""
    lines = []
    for number in range(20):
        lines += ["-DOCSTART- -X- O O", ""]
        for word in WORDS[number % 5 : number % 5 + 2]:
            lines += [f"{word} NNP I-NP B-PER", "ran VBD I-VP O", ""]
    path.write_text("\n".join(lines))
    return {"keep": ["tags"], "num_rows": 20, "metric": "f1"}


def write_swag(path):
    """Writes 40 rows of SWAG's CSV."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["sent1", "sent2", "ending0", "ending1", "ending2", "label"])
        for number in range(40):
            endings = [f"met {WORDS[(number + n) % 8]}, at noon" for n in range(3)]
            writer.writerow([f"{WORDS[number % 8]} came", "he", *endings, number % 3])
    return {"keep": ["sent2"], "num_rows": 40, "metric": "accuracy"}


def write_race(path):
    """Writes 40 rows of RACE."""
    rows = [
        {
            "example_id": f"{number}.txt",
            "article": f"{WORDS[number % 8]} came at noon",
            "question": "who came",
            "options": [WORDS[(number + n) % 8] for n in range(4)],
            "answer": "ABCD"[number % 4],
        }
        for number in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return {"keep": ["example_id"], "num_rows": 40, "metric": "accuracy"}


@pytest.mark.parametrize(
    ("task", "name", "write", "options"),
    [
        ("question-answering", "train-v2.0.json", write_squad, {}),
        ("token-classification", "train.txt", write_conll, {"file_format": "conll"}),
        ("multiple-choice", "train.csv", write_swag, {}),
        ("multiple-choice", "train.jsonl", write_race, {}),
    ],
    ids=["SQuAD", "CoNLL", "SWAG", "RACE"],
)
def test_a_published_format_trains_evaluates_and_predicts(tmp_path, task, name, write, options):
    path = tmp_path / name
    expected = write(path)
    stride = {"stride": 8} if task == "question-answering" else {}
    run = tiny_run_options(
        tmp_path,
        task,
        train_files=[str(path)],
        vocab_size=40,
        max_steps=2,
        eval_steps=2,
        **stride,
        **options,
    )
    report = train(run)
    assert report["metrics"][expected["metric"]] >= 0
    result = evaluate(run.output_dir, [str(path)], **options)
    assert result["rows"] == expected["num_rows"]
    assert result["metrics"][expected["metric"]] >= 0
    output = tmp_path / "answers.jsonl"
    predictor = load_predictor(run.output_dir, **options)
    rows = predict_files(predictor, [path], output, keep=expected["keep"])
    assert rows == expected["num_rows"]
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert set(expected["keep"]) <= set(answers[0])


def test_columns_of_questions_can_be_named(tmp_path):
    rows = [
        {"q": "who met", "doc": f"the {name} met me", "a": {"text": [name], "answer_start": [4]}}
        for name in WORDS
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    columns = {"question_column": "q", "context_column": "doc", "answers_column": "a"}
    run = tiny_run_options(
        tmp_path,
        "question-answering",
        train_files=[str(path)],
        vocab_size=32,
        max_steps=1,
        eval_steps=1,
        stride=8,
        **columns,
    )
    train(run)
    assert evaluate(run.output_dir, [str(path)])["rows"] == 8
    read = load_predictor(run.output_dir)
    answer = read({"q": "who met", "doc": "the ann met me"})
    assert answer["answer"] in "the ann met me"
