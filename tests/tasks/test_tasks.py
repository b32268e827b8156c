"""Rows in, answers out: every task, files of any size, ends midway."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import flax_bigbird
from flax_bigbird import tasks
from flax_bigbird._transformers import bigbird_config_class
from flax_bigbird.cli.main import main
from flax_bigbird.tasks import base, predicting
from flax_bigbird.tasks.errors import DataError, OptionError
from flax_bigbird.train import vocabulary

WORDS = [
    "the",
    "cow",
    "grazes",
    "in",
    "a",
    "green",
    "meadow",
    "while",
    "a",
    "ship",
    "leaves",
    "the",
    "grey",
    "harbour",
    "at",
    "noon",
]
NAMES = {0: "meadow", 1: "harbour", 2: "neither"}


def sentence(seed: int, count: int) -> str:
    generator = np.random.default_rng(seed)
    return " ".join(generator.choice(WORDS, count))


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """A function: the folder of an untrained model with a head and a tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    pieces = vocabulary.train_vocabulary([sentence(n, 40) for n in range(50)], 60, or_fewer=True)

    def made(head: str, **changes):
        target = folder / (head + "-".join(map(str, changes.values())))
        if not target.exists():
            settings = {
                "vocab_size": 64,
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "block_size": 8,
                "num_random_blocks": 1,
                "max_position_embeddings": 64,
                "initializer_range": 0.3,
                "random_attention": "fixed",
                "id2label": NAMES,
                **changes,
            }
            config = bigbird_config_class()(**settings)
            getattr(flax_bigbird, head)(config, seed=1).save_pretrained(target)
            vocabulary.save_vocabulary(pieces, target, 64)
        return str(target)

    return made


@pytest.fixture
def classifier(make):
    return make("FlaxBigBirdForSequenceClassification")


@pytest.fixture
def few_ahead(monkeypatch):
    """Parts of three rows."""
    monkeypatch.setattr(base, "ROWS_AHEAD", 3)


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def rows(tmp_path):
    """Ten texts of very different lengths."""
    found = [{"id": f"n{n}", "text": sentence(n, 1 + 7 * (n % 5))} for n in range(10)]
    return write(tmp_path / "in.jsonl", found)


def test_classes_of_rows_are_those_of_each_alone(classifier):
    classify = tasks.load(classifier)
    texts = [sentence(n, length) for n, length in enumerate((1, 30, 4, 200))]
    together = classify(texts)
    for text, found in zip(texts, together, strict=True):
        alone = classify(text)
        assert alone["label"] == found["label"] == max(found["scores"], key=found["scores"].get)
        assert found["score"] == found["scores"][found["label"]]
        assert sum(found["scores"].values()) == pytest.approx(1)
        assert list(found["scores"]) == list(NAMES.values())
        assert alone["scores"] == pytest.approx(found["scores"], abs=1e-5)
    assert len({round(found["score"], 4) for found in together}) > 1


def test_several_labels_and_numbers(make):
    head = "FlaxBigBirdForSequenceClassification"
    several = tasks.load(make(head, problem_type="multi_label_classification"))(sentence(0, 9))
    assert several["labels"] == [n for n, s in several["scores"].items() if s >= 0.5]
    number = tasks.load(make(head, problem_type="regression", id2label={0: "value"}))("the cow")
    assert isinstance(number["value"], float)


def test_every_word_has_a_tag_in_windows_too(make):
    """A document of several windows: each word's tag is that of its own window read alone."""
    tag = tasks.load(make("FlaxBigBirdForTokenClassification"))
    words = sentence(3, 150).split()
    found = tag({"tokens": words})
    assert len(found["tags"]) == len(found["scores"]) == 150
    assert set(found["tags"]) <= set(NAMES.values())
    windows = tag.windows({"tokens": words})
    assert len(windows) > 2
    at = 0
    for window in windows:
        count = len(window.note)
        alone = tag({"tokens": words[at : at + count]})
        assert alone["tags"] == found["tags"][at : at + count]
        at += count
    assert at == 150
    # A word's tag is the likeliest at its first piece.
    few = tag({"tokens": words[:9]})
    (window,) = tag.windows({"tokens": words[:9]})
    logits = tag.model(np.array([window.ids])).logits[0]
    firsts = [int(logits[place].argmax()) for _, place in window.note]
    assert few["tags"] == [NAMES[number] for number in firsts]
    assert len(set(firsts)) > 1
    split = tag("the cow  grazes\n")
    assert split["words"] == ["the", "cow", "grazes"]
    assert tag({"tokens": []})["tags"] == []


