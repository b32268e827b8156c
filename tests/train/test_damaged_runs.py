"""A flipped byte in what a run saves is noticed, and an earlier checkpoint is used."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import RecordingCallback, model_bytes, tiny_run_options, write_labeled_texts

from flax_bigbird.checkpoint import CHECKSUM_FILE, find_damage, write_checksums
from flax_bigbird.data.errors import OptionError
from flax_bigbird.train import TrainingError, TrainingInterrupted, train
from flax_bigbird.train.checkpoints import RunCheckpoint, RunCheckpointManager

STEPS: dict[str, Any] = {
    "max_steps": 6,
    "eval_steps": 3,
    "save_steps": 2,
}  # stopped after step 5: 4 and 5 are saved


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labeled_texts(tmp_path_factory.mktemp("data") / "a.jsonl", 40)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data):
    """The weights of a run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(tiny_run_options(folder, train_files=[data], **STEPS))
    return model_bytes(folder / "run")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, data):
    """The directory of a run that was stopped after step 5."""
    folder = tmp_path_factory.mktemp("stopped")
    options = tiny_run_options(folder, train_files=[data], **STEPS)
    with pytest.raises(TrainingInterrupted):
        train(options, [RecordingCallback(stop_after=5)])
    return options


@pytest.fixture
def root(stopped):
    """The directory of the stopped run, which is restored after each test."""
    folder = Path(stopped.output_dir)
    backup = folder.with_name("backup")
    shutil.copytree(folder, backup)
    yield folder
    shutil.rmtree(folder)
    backup.rename(folder)


