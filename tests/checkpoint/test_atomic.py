"""Tests that atomic writes replace a file completely or not at all."""

import os

import pytest

from flax_bigbird.checkpoint import atomic_directory, atomic_write_bytes, atomic_write_text


def test_text_and_bytes_replace_a_file(tmp_path):
    path = tmp_path / "report.json"
    atomic_write_text(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    atomic_write_bytes(str(path), b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch, operation):
    path = tmp_path / "report.json"
    path.write_text("old")

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, operation, fail)
    with pytest.raises(OSError, match="no space left"):
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_directory_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "tokenizer"
    with atomic_directory(target) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "spiece.model").write_text("content")
        assert not target.exists()
    assert (target / "deep" / "spiece.model").read_text() == "content"
    assert list(tmp_path.iterdir()) == [target]


def interrupt_after_one_file(target):
    with atomic_directory(target) as folder:
        (folder / "spiece.model").write_text("half")
        raise KeyboardInterrupt


def test_interrupted_directory_never_appears(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupt_after_one_file(tmp_path / "tokenizer")
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_killed_process_are_discarded(tmp_path):
    (tmp_path / "tokenizer.partial").mkdir()
    (tmp_path / "tokenizer.partial" / "old").write_text("half")
    with atomic_directory(tmp_path / "tokenizer") as folder:
        (folder / "new").write_text("whole")
    assert [path.name for path in (tmp_path / "tokenizer").iterdir()] == ["new"]


def test_existing_directory_is_not_overwritten(tmp_path):
    target = tmp_path / "tokenizer"
    target.mkdir()
    (target / "mine").write_text("kept")
    with pytest.raises(OSError, match="not empty"), atomic_directory(target):
        pass
    assert (target / "mine").read_text() == "kept"
    assert list(tmp_path.iterdir()) == [target]