def test_an_answer_stands_in_its_context(make):
    answer = tasks.load(make("FlaxBigBirdForQuestionAnswering"), stride=8)
    context = sentence(5, 200)
    found = answer({"question": "the cow", "context": context})
    span = found["no_answer_score"] <= found["score"]
    if span:
        assert context[found["start"] : found["end"]] == found["answer"] != ""
    else:
        assert found["answer"] == ""
        assert found["start"] is None
    # The likeliest span of all windows, by hand.
    windows = answer.windows({"question": "the cow", "context": context})
    assert len(windows) > 3
    scores = []
    for window in windows:
        batch = {k: v[None] for k, v in answer.arrays(window, 64).items()}
        out = answer.model(batch["input_ids"], batch["attention_mask"])
        start, end = np.array(out.start_logits[0]), np.array(out.end_logits[0])
        first, last = window.note.context_at, window.note.context_at + len(window.note.places)
        best = max(
            start[a] + end[b] for a in range(first, last) for b in range(a, min(a + 30, last))
        )
        scores.append(float(best))
    assert found["score"] == pytest.approx(max(scores), abs=1e-4)


def test_masks_are_filled_with_pieces(make):
    fill = tasks.load(make("FlaxBigBirdForMaskedLM"))
    found = fill("the [MASK] grazes in a [MASK]")
    assert len(found["masks"]) == 2
    for mask in found["masks"]:
        scores = [entry["score"] for entry in mask]
        assert scores == sorted(scores, reverse=True)
        assert 0 < sum(scores) <= 1
        assert all(isinstance(entry["token"], str) for entry in mask)
    with pytest.raises(DataError, match=r"row 1: a text must hold \[MASK\]"):
        fill("the cow")


