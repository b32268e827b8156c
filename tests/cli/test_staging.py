"""The output directory of the demo changes only if the whole demo succeeds."""

import json

import pytest

from flax_bigbird.cli.errors import CommandError
from flax_bigbird.cli.staging import REPORT_FILE, check_output, staging_directory
from flax_bigbird.examples.state_of_the_union.report import MADE_BY


def _earlier_demo(folder):
    folder.mkdir()
    (folder / REPORT_FILE).write_text(json.dumps({"made_by": MADE_BY}))


def test_new_empty_and_earlier_folders_are_accepted(tmp_path):
    check_output(tmp_path / "new" / "deeper")
    assert list(tmp_path.iterdir()) == []
    check_output(tmp_path)
    _earlier_demo(tmp_path / "earlier")
    check_output(tmp_path / "earlier")


@pytest.mark.parametrize("content", ["{}", "[]", "not json", '{"made_by": "someone"}'])
def test_folders_with_other_files_are_refused(tmp_path, content):
    (tmp_path / REPORT_FILE).write_text(content)
    with pytest.raises(CommandError, match="holds other files: choose another"):
        check_output(tmp_path)


def test_files_and_folders_inside_files_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="is a file"):
        check_output(tmp_path / "file")
    with pytest.raises(CommandError, match="must be writable"):
        check_output(tmp_path / "file" / "inside")


def test_files_appear_together_and_other_files_stay(tmp_path):
    folder = tmp_path / "out"
    _earlier_demo(folder)
    (folder / "notes.txt").write_text("mine")
    with staging_directory(folder) as directory:
        (directory / REPORT_FILE).write_text("new")
        (directory / "model").write_text("new")
        assert not (folder / "model").exists()
    assert (folder / REPORT_FILE).read_text() == "new"
    assert (folder / "model").read_text() == "new"
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _fail(folder, error):
    with staging_directory(folder) as directory:
        (directory / REPORT_FILE).write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_failed_demo_changes_nothing(tmp_path, error):
    folder = tmp_path / "out"
    _earlier_demo(folder)
    before = (folder / REPORT_FILE).read_text()
    with pytest.raises(error):
        _fail(folder, error)
    assert (folder / REPORT_FILE).read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_first_demo_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError):
        _fail(tmp_path / "out", RuntimeError)
    assert list(tmp_path.iterdir()) == []
