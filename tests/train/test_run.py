"""Whole runs: what they learn, what they leave, how they go on after being killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from training_tools import TINY_MODEL, WIDER, labelled, options, sentences, speech_text, write_jsonl

import flax_bigbird
from flax_bigbird.cli.main import INTERRUPTED, main
from flax_bigbird.tasks.text import load_tokenizer
from flax_bigbird.train import run as run_module
from flax_bigbird.train.loop import Interrupted, TrainingError
from flax_bigbird.train.options import OptionError
from flax_bigbird.train.reading import DataError
from flax_bigbird.train.run import train
from flax_bigbird.train.watch import NoScreen

WORKER = Path(__file__).with_name("train_worker.py")


class Screen(NoScreen):
    def __init__(self, stop_at=None):
        self.notes, self.steps, self.stop_at = [], [], stop_at

    def note(self, text):
        self.notes.append(text)

    def logged(self, progress, metrics):
        self.steps.append((progress.step, dict(metrics)))

    def should_stop(self):
        return len(self.steps) + 1 == self.stop_at


def weights(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("label", "metric", "least", "problem"),
    [
        ("name", "accuracy", 0.95, "single_label_classification"),
        ("list", "micro_f1", 0.95, "multi_label_classification"),
        ("number", "pearson", 0.9, "regression"),
    ],
)
def test_classification_is_learned(tmp_path, label, metric, least, problem):
    """Held-out texts of two vocabularies, as names, as sets of labels, as numbers."""
    data = labelled(tmp_path / "train.jsonl", 160, 0, label)
    held_out = labelled(tmp_path / "held.jsonl", 40, 1, label)
    found = train(
        options(
            tmp_path,
            train_files=[data],
            validation_files=[held_out],
            max_steps=60,
            evaluate_every=30,
            save_every=60,
        )
    )
    assert found["metrics"][metric] >= least, found["metrics"]
    folder = tmp_path / "run"
    model = flax_bigbird.FlaxBigBirdForSequenceClassification.from_pretrained(folder)
    assert model.config.problem_type == problem
    assert model.config.padding_invariant
    assert model.config.random_attention == "fixed"
    if label == "name":
        assert model.config.id2label == {0: "harbour", 1: "meadow"}
        assert np.sum(found["confusion_matrix"]["rows"]) == 40
        assert (folder / "confusion_matrix.png").stat().st_size > 1000


def test_words_are_tagged(tmp_path):
    """Entities of one and two words, told by the word before; documents are cut into windows."""
    generator = random.Random(0)

    def document():
        words, tags = [], []
        for _ in range(generator.randint(3, 25)):
            kind = generator.choice(["near", "said", "walked"])
            words.append(kind)
            tags.append("O")
            if kind == "walked":
                continue
            name = {"near": "LOC", "said": "PER"}[kind]
            for number in range(generator.randint(1, 2)):
                words.append(generator.choice(["Alton", "Brook", "Carey", "Dover"]))
                tags.append(("B-" if number == 0 else "I-") + name)
        return {"tokens": words, "tags": tags}

    found = train(
        options(
            tmp_path,
            "token-classification",
            train_files=[write_jsonl(tmp_path / "a.jsonl", [document() for _ in range(200)])],
            max_length=32,
            tokens_per_batch=1024,
            max_steps=150,
            evaluate_every=50,
            save_every=150,
            learning_rate=1e-2,
            log_every=50,
        )
    )
    assert found["metrics"]["f1"] > 0.9, found["metrics"]
    assert found["validation"]["rows"] > 20  # windows, of 20 documents
    folder = tmp_path / "run"
    model = flax_bigbird.FlaxBigBirdForTokenClassification.from_pretrained(folder)
    assert set(model.config.label2id) == {"O", "B-LOC", "I-LOC", "B-PER", "I-PER"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"tokens": ["a", "b"], "tags": ["O"]},
            "row 2 of the training data has 2 words and 1 tags",
        ),
        ({"words": ["a"], "tags": ["O"]}, "must have a column 'tokens'; got words, tags"),
    ],
)
def test_bad_tags(tmp_path, row, message):
    good = {"tokens": ["a"], "tags": ["O"]} if "tokens" in row else row
    data = write_jsonl(tmp_path / "a.jsonl", [good, row])
    with pytest.raises(DataError, match=message):
        train(options(tmp_path, "token-classification", train_files=[data], validation_share=0.0))


def test_masked_lm_learns_more_than_the_frequencies_of_pieces(tmp_path):
    """Every word is followed by one of its own, so that neighbours tell what is masked."""
    generator = random.Random(0)
    pairs = [("salt", "pepper"), ("day", "night"), ("king", "queen"), ("left", "right")]
    texts = [" ".join(" ".join(generator.choice(pairs)) for _ in range(30)) for _ in range(200)]
    found = train(
        options(
            tmp_path,
            "masked-lm",
            train_files=[write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])],
            model_config=WIDER | {"num_hidden_layers": 2},
            max_length=32,
            tokens_per_batch=2048,
            max_steps=250,
            evaluate_every=250,
            save_every=250,
            learning_rate=1e-2,
            log_every=50,
        )
    )
    tokenizer = load_tokenizer(str(tmp_path / "run"))
    pieces = np.bincount(np.concatenate(tokenizer(texts, add_special_tokens=False)["input_ids"]))
    shares = pieces[pieces > 0] / pieces.sum()
    unigram = -(shares * np.log2(shares)).sum()
    assert found["metrics"]["bits_per_token"] < 0.5 * unigram, (found["metrics"], unigram)
    assert found["metrics"]["accuracy"] > 0.6


def test_what_a_run_leaves(tmp_path):
    screen = Screen()
    data = write_jsonl(tmp_path / "a.jsonl", [{"text": speech_text()}] * 4)
    chosen = options(tmp_path, "masked-lm", train_files=[data], vocabulary_size=300)
    found = train(chosen, screen)
    folder = tmp_path / "run"
    names = {path.name for path in folder.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "spiece.model",
        "tokenizer_config.json",
        "options.yaml",
        "metrics.jsonl",
        "report.json",
        "README.md",
        "loss.png",
        "tensorboard",
    } <= names
    assert not names & {"checkpoints", "best", "tokenizer"}
    assert yaml.safe_load((folder / "options.yaml").read_text()) == chosen.as_dict()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if x["kind"] == "training"] == [1, 2, 3, 4, 5, 6]
    assert [x["step"] for x in lines if x["kind"] == "validation"] == [3, 6]
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(found))
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: flax-bigbird\npipeline_tag: fill-mask")
    assert f"| loss | {found['metrics']['loss']:.4f} |" in card
    assert any("rows of" in note and "padding" in note for note in screen.notes)
    assert any("parameters" in note for note in screen.notes)
    # Done is done: nothing is trained again.
    again = Screen()
    assert train(chosen, again)["metrics"] == found["metrics"]
    assert not again.steps


def test_the_report_is_of_the_model_that_is_saved(tmp_path):
    """Metrics of the best step, from what a user loads."""
    data = labelled(tmp_path / "a.jsonl", 60)
    found = train(options(tmp_path, train_files=[data], learning_rate=1e-2, max_steps=9))
    best = max(found["evaluations"], key=lambda entry: entry["accuracy"])
    assert found["metrics"]["accuracy"] == best["accuracy"]
    assert found["best_step"] == best["step"]
    assert found["metrics"]["loss"] == pytest.approx(best["loss"], rel=1e-5)


def start_worker(folder, data, changes, after, **environment):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    command = [sys.executable, str(WORKER), str(folder), data, json.dumps(changes), str(after)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def run_worker(*arguments, **environment):
    process = start_worker(*arguments, **environment)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["masked-lm", "sequence-classification"])
def test_killed_runs_end_as_unbroken_ones(tmp_path, task):
    """SIGKILL between checkpoints, twice; dropout, accumulation and buckets are all in it."""
    data = labelled(tmp_path / "a.jsonl", 40)
    changes = {
        "task": task,
        "gradient_accumulation": 2,
        "model_config": TINY_MODEL | {"hidden_dropout_prob": 0.1},
    }
    assert run_worker(tmp_path / "whole", data, changes, 0).returncode == 0
    for after in (3, 5, 0):
        done = run_worker(tmp_path / "broken", data, changes, after)
        assert done.returncode == (-signal.SIGKILL if after else 0), done.stderr
    whole, broken = tmp_path / "whole" / "run", tmp_path / "broken" / "run"
    assert weights(whole) == weights(broken)
    reports = [json.loads((folder / "report.json").read_text()) for folder in (whole, broken)]
    for name in ("metrics", "losses", "evaluations", "tokens", "best_step"):
        assert reports[0][name] == reports[1][name], name
    lines = (broken / "metrics.jsonl").read_text().splitlines()
    assert [x["step"] for x in map(json.loads, lines) if x["kind"] == "training"] == [*range(1, 7)]


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(tmp_path):
    """SIGKILL at moments spread over the writing, which takes some tenths of a second."""
    data = labelled(tmp_path / "a.jsonl", 40)
    changes = {"save_every": 1, "max_steps": 5, "evaluate_every": 5}
    assert run_worker(tmp_path / "whole", data, changes, 0).returncode == 0
    checkpoints = tmp_path / "broken" / "run" / "checkpoints"
    cut_short = 0
    for seconds in (0.0, 0.01, 0.03, 0.1):
        done = run_worker(tmp_path / "broken", data, changes, f"save:{seconds}")
        assert done.returncode == -signal.SIGKILL, done.stderr
        cut_short += any(not path.name.isdigit() for path in checkpoints.iterdir())
    assert cut_short >= 2
    done = run_worker(tmp_path / "broken", data, changes, 0)
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "whole" / "run") == weights(tmp_path / "broken" / "run")


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """SIGKILL from outside, at moments drawn anew in every run of the test."""
    data = labelled(tmp_path / "a.jsonl", 40)
    changes = {"save_every": 10, "max_steps": 100, "evaluate_every": 50}
    assert run_worker(tmp_path / "whole", data, changes, 0).returncode == 0
    logged = tmp_path / "broken" / "run" / "metrics.jsonl"

    def steps():
        return logged.read_text().count("\n") if logged.exists() else 0

    killed = 0
    for _ in range(2):
        before = steps()
        process = start_worker(tmp_path / "broken", data, changes, 0)
        while steps() <= before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1.5))
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 1
    done = run_worker(tmp_path / "broken", data, changes, 0)
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "whole" / "run") == weights(tmp_path / "broken" / "run")


@pytest.mark.slow
def test_two_devices_train_as_one(tmp_path):
    """Batches of an even number of rows are shared; of an odd one each gets the whole."""
    data = labelled(tmp_path / "a.jsonl", 40)
    changes = {"tokens_per_batch": 192}  # 12, 6 and 3 rows
    one = train(options(tmp_path / "one", train_files=[data], **changes))
    flags = "--xla_force_host_platform_device_count=2"
    done = run_worker(tmp_path / "two", data, changes, 0, XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two" / "run" / "report.json").read_text())
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=1e-4)
    assert one["metrics"]["loss"] == pytest.approx(two["metrics"]["loss"], rel=1e-4)
    assert one["tokens"] == two["tokens"]


def test_stopped_when_asked_and_gone_on(tmp_path):
    data = labelled(tmp_path / "a.jsonl", 40)
    common = {"train_files": [data], "save_every": 100}
    train(options(tmp_path / "whole", **common))
    with pytest.raises(Interrupted) as stop:
        train(options(tmp_path / "broken", **common), Screen(stop_at=4))
    assert stop.value.step == 4
    screen = Screen()
    train(options(tmp_path / "broken", **common), screen)
    assert [step for step, _ in screen.steps] == [5, 6]
    assert "Going on from step 4." in screen.notes
    assert weights(tmp_path / "whole" / "run") == weights(tmp_path / "broken" / "run")


def test_accumulated_batches_are_one_large_batch(tmp_path):
    """Two batches of 128 tokens a step are one of 256, when rows are of one length."""
    rows = [{"text": sentences("cow ship barn", 40, random.Random(n))} for n in range(64)]
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    common = {
        "train_files": [data],
        "validation_share": 0.0,
        "smallest_bucket": 64,
        "vocabulary_size": 20,
        "max_length": 64,
        "save_every": 100,
        "evaluate_every": 100,
        "random_attention": "fixed",
    }
    losses = []
    for name, tokens, count in (("large", 256, 1), ("parts", 128, 2)):
        found = train(
            options(
                tmp_path / name,
                "masked-lm",
                tokens_per_batch=tokens,
                gradient_accumulation=count,
                **common,
            )
        )
        losses.append([loss for _, loss in found["losses"]])
    # Masks are drawn by place in the stream, which is the same; sums differ by rounding.
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-5)


def test_fine_tuning_starts_from_the_pretrained_model(tmp_path):
    """The encoder's weights come along, the tokenizer too; a longer table is tiled."""
    data = labelled(tmp_path / "a.jsonl", 40)
    train(options(tmp_path / "first", "masked-lm", train_files=[data]))
    pretrained = tmp_path / "first" / "run"
    screen = Screen()
    train(
        options(
            tmp_path / "second",
            train_files=[data],
            model=str(pretrained),
            model_config={"max_position_embeddings": 100},
            max_length=100,
            learning_rate=0.0,
            max_steps=1,
            evaluate_every=1,
        ),
        screen,
    )
    old = flax_bigbird.FlaxBigBirdForMaskedLM.from_pretrained(pretrained).params["bert"]
    new = flax_bigbird.FlaxBigBirdForSequenceClassification.from_pretrained(
        tmp_path / "second" / "run"
    )
    jax.tree.map(np.testing.assert_array_equal, old["encoder"], new.params["bert"]["encoder"])
    assert new.config.max_position_embeddings == 100
    assert any("tiled from 64 to 100" in note for note in screen.notes)
    assert (tmp_path / "second" / "run" / "spiece.model").read_bytes() == (
        pretrained / "spiece.model"
    ).read_bytes()


