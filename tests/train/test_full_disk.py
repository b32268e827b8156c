"""A disk that fills up: said in a line, nothing lost, and the same command goes on."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from training_tools import labelled, options

from flax_bigbird import tasks
from flax_bigbird.cli.main import FAILED, main
from flax_bigbird.tasks import predicting
from flax_bigbird.train import run as run_module
from flax_bigbird.train.run import train
from flax_bigbird.train.watch import NoScreen

MEBIBYTE = 2**20


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of 24 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, leave=0):
    """Takes what room there is, but for `leave` bytes."""
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


class Fills(NoScreen):
    """Another program fills the disk when a step is logged."""

    def __init__(self, folder, step, leave):
        self.folder, self.step, self.leave = folder, step, leave

    def logged(self, progress, metrics):
        if progress.step == self.step:
            fill(self.folder, self.leave)


@pytest.mark.parametrize("leave", [0, 40_000])
def test_a_run_goes_on_when_there_is_room_again(disk, tmp_path, leave):
    data = labelled(tmp_path / "a.jsonl", 40)
    whole = train(options(tmp_path / "whole", train_files=[data]))
    asked = options(disk, train_files=[data])
    with pytest.raises(OSError, match="No space left") as error:
        train(asked, Fills(disk, 3, leave))  # behind the checkpoint of step 2
    assert "the same command goes on" in str(error.value)
    (disk / "filler").unlink()
    found = train(asked)
    for name in ("metrics", "evaluations", "tokens"):
        assert found[name] == whole[name], name
    np.testing.assert_array_equal(found["losses"], whole["losses"])
    one, other = (f / "run" / "model.safetensors" for f in (tmp_path / "whole", disk))
    assert one.read_bytes() == other.read_bytes()


def test_too_small_a_disk_is_told_before_training(disk, tmp_path, monkeypatch):
    data = labelled(tmp_path / "a.jsonl", 40)
    fill(disk, 300_000)
    monkeypatch.setattr(run_module, "_train", lambda *a: pytest.fail("trained"))
    with pytest.raises(run_module.OptionError, match="must have room for two checkpoints"):
        train(options(disk, train_files=[data]))


def test_the_command_says_it_in_a_line(disk, tmp_path, capsys):
    data = labelled(tmp_path / "a.jsonl", 40)
    fill(disk)
    flags = ["--train-files", data, "--output-dir", str(disk / "run"), "--max-length", "64"]
    assert main(["train", "sequence-classification", *flags]) == FAILED
    error = capsys.readouterr().err
    assert error.startswith("bigbird: ")
    assert "no space left" in error.lower()
    assert len(error.strip().splitlines()) == 1


def test_answers_go_on_when_there_is_room_again(disk, tmp_path):
    data = labelled(tmp_path / "a.jsonl", 40)
    train(options(tmp_path, train_files=[data], max_steps=2, save_every=2))
    task = tasks.load(tmp_path / "run")
    many = tmp_path / "many.jsonl"
    many.write_text(60 * Path(data).read_text(encoding="utf-8"), encoding="utf-8")
    whole = tmp_path / "whole.jsonl"
    predicting.predict(task, str(tmp_path / "run"), [str(many)], str(whole))
    filler = fill(disk, 200_000)
    target = disk / "answers.jsonl"
    with pytest.raises(OSError, match="No space left"):
        predicting.predict(task, str(tmp_path / "run"), [str(many)], str(target))
    assert not target.exists()
    filler.unlink()
    predicting.predict(task, str(tmp_path / "run"), [str(many)], str(target))
    assert target.read_bytes() == whole.read_bytes()
    assert np.unique([json.loads(x)["label"] for x in target.read_text().splitlines()]).size