def test_a_text_goes_on(make):
    """As `generate` has it, row by row; of a long text its end is read."""
    folder = make("FlaxBigBirdForCausalLM", is_decoder=True)
    go_on = tasks.load(folder, new_tokens=6)
    texts = [sentence(1, 5), sentence(2, 12), sentence(3, 200), ""]
    found = go_on(texts)
    tokenizer = go_on.tokenizer
    for text, answer in zip(texts, found, strict=True):
        pieces = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        prompt = np.array([[tokenizer.cls_token_id, *pieces[-(64 - 6 - 1) :]]])
        made = go_on.model.generate(
            prompt, max_new_tokens=6, do_sample=False, eos_token_id=tokenizer.sep_token_id
        )
        new = made.sequences[0, prompt.shape[1] :].tolist()
        assert answer["text"] == tokenizer.decode(new, skip_special_tokens=True)
    assert len({answer["text"] for answer in found}) > 1
    drawn = [tasks.load(folder, new_tokens=6, temperature=2.0, seed=n)(texts) for n in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(OptionError, match="new_tokens must leave room for a text in max_length=64"):
        tasks.load(folder, new_tokens=63)
    with pytest.raises(OptionError, match="must be a decoder to continue texts"):
        tasks.load(make("FlaxBigBirdForMaskedLM"), task="causal-lm")


def test_the_likeliest_choice(make):
    choose = tasks.load(make("FlaxBigBirdForMultipleChoice"), text_pair_column="question")
    row = {"text": sentence(1, 30), "question": "where", "choices": ["meadow", "harbour", "noon"]}
    found = choose(row)
    assert found["choice"] == row["choices"][found["label"]]
    assert sum(found["scores"]) == pytest.approx(1)
    turned = choose(row | {"choices": row["choices"][::-1]})
    assert turned["scores"][::-1] == pytest.approx(found["scores"], abs=1e-5)
    with pytest.raises(DataError, match="row 1: column 'choices' must hold lists of two texts"):
        choose(row | {"choices": ["one"]})


def test_files_are_answered_in_order(classifier, rows, tmp_path, few_ahead):
    target = tmp_path / "out.jsonl"
    heard = []
    classify = tasks.load(classifier)
    count = tasks.predict(classify, classifier, [rows], target, keep=["id"], advanced=heard.append)
    found, given = read(target), read(Path(rows))
    assert count == len(found) == 10
    assert heard == [3, 6, 9, 10]
    assert [row["id"] for row in found] == [row["id"] for row in given]
    for answer, row in zip(found, given, strict=True):
        assert answer["scores"] == pytest.approx(classify(row)["scores"], abs=1e-5)
    assert not (tmp_path / "out.jsonl.part").exists()


def test_an_end_midway_leaves_no_trace(classifier, rows, tmp_path, few_ahead):
    """Stopped, half a line behind the last part, gone on with: the bytes of an unbroken run."""
    classify = tasks.load(classifier)
    tasks.predict(classify, classifier, [rows], tmp_path / "whole.jsonl")
    target = tmp_path / "out.jsonl"
    with pytest.raises(predicting.Stopped, match="stopped after 3 rows"):
        tasks.predict(classify, classifier, [rows], target, should_stop=lambda: True)
    assert not target.exists()
    with (tmp_path / "out.jsonl.part" / "rows.jsonl").open("ab") as stream:
        stream.write(b'{"label": "mead' + b"." * 100_000)  # longer than all that is to come
    began = []
    tasks.predict(classify, classifier, [rows], target, began=lambda *x: began.append(x))
    assert began == [(3, 10)]
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.slow
def test_killed_at_any_moment(classifier, rows, tmp_path):
    worker = [sys.executable, str(Path(__file__).with_name("tasks_worker.py")), classifier, rows]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([*worker, str(tmp_path / "whole.jsonl")], check=True, env=environment)
    target = tmp_path / "out.jsonl"
    lines = tmp_path / "out.jsonl.part" / "rows.jsonl"
    for size in (0, 1, 500):  # as soon as so much is there
        process = subprocess.Popen([*worker, str(target)], env=environment)
        while process.poll() is None:
            if lines.exists() and lines.stat().st_size > size:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        process.wait()
    if not target.exists():
        subprocess.run([*worker, str(target)], check=True, env=environment)
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_parquet_in_and_out(classifier, rows, tmp_path):
    import pyarrow.parquet

    given = read(Path(rows))
    # The first group has only empty values.
    given = [row | {"score": None if n < 9 else 1.5} for n, row in enumerate(given)]
    source = tmp_path / "in.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(given), source)
    classify = tasks.load(classifier)
    target = tmp_path / "out.parquet"
    tasks.predict(classify, classifier, [str(source)], target, keep=["id", "score"])
    found = pyarrow.parquet.read_table(target).to_pylist()
    assert [row["id"] for row in found] == [row["id"] for row in given]
    assert [row["score"] for row in found] == [row["score"] for row in given]
    assert all(row["predicted_score"] > 0 for row in found)


def test_csv_and_text_files(classifier, tmp_path):
    classify = tasks.load(classifier)
    (tmp_path / "in.csv").write_text('text,n\n"the cow, the ship",1\nnoon,2\n')
    tasks.predict(classify, classifier, [str(tmp_path / "in.csv")], tmp_path / "a.jsonl")
    assert len(read(tmp_path / "a.jsonl")) == 2
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in "ba":
        (folder / f"{name}.txt").write_text("the cow\n\ngrazes")
    tasks.predict(classify, classifier, [str(folder)], tmp_path / "b.jsonl", keep=["file"])
    assert [row["file"] for row in read(tmp_path / "b.jsonl")] == ["a.txt", "b.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "out.csv"}, "output must end in .jsonl or .parquet; got 'out.csv'"),
        ({"output": "none/out.jsonl"}, "output must lie in a folder that exists"),
        ({"output": "in.jsonl"}, "output must be new; .*in.jsonl exists"),
        ({"keep": ["name"]}, "keep must name columns of the input; got 'name': there are id, text"),
        ({"inputs": ["in.docx"]}, "data files must exist; .*in.docx does not"),
        ({"lines": '{"text": "a"}\n{"text": \n'}, "in.jsonl, line 2 is not"),
    ],
)
def test_bad_calls_write_nothing(classifier, rows, tmp_path, change, message):
    if "lines" in change:
        Path(rows).write_text(change["lines"])
    before = sorted(tmp_path.rglob("*"))
    inputs = [str(tmp_path / name) for name in change.get("inputs", ["in.jsonl"])]
    target = tmp_path / change.get("output", "out.jsonl")
    with pytest.raises((OptionError, DataError), match=message):
        tasks.predict(
            tasks.load(classifier), classifier, inputs, target, keep=change.get("keep", ())
        )
    assert sorted(tmp_path.rglob("*")) == before