def test_patience_stops_a_run_that_gets_no_better(tmp_path):
    data = labelled(tmp_path / "a.jsonl", 40)
    found = train(
        options(
            tmp_path,
            train_files=[data],
            learning_rate=0.0,
            max_steps=50,
            evaluate_every=2,
            patience=2,
        )
    )
    assert (found["steps"], found["best_step"]) == (6, 2)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        run_module.Loop,
        "_mean_of",
        lambda self, pending, step, mean=run_module.Loop._mean_of: mean(
            self, [(float("nan"), 1.0)], step
        ),
    )
    with pytest.raises(TrainingError, match=r"must be finite; it is nan .* up to 1: lower"):
        train(options(tmp_path, train_files=[labelled(tmp_path / "a.jsonl", 40)]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_column": "body"}, "must have a column 'body'; got text, label"),
        ({"label_column": "class"}, "must have a column 'class'; got text, label"),
        ({"mode": "regression"}, "labels must be numbers in mode regression; row 1 .* has '"),
        ({"model_config": {"hidden": 3}}, "keys of BigBirdConfig; got 'hidden'"),
        (
            {"model_config": {"max_position_embeddings": 32}},
            "at most the model's position table, 32",
        ),
        ({"model": "nowhere/at-all"}, "must be a folder or Hub id that holds one"),
        ({"best_metric": "f2"}, "best_metric must be one of loss, accuracy"),
    ],
)
def test_bad_options_and_data(tmp_path, changes, message):
    data = labelled(tmp_path / "a.jsonl", 40)
    with pytest.raises((OptionError, DataError, TrainingError), match=message):
        train(options(tmp_path, train_files=[data], **changes))


