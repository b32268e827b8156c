"""A full disk: reported in one sentence, nothing is lost, and the same command resumes."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_runs import model_bytes, tiny_run_options, write_labeled_texts

from flax_bigbird.cli.main import FAILED, main
from flax_bigbird.data.errors import OptionError
from flax_bigbird.inference import load_predictor, predict_files
from flax_bigbird.train import TrainerCallback, run_directory, train
from flax_bigbird.train.trainer import Trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labeled_texts(tmp_path_factory.mktemp("data") / "a.jsonl", 40)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data):
    """The directory and the report of a run with enough space."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder / "run", train(tiny_run_options(folder, train_files=[data]))


@pytest.fixture
def disk(tmp_path):
    """A directory on a disk of its own, of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        is_mounted = False
    if not is_mounted:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, leave=0):
    """Fills the disk with a file, except for `leave` bytes, and returns its path."""
    block = bytes(4096)
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(block)
        except OSError:
            pass
    if leave:
        with path.open("rb+") as file:
            file.truncate(max(0, path.stat().st_size - leave))
    return path


class FillDisk(TrainerCallback):
    """Fills the disk when a step is logged, as another program might."""

    def __init__(self, folder, step, leave):
        self.folder, self.step, self.leave = folder, step, leave

    def on_log(self, state, logs):
        if state.global_step == self.step:
            fill(self.folder, self.leave)


@pytest.mark.parametrize("leave", [0, 40_000])
def test_a_run_resumes_when_there_is_space_again(disk, data, uninterrupted, leave):
    whole_run, whole_report = uninterrupted
    options = tiny_run_options(disk, train_files=[data])
    with pytest.raises(OSError, match="No space left") as error:
        train(options, [FillDisk(disk, 3, leave)])  # after the checkpoint of step 2
    assert "the same command again to resume" in str(error.value)
    (disk / "filler").unlink()
    report = train(options)
    for name in ("metrics", "evaluations", "tokens"):
        assert report[name] == whole_report[name], name
    np.testing.assert_array_equal(report["losses"], whole_report["losses"])
    assert model_bytes(disk / "run") == model_bytes(whole_run)


def test_too_small_a_disk_is_reported_before_training(disk, data, monkeypatch):
    fill(disk, 300_000)
    monkeypatch.setattr(Trainer, "train", lambda self: pytest.fail("trained"))
    with pytest.raises(OptionError, match="must have room for two checkpoints"):
        train(tiny_run_options(disk, train_files=[data]))


def test_what_a_run_has_on_the_disk_counts_when_it_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    directory = run_directory.RunDirectory(tmp_path)
    model_bytes = 2**18  # two checkpoints and two models take 2 MiB
    with pytest.raises(OptionError, match=r"2 MiB beyond what the run has; .* has 1 MiB free"):
        directory.check_free_space(model_bytes)
    for name, size in (("checkpoints/2/arrays", 3), ("best/model.safetensors", 1)):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(size * model_bytes))
    directory.check_free_space(model_bytes)


def test_the_command_reports_a_full_disk_in_one_line(disk, data, capsys):
    fill(disk)
    flags = ["--train-files", data, "--output-dir", str(disk / "run"), "--max-length", "64"]
    assert main(["train", "sequence-classification", *flags]) == FAILED
    error = capsys.readouterr().err
    assert error.startswith("bigbird: ")
    assert "no space left" in error.lower()
    assert len(error.strip().splitlines()) == 1


def test_predictions_resume_when_there_is_space_again(disk, tmp_path, data, uninterrupted):
    run, _ = uninterrupted
    predictor = load_predictor(run)
    many = tmp_path / "many.jsonl"
    many.write_text(60 * Path(data).read_text(encoding="utf-8"), encoding="utf-8")
    whole = tmp_path / "whole.jsonl"
    predict_files(predictor, [str(many)], str(whole))
    filler = fill(disk, 200_000)
    target = disk / "answers.jsonl"
    with pytest.raises(OSError, match="No space left"):
        predict_files(predictor, [str(many)], str(target))
    assert not target.exists()
    filler.unlink()
    predict_files(predictor, [str(many)], str(target))
    assert target.read_bytes() == whole.read_bytes()
    assert np.unique([json.loads(x)["label"] for x in target.read_text().splitlines()]).size