def test_rows_without_the_column_are_named(classifier, tmp_path):
    source = write(tmp_path / "in.jsonl", [{"text": "a"}, {"body": "b"}])
    message = "row 2: column 'text' must hold a text; got None; there are body"
    with pytest.raises(DataError, match=message):
        tasks.predict(tasks.load(classifier), classifier, [source], tmp_path / "out.jsonl")


def test_another_job_does_not_go_on(classifier, rows, tmp_path, few_ahead):
    classify, target = tasks.load(classifier), tmp_path / "out.jsonl"
    with pytest.raises(predicting.Stopped):
        tasks.predict(classify, classifier, [rows], target, should_stop=lambda: True)
    with pytest.raises(OptionError, match=r"goes on with what it began with; .* has other keep"):
        tasks.predict(classify, classifier, [rows], target, keep=["id"])
    tasks.predict(classify, classifier, [rows], target, keep=["id"], overwrite=True)
    assert len(read(target)) == 10


def test_what_cannot_be_loaded(make, classifier, tmp_path):
    with pytest.raises(OptionError, match=r"must have all parameters of .*QuestionAnswering"):
        tasks.load(classifier, task="question-answering")
    with pytest.raises(OptionError, match="task must be given for"):
        tasks.load(make("FlaxBigBirdModel"))
    with pytest.raises(OptionError, match="got 'classification': did you mean"):
        tasks.load(classifier, task="classification")
    with pytest.raises(OptionError, match="got 'max_lenght': did you mean max_length"):
        tasks.load(classifier, max_lenght=8)
    with pytest.raises(OptionError, match="at most the model's position table, 64; got 65"):
        tasks.load(classifier, max_length=65)
    with pytest.raises(OptionError, match="model must be a BigBird checkpoint"):
        tasks.load(tmp_path)


def test_the_commands(classifier, rows, tmp_path, capsys):
    target = tmp_path / "out.jsonl"
    assert main(["predict", classifier, rows, "-o", str(target), "--keep", "id"]) == 0
    assert "10 rows" in capsys.readouterr().out
    assert [row["id"] for row in read(target)] == [f"n{n}" for n in range(10)]
    assert main(["predict", classifier, rows, "-o", str(target)]) == 2
    assert "output must be new" in capsys.readouterr().err
    assert main(["predict", classifier, rows]) == 2
    assert "add --output FILE.jsonl" in capsys.readouterr().err
    labelled = write(
        tmp_path / "labelled.jsonl",
        [
            {"text": row["text"], "label": answer["label"] if n else "neither"}
            for n, (row, answer) in enumerate(zip(read(Path(rows)), read(target), strict=True))
        ],
    )
    out = tmp_path / "metrics.json"
    assert main(["evaluate", classifier, labelled, "-o", str(out)]) == 0
    right = 10 if read(target)[0]["label"] == "neither" else 9
    assert json.loads(out.read_text())["metrics"]["accuracy"] == pytest.approx(right / 10)
    assert "accuracy" in capsys.readouterr().out
    unknown = write(tmp_path / "unknown.jsonl", [{"text": "a", "label": "barn"}])
    assert main(["evaluate", classifier, unknown]) == 2
    assert "row 1 of the data has 'barn'" in capsys.readouterr().err