def test_labels_that_training_has_not_seen(tmp_path):
    data = labelled(tmp_path / "a.jsonl", 20)
    other = write_jsonl(tmp_path / "b.jsonl", [{"text": "a", "label": "desert"}])
    with pytest.raises(DataError, match=r"\(harbour, meadow\); row 1 of the validation .*'desert'"):
        train(options(tmp_path, train_files=[data], validation_files=[other]))


def test_rows_without_a_text_or_label(tmp_path):
    rows = [{"text": "a", "label": "x"}, {"text": None, "label": "y"}]
    with pytest.raises(DataError, match="a text in every row; row 2 has none"):
        train(
            options(
                tmp_path,
                train_files=[write_jsonl(tmp_path / "a.jsonl", rows)],
                validation_files=[write_jsonl(tmp_path / "b.jsonl", rows)],
                vocabulary_size=20,
            )
        )
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": None}]
    files = [write_jsonl(tmp_path / "d.jsonl", rows)]
    with pytest.raises(DataError, match="a label in every row; row 2 has none"):
        train(options(tmp_path / "c", train_files=files, validation_share=0.0))


def test_another_run_in_the_folder(tmp_path):
    data = labelled(tmp_path / "a.jsonl", 20)
    train(options(tmp_path, train_files=[data]))
    with pytest.raises(OptionError, match="seed 0, now 1: give those"):
        train(options(tmp_path, train_files=[data], seed=1))
    before = weights(tmp_path / "run")
    train(options(tmp_path, train_files=[data], seed=1, overwrite=True))
    assert weights(tmp_path / "run") != before


