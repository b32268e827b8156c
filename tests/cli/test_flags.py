"""Flags are made from the options classes: one for each option, with help and messages."""

import pytest

from flax_bigbird.cli.flags import parse_flags
from flax_bigbird.cli.main import main
from flax_bigbird.data.errors import OptionError
from flax_bigbird.inference.options import EvaluationArguments
from flax_bigbird.tasks.options import COMMANDS, command_options, option_fields
from flax_bigbird.tasks.registry import get_options_class, task_names
from flax_bigbird.train import train_options_class


def shown_help(arguments: list[str], capsys, monkeypatch) -> str:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*arguments, "--help"]) == 0
    return capsys.readouterr().out


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_numbers_of_pairs_need_no_point():
    """YAML 1.1 reads 1e-12 as text."""
    fields = option_fields(train_options_class("masked-lm"))
    flags = {"config_overrides": ["layer_norm_eps=1e-12", "hidden_act=gelu"]}
    values = {"layer_norm_eps": 1e-12, "hidden_act": "gelu"}
    assert parse_flags(flags, fields)["config_overrides"] == values


@pytest.mark.parametrize("task", task_names())
def test_training_has_the_flags_that_the_task_uses(task, capsys, monkeypatch):
    shown = shown_help(["train", task], capsys, monkeypatch)
    fields = option_fields(train_options_class(task))
    for name, field in fields.items():
        assert field.description
        assert f"{flag(name)} " in shown, name
    for other in task_names():
        for name in get_options_class(other).model_fields.keys() - fields.keys():
            assert f"{flag(name)} " not in shown, name


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_inference_has_the_flags_of_all_tasks(command, capsys, monkeypatch):
    assert command in COMMANDS
    shown = shown_help([command], capsys, monkeypatch)
    bases = (EvaluationArguments,) if command == "evaluate" else ()
    for task in task_names():
        for name, field in option_fields(command_options(task, command, *bases)).items():
            assert field.description
            assert f"{flag(name)} " in shown or name == "files", name
    assert "Only for question-answering" in shown


def test_lists_of_numbers():
    fields = option_fields(train_options_class("embedding"))
    parsed = parse_flags({"matryoshka_dims": ["64", "128"], "query_prompt": "q: "}, fields)
    assert parsed == {"matryoshka_dims": [64, 128], "query_prompt": "q: "}
    parsed = parse_flags({"matryoshka_dims": ["x"], "train_files": ["12"]}, fields)
    assert parsed == {"matryoshka_dims": ["x"], "train_files": ["12"]}
    with pytest.raises(OptionError, match=r"must be of type list\[int\]; got 'x' in it"):
        train_options_class("embedding")(**parsed, output_dir="a")


def test_help_shows_choices_ranges_and_defaults(capsys, monkeypatch):
    shown = " ".join(shown_help(["train", "masked-lm"], capsys, monkeypatch).split())
    assert "[linear|cosine|constant|warmup_stable_decay]" in shown
    assert "[range: 0.01 to 0.9] [default: 0.15]" in shown
    assert "[min: 1] [default: 500]" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "masked-lm", "--stride", "8"],
            "stride is an option of question-answering; got it for masked-lm: leave it out",
        ),
        (
            ["train", "causal-lm", "--temperature", "1"],
            "temperature is an option of bigbird predict; got it for bigbird train: leave it out",
        ),
        (["train", "masked-lm", "--mask-rate", "1"], "mask_rate is now mlm_probability: rename it"),
        (
            ["predict", "m", "f", "--label-column", "y"],
            "label_column is an option of bigbird train and bigbird evaluate; got it for bigbird "
            "predict: leave it out",
        ),
        (
            ["evaluate", "m", "f", "--model-config", "a=1"],
            "model_config is now config_overrides: rename it",
        ),
        (["train", "masked-lm", "--max-lenght", "8"], "--max-length"),
        (
            ["train"],
            "a task must be given; got none: choose one of causal-lm, embedding, masked-lm",
        ),
        (["train", "masked-ml"], "No such command 'masked-ml'"),
    ],
)
def test_flags_that_a_command_does_not_have(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("bigbird: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-steps", "x"], "max_steps must be of type int; got 'x': change it"),
        (["--max-steps", "-1"], "max_steps must be at least 0; got -1: change it"),
        (["--learning-rate", "nan"], "learning_rate must be between 0 and 10; got nan"),
        (["--lr-scheduler-type", "lineer"], "got 'lineer': did you mean linear?"),
        (["--config-overrides", "block_size"], "must be key=value; got 'block_size': add the"),
        (
            ["--config-overrides", "a=[1"],
            "must be key=value with a value in YAML; got 'a=[1' (line 1",
        ),
    ],
)
def test_wrong_values_have_the_messages_of_python(flags, message, tmp_path, capsys):
    line = ["train", "masked-lm", "-o", str(tmp_path / "out"), "--train-files", "a.txt"]
    assert main([*line, *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("value", ["[1", "2024-13-45", "{a: 1, a: 2}"])
def test_overrides_that_yaml_cannot_hold_are_one_error(value, capsys):
    line = ["evaluate", "bigbird-books-mini", "rows.jsonl", "--config-overrides", f"layers={value}"]
    assert main(line) == 2
    assert "must be key=value with a value in YAML" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("--train-files", ["a.jsonl", "b.jsonl"]),
        ("--validation-files", ["a.jsonl", "b.jsonl", "c.jsonl"]),
        ("--config-overrides", ["num_hidden_layers=1", "hidden_size=32"]),
    ],
)
@pytest.mark.parametrize("separator", [[], ["="]])
def test_a_second_value_of_a_list_says_to_repeat_the_flag(flag, values, separator, capsys):
    first, *others = values
    given = [f"{flag}={first}", *others] if separator else [flag, *values]
    assert main(["train", "masked-lm", *given, "-o", "run"]) == 2
    assert capsys.readouterr().err.strip() == (
        f"bigbird: {flag} takes one value; got {first!r} and {others[0]!r}: repeat the flag, as in "
        f"{flag} {first} {flag} {others[0]}"
    )
