import json

import pytest

from flax_bigbird.cli.demo.output import REPORT, check_output, staged
from flax_bigbird.cli.demo.report import MADE_BY
from flax_bigbird.cli.errors import CommandError


def _earlier_demo(folder):
    folder.mkdir()
    (folder / REPORT).write_text(json.dumps({"made_by": MADE_BY}))


def test_new_empty_and_earlier_folders_are_taken(tmp_path):
    check_output(tmp_path / "new" / "deeper")
    assert list(tmp_path.iterdir()) == []
    check_output(tmp_path)
    _earlier_demo(tmp_path / "earlier")
    check_output(tmp_path / "earlier")


@pytest.mark.parametrize("content", ["{}", "[]", "not json", '{"made_by": "someone"}'])
def test_folders_of_others_are_refused(tmp_path, content):
    (tmp_path / REPORT).write_text(content)
    with pytest.raises(CommandError, match="holds other files: name another"):
        check_output(tmp_path)


def test_files_and_folders_inside_files_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="is a file"):
        check_output(tmp_path / "file")
    with pytest.raises(CommandError, match="must be writable"):
        check_output(tmp_path / "file" / "inside")


def test_files_appear_together_and_others_stay(tmp_path):
    folder = tmp_path / "out"
    _earlier_demo(folder)
    (folder / "notes.txt").write_text("mine")
    with staged(folder) as scratch:
        (scratch / REPORT).write_text("new")
        (scratch / "model").write_text("new")
        assert not (folder / "model").exists()
    assert (folder / REPORT).read_text() == "new"
    assert (folder / "model").read_text() == "new"
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _break(folder, error):
    with staged(folder) as scratch:
        (scratch / REPORT).write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_broken_run_changes_nothing(tmp_path, error):
    folder = tmp_path / "out"
    _earlier_demo(folder)
    before = (folder / REPORT).read_text()
    with pytest.raises(error):
        _break(folder, error)
    assert (folder / REPORT).read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_broken_first_run_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError):
        _break(tmp_path / "out", RuntimeError)
    assert list(tmp_path.iterdir()) == []