def test_a_run_that_never_began_does_not_stand_in_the_way(tmp_path):
    """Wrong data leave no folder, a wrong option no run: the corrected command just runs."""
    data = labelled(tmp_path / "a.jsonl", 20)
    with pytest.raises(DataError):
        train(options(tmp_path, train_files=[str(tmp_path / "none.jsonl")]))
    assert not (tmp_path / "run").exists()
    with pytest.raises(OptionError, match="keys of BigBirdConfig"):
        train(options(tmp_path, train_files=[data], model_config={"hidden": 3}))
    train(options(tmp_path, train_files=[data]))
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_folder_of_others_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(OptionError, match="holds other files"):
        train(options(tmp_path, train_files=[labelled(tmp_path / "a.jsonl", 20)]))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_too_little_disk(tmp_path, monkeypatch):
    usage = run_module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(run_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OptionError, match="output_dir must have room"):
        train(options(tmp_path, train_files=[labelled(tmp_path / "a.jsonl", 20)]))


def test_the_command(tmp_path, capsys):
    data = labelled(tmp_path / "a.jsonl", 40)
    chosen = options(tmp_path, train_files=[data]).as_dict()
    chosen.pop("output_dir")
    (tmp_path / "o.yaml").write_text(yaml.safe_dump(chosen))
    line = ["train", "sequence-classification", "--config", str(tmp_path / "o.yaml")]
    assert main([*line, "-o", str(tmp_path / "out"), "--max-steps", "4"]) == 0
    shown = capsys.readouterr().out
    assert "accuracy: " in shown
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert yaml.safe_load((tmp_path / "out" / "options.yaml").read_text())["max_steps"] == 4
    assert main([*line, "-o", str(tmp_path / "other"), "--text-column", "body"]) == 2
    assert "must have a column 'body'; got text, label" in capsys.readouterr().err


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    from flax_bigbird.cli import train as cli

    seen = []
    monkeypatch.setattr(
        cli.TrainingScreen, "should_stop", lambda self: seen.append(1) or len(seen) == 3
    )
    line = ["train", "sequence-classification", "--train-files", labelled(tmp_path / "a.jsonl", 40)]
    line += ["-o", str(tmp_path / "out"), "--max-steps", "5", "--max-length", "64"]
    line += ["--vocabulary-size", "60", "--tokens-per-batch", "256"]
    for key, value in TINY_MODEL.items():
        line += ["--model-config", f"{key}={value}"]
    assert main(line) == INTERRUPTED
    assert "after step 3, which is saved; the same command goes on" in capsys.readouterr().err
    assert main(line) == 0
    assert "Going on from step 3." in capsys.readouterr().out
