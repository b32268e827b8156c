"""The files of a run, and directories in which a run must not start."""

import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_runs import (
    RecordingCallback,
    model_bytes,
    speech_text,
    tiny_run_options,
    write_jsonl,
    write_labeled_texts,
)

from flax_bigbird.checkpoint.embedding_layers import Dense, Normalize
from flax_bigbird.checkpoint.sentence_transformers import EmbeddingModules, save_embedding_modules
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.train import report as run_report
from flax_bigbird.train import run_directory, train, train_options


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labeled_texts(tmp_path_factory.mktemp("data") / "a.jsonl", 20)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A pretraining run on a speech: (options, report, callback that recorded it)."""
    folder = tmp_path_factory.mktemp("finished")
    speeches = write_jsonl(folder / "a.jsonl", [{"text": speech_text()}] * 4)
    options = tiny_run_options(folder, "masked-lm", train_files=[speeches], vocab_size=300)
    recorded = RecordingCallback()
    return options, train(options, [recorded]), recorded


@pytest.fixture
def folder(finished_run):
    options, _, _ = finished_run
    return run_directory.RunDirectory(Path(options.output_dir)).root


def test_the_files_of_a_finished_run(folder):
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


def test_the_options_are_saved(folder, finished_run):
    options, _, _ = finished_run
    values = yaml.safe_load((folder / "options.yaml").read_text())
    assert values == options.as_dict()
    assert values["task"] == "masked-lm"


def test_metrics_are_logged_by_step(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if x["kind"] == "training"] == [1, 2, 3, 4, 5, 6]
    assert [x["step"] for x in lines if x["kind"] == "validation"] == [3, 6]


def test_the_report_and_the_model_card(folder, finished_run):
    _, report, _ = finished_run
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: flax-bigbird\npipeline_tag: fill-mask")
    assert f"| loss | {report['metrics']['loss']:.4f} |" in card


def test_without_matplotlib_there_are_no_figures(tmp_path, data, monkeypatch):
    """`bigbird demo` is installed without it."""
    monkeypatch.setattr(run_report, "_has_matplotlib", lambda: False)
    train(tiny_run_options(tmp_path, train_files=[data], max_steps=1, eval_steps=1))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "report.json" in names
    assert not any(name.endswith(".png") for name in names)
    assert "loss.png" not in (tmp_path / "run" / "README.md").read_text()


def test_callbacks_hear_of_data_model_and_checkpoints(finished_run):
    _, _, recorded = finished_run
    assert any("rows of" in text and "padding" in text for text in recorded.messages)
    assert any("parameters" in text for text in recorded.messages)
    assert recorded.saved_steps == [2, 4, 6]
    _, logs = recorded.logs[-1]
    assert set(logs) == {"loss", "tokens_per_second", "learning_rate", "mfu", "tokens"}


def test_a_finished_run_is_not_repeated(finished_run):
    options, report, _ = finished_run
    again = RecordingCallback()
    assert train(options, [again])["metrics"] == report["metrics"]
    assert not again.logs


def test_a_directory_with_another_run(tmp_path, data):
    train(tiny_run_options(tmp_path, train_files=[data]))
    with pytest.raises(OptionError, match="seed 0, now 1: use those"):
        train(tiny_run_options(tmp_path, train_files=[data], seed=1))
    before = model_bytes(tmp_path / "run")
    # As if the earlier run had trained an embedding model.
    layers = (Dense(np.eye(4, dtype=np.float32), None), Normalize())
    save_embedding_modules(tmp_path / "run", EmbeddingModules(layers=layers, max_seq_length=9), 4)
    options = tiny_run_options(tmp_path, train_files=[data], seed=1, overwrite_output_dir=True)
    train(options)
    assert model_bytes(tmp_path / "run") != before
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert not [name for name in names if "sentence" in name or name[0].isdigit()]
    assert "modules.json" not in names


def test_wrong_data_and_options_leave_nothing_in_the_way(tmp_path, data):
    """Wrong data leave no directory and wrong options no run: the corrected command just runs."""
    with pytest.raises(DataError):
        train(tiny_run_options(tmp_path, train_files=[str(tmp_path / "none.jsonl")]))
    assert not (tmp_path / "run").exists()
    with pytest.raises(OptionError, match="keys of BigBirdConfig"):
        train(tiny_run_options(tmp_path, train_files=[data], config_overrides={"hidden": 3}))
    train(tiny_run_options(tmp_path, train_files=[data]))
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_directory_with_other_files_is_refused(tmp_path, data):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(OptionError, match="holds other files"):
        train(tiny_run_options(tmp_path, train_files=[data]))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "names", [[".options.yaml.partial"], [".lock"], [".options.yaml.partial", ".lock"]]
)
def test_a_directory_with_leftovers_of_a_killed_process_is_new(tmp_path, data, names):
    """The process was killed while it wrote the options, which are the first file of a run."""
    (tmp_path / "run").mkdir()
    for name in names:
        (tmp_path / "run" / name).write_text("task: seq")
    train(tiny_run_options(tmp_path, train_files=[data], max_steps=1, eval_steps=1))
    assert (tmp_path / "run" / "report.json").exists()
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_a_partial_file_of_another_name_is_not_a_leftover(tmp_path, data):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".thesis.partial").write_text("mine")
    with pytest.raises(OptionError, match="holds other files"):
        train(tiny_run_options(tmp_path, train_files=[data]))


def test_the_same_command_tidies_up_a_finished_run(finished_run, tmp_path):
    """The process that finished the run was killed before it had removed everything."""
    options, report, _ = finished_run
    root = tmp_path / "run"
    shutil.copytree(options.output_dir, root)
    before = {path.relative_to(root) for path in root.rglob("*")}
    for name in ("best", "checkpoints/6", "tokenizer", "tokenizer.partial", ".saving-abc"):
        (root / name).mkdir(parents=True)
        (root / name / "model.safetensors").write_text("part")
    for name in (".report.json.partial", ".README.md.partial", ".metrics.jsonl.partial", ".lock"):
        (root / name).write_text("part")
    moved = yaml.safe_load((root / "options.yaml").read_text()) | {"output_dir": str(root)}
    again = train(train_options(moved.pop("task"), **moved))
    assert again["metrics"] == report["metrics"]
    assert {path.relative_to(root) for path in root.rglob("*")} == before


class StartAnother(RecordingCallback):
    """Starts the same run again while it runs, and keeps the error."""

    def __init__(self, options):
        super().__init__()
        self.options, self.errors = options, []

    def on_save(self, state):
        with pytest.raises(OptionError) as error:
            train(self.options)
        self.errors.append(str(error.value))


@pytest.mark.parametrize("changes", [{}, {"seed": 1}, {"overwrite_output_dir": True, "seed": 2}])
def test_two_runs_in_one_directory(tmp_path, data, changes):
    options = tiny_run_options(tmp_path, train_files=[data])
    callback = StartAnother(options.replace(**changes))
    train(options, [callback])
    message = f"is in use by process {os.getpid()} on {socket.gethostname()} since 20"
    expected = "seed 0, now 1" if changes == {"seed": 1} else message
    assert len(callback.errors) == 3
    assert all(expected in error for error in callback.errors), callback.errors
    assert not (tmp_path / "run" / ".lock").exists()


def test_too_little_disk_space(tmp_path, data, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OptionError, match="output_dir must have room"):
        train(tiny_run_options(tmp_path, train_files=[data]))


PREVIOUS_OPTIONS = """
task: sequence-classification
output_dir: {root}
train_files: [a.jsonl]
validation_share: 0.2
epochs: 2.0
mode: single-label
mask_rate: 0.15
stride: 256
gradient_checkpointing: true
keep_attention: true
evaluate_every: 5
log_every: 3
"""


def test_options_of_a_previous_version_are_the_same_run(tmp_path):
    """A run that was started under the old names of the options can be resumed."""
    root = tmp_path / "run"
    (root / "checkpoints" / "2").mkdir(parents=True)
    defaults = train_options("sequence-classification", train_files=["a"], output_dir="b")
    before = yaml.safe_load(PREVIOUS_OPTIONS.format(root=root))
    now = train_options(
        "sequence-classification",
        output_dir=str(root),
        train_files=["a.jsonl"],
        validation_fraction=0.2,
        num_train_epochs=2.0,
        problem_type="single_label_classification",
        gradient_checkpointing="attention",
        eval_steps=5,
    )
    renamed = {"validation_fraction", "num_train_epochs", "problem_type", "eval_steps"}
    renamed |= {"logging_steps", "gradient_checkpointing"}
    rest = {k: v for k, v in defaults.as_dict().items() if k not in renamed | before.keys()}
    (root / "options.yaml").write_text(yaml.safe_dump(rest | before))
    assert run_directory.open_run_directory(now).root == root
    changed = now.replace(num_train_epochs=3.5)
    with pytest.raises(OptionError, match=r"num_train_epochs 2\.0, now 3\.5: use those"):
        run_directory.open_run_directory(changed)
