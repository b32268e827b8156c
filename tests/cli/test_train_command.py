"""`bigbird train`: options from flags and YAML, a run, and how it is interrupted and resumed."""

import os
import signal

import pytest
import yaml
from tiny_runs import TINY_MODEL, tiny_run_options, write_labeled_texts

from flax_bigbird.cli.errors import CommandError
from flax_bigbird.cli.main import INTERRUPTED, main
from flax_bigbird.cli.train import gather_options


def test_flags_take_precedence_over_the_file(tmp_path):
    path = tmp_path / "o.yaml"
    path.write_text("output_dir: a\ntrain_files: [x.txt]\nnum_train_epochs: 2\nseed: 5\n")
    flags = {"num_train_epochs": "4.0", "seed": None, "train_files": []}
    flags["config_overrides"] = ["block_size=16", "a=b"]
    options = gather_options("masked-lm", path, flags)
    assert (options.num_train_epochs, options.seed, options.train_files) == (4.0, 5, ["x.txt"])
    assert options.config_overrides == {"block_size": 16, "a": "b"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"train_files": ["a"]}, "output_dir must be given; got none: add --output-dir"),
        ({"config_overrides": ["block_size"]}, "must be key=value; got 'block_size'"),
    ],
)
def test_missing_and_malformed_flags(flags, message):
    with pytest.raises(CommandError, match=message):
        gather_options("masked-lm", None, flags)


def test_the_file_and_the_command_must_name_one_task(tmp_path):
    (tmp_path / "o.yaml").write_text("task: masked-lm\n")
    with pytest.raises(CommandError, match="task must be that of"):
        gather_options("sequence-classification", tmp_path / "o.yaml", {})


def test_a_run_from_a_file_of_options(tmp_path, capsys):
    data = write_labeled_texts(tmp_path / "a.jsonl", 40)
    options = tiny_run_options(tmp_path, train_files=[data]).model_dump(exclude_unset=True)
    options.pop("output_dir")
    (tmp_path / "o.yaml").write_text(yaml.safe_dump(options))
    line = ["train", "sequence-classification", "--config", str(tmp_path / "o.yaml")]
    assert main([*line, "-o", str(tmp_path / "out"), "--max-steps", "4"]) == 0
    shown = capsys.readouterr().out
    assert "accuracy: " in shown
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert yaml.safe_load((tmp_path / "out" / "options.yaml").read_text())["max_steps"] == 4
    assert main([*line, "-o", str(tmp_path / "other"), "--text-column", "body"]) == 2
    assert "must have a column 'body'; got text, label" in capsys.readouterr().err


def command_line(folder):
    line = [
        "train",
        "sequence-classification",
        "--train-files",
        write_labeled_texts(folder / "a.jsonl", 40),
    ]
    line += ["-o", str(folder / "out"), "--max-steps", "5", "--max-length", "64"]
    line += ["--vocab-size", "60", "--tokens-per-batch", "256"]
    for key, value in TINY_MODEL.items():
        line += ["--config-overrides", f"{key}={value}"]
    return line


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGINT, "interrupted"),
        (signal.SIGTERM, "stopped by SIGTERM"),
        (signal.SIGUSR1, "stopped by SIGUSR1"),
    ],
)
def test_signals_save_the_run_and_the_same_command_resumes_it(
    tmp_path, capfd, monkeypatch, number, reason
):
    from flax_bigbird.cli.progress import ProgressBarCallback

    calls = []
    should_stop = ProgressBarCallback.should_stop

    def send_signal(self):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return should_stop(self)

    monkeypatch.setattr(ProgressBarCallback, "should_stop", send_signal)
    handlers = [signal.getsignal(other) for other in (signal.SIGINT, signal.SIGTERM)]
    line = command_line(tmp_path)
    assert main(line) == 128 + number
    assert [signal.getsignal(other) for other in (signal.SIGINT, signal.SIGTERM)] == handlers
    error = capfd.readouterr().err
    assert f"{number.name}: the run is saved after this step" in error
    assert f"bigbird: {reason} after step 3, which is saved; the same command resumes" in error
    assert main(line) == 0
    assert "from step 3." in capfd.readouterr().out


def test_ctrl_c_saves_the_run_and_the_same_command_resumes_it(tmp_path, capsys, monkeypatch):
    from flax_bigbird.cli.progress import ProgressBarCallback

    calls = []
    monkeypatch.setattr(
        ProgressBarCallback, "should_stop", lambda self: calls.append(1) or len(calls) == 3
    )
    line = command_line(tmp_path)
    assert main(line) == INTERRUPTED
    assert "after step 3, which is saved; the same command resumes" in capsys.readouterr().err
    assert main(line) == 0
    assert "from step 3." in capsys.readouterr().out