def flip_byte(path, position=0.5):
    content = bytearray(path.read_bytes())
    content[int(position * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def resume(options):
    """Resumes the run and returns its messages."""
    recorded = RecordingCallback()
    train(options, [recorded])
    return recorded.messages


def test_two_checkpoints_are_kept_with_checksums(root):
    assert sorted(path.name for path in (root / "checkpoints").iterdir()) == ["4", "5"]
    for folder in (root / "checkpoints" / "4", root / "checkpoints" / "5", root / "best"):
        assert (folder / CHECKSUM_FILE).exists()
        assert find_damage(folder) is None


def test_any_flipped_byte_of_a_checkpoint_is_found(root):
    folder = root / "checkpoints" / "5"
    for path in files_of(folder):
        content = path.read_bytes()
        for position in (0, 0.5, 1) if content else ():
            flip_byte(path, position)
            damage = find_damage(folder)
            assert damage is not None, path
            assert str(path) in damage or path.name == CHECKSUM_FILE
            path.write_bytes(content)
        path.unlink()
        assert (str(path) in (find_damage(folder) or "")) == (path.name != CHECKSUM_FILE)
        path.write_bytes(content)
    assert find_damage(folder) is None


@pytest.mark.parametrize("name", ["largest", "progress", "removed"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(stopped, root, uninterrupted, name):
    folder = root / "checkpoints" / "5"
    largest = max(files_of(folder), key=lambda path: path.stat().st_size)
    if name == "largest":
        flip_byte(largest)
    elif name == "progress":
        flip_byte(next(path for path in files_of(folder / "progress") if path.stat().st_size > 100))
    else:
        largest.unlink()
    messages = resume(stopped)
    assert any(text.startswith("The checkpoint of step 5 is damaged: ") for text in messages)
    assert "Resuming from step 4." in messages
    assert model_bytes(root) == uninterrupted


def test_when_all_checkpoints_are_damaged(stopped, root):
    for step in ("4", "5"):
        flip_byte(max(files_of(root / "checkpoints" / step), key=lambda path: path.stat().st_size))
    with pytest.raises(
        TrainingError, match=r"all of them are damaged: .*checkpoints/5/.*is not as"
    ):
        train(stopped)
    assert (root / "checkpoints" / "5").exists()


@pytest.mark.parametrize("has_checksums", [True, False])
def test_runs_of_earlier_versions_resume(stopped, root, uninterrupted, has_checksums):
    """They have one checkpoint and no checksums; their damage shows only when they are read."""
    for path in root.rglob(CHECKSUM_FILE):
        path.unlink()
    if not has_checksums:
        for path in files_of(root / "checkpoints" / "5" / "arrays"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    messages = resume(stopped)
    step = 5 if has_checksums else 4
    assert f"Resuming from step {step}." in messages
    assert any("step 5 is damaged" in text for text in messages) != has_checksums
    assert model_bytes(root) == uninterrupted


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "removed"])
def test_a_damaged_best_model_is_not_used(stopped, root, uninterrupted, name):
    """The best model is that of step 3, which no checkpoint holds, so that step 6 is the best."""
    if name == "removed":
        shutil.rmtree(root / "best")
    else:
        flip_byte(root / "best" / name)
    recorded = RecordingCallback()
    report = train(stopped, [recorded])
    (message,) = [text for text in recorded.messages if "best model is damaged" in text]
    assert "chosen from the evaluations that follow, without that of step 3" in message
    assert report["best_step"] == 6


def test_a_damaged_best_model_is_computed_again(tmp_path, data):
    """From a checkpoint before it, or from the checkpoint of the same step."""
    for name, changes in (("before", {"save_steps": 2}), ("same", {"save_steps": 3})):
        folder = tmp_path / name
        options = tiny_run_options(folder, train_files=[data], **{**STEPS, **changes})
        whole = train(
            tiny_run_options(folder / "whole", train_files=[data], **{**STEPS, **changes})
        )
        with pytest.raises(TrainingInterrupted):
            train(options, [RecordingCallback(stop_after=4 if name == "before" else 3)])
        flip_byte(folder / "run" / "best" / "model.safetensors")
        recorded = RecordingCallback()
        report = train(options, [recorded])
        expected = "Resuming from step 2." if name == "before" else "Resuming from step 3."
        assert expected in recorded.messages
        saved_again = any("saved again from the checkpoint" in text for text in recorded.messages)
        assert saved_again == (name == "same")
        assert report["metrics"] == whole["metrics"]
        assert report["evaluations"] == whole["evaluations"]


def test_a_best_model_that_was_being_replaced_is_recovered(stopped, root, uninterrupted):
    """The process was killed between the two renames."""
    shutil.copytree(root / "best", root / "best.partial")
    (root / "best").rename(root / "best.previous")
    messages = resume(stopped)
    assert not any("damaged" in text for text in messages)
    assert model_bytes(root) == uninterrupted
    assert not [path for path in root.iterdir() if path.name.startswith("best")]


def test_a_damaged_tokenizer_is_an_error(stopped, root):
    flip_byte(root / "tokenizer" / "spiece.model")
    with pytest.raises(OptionError, match=r"tokenizer/spiece.model is not as it was saved"):
        train(stopped)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', '{"a": [1]}', "[" * 100_000])
def test_damaged_checksums_are_damage(tmp_path, content):
    (tmp_path / "a").write_text("a")
    write_checksums(tmp_path)
    (tmp_path / CHECKSUM_FILE).write_text(content)
    assert find_damage(tmp_path) == f"{tmp_path / CHECKSUM_FILE} is damaged"


def test_the_disk_never_holds_more_than_two_checkpoints(tmp_path, monkeypatch):
    manager = RunCheckpointManager(tmp_path / "checkpoints")
    save = manager._manager.save
    during = []

    def count(*args, **kwargs):
        during.append(len(manager._steps()) + 1)
        return save(*args, **kwargs)

    monkeypatch.setattr(manager._manager, "save", count)
    for step in (1, 2, 3, 4):
        manager.save(step, RunCheckpoint({"a": jnp_zeros()}, {"global_step": step}))
    assert during == [1, 2, 2, 2]
    manager.close()


def jnp_zeros():
    import jax.numpy as jnp

    return jnp.zeros(3)
