"""One dataclass of options: types, choices, ranges, YAML, flags."""

import dataclasses

import pytest

from flax_bigbird.cli import train as cli
from flax_bigbird.cli.errors import CommandError
from flax_bigbird.train.options import OptionError, TrainOptions, read_yaml, to_yaml

GOOD = {"task": "masked-lm", "output_dir": "out", "train_files": ["a.txt"]}


def test_yaml_and_back(tmp_path):
    options = TrainOptions(**GOOD, learning_rate=3e-5, model_config={"num_hidden_layers": 2})
    (tmp_path / "o.yaml").write_text(to_yaml(options))
    assert TrainOptions(**read_yaml(tmp_path / "o.yaml")) == options


def test_numbers_as_people_write_them_in_yaml(tmp_path):
    """YAML 1.1 reads 3e-5 as text."""
    (tmp_path / "o.yaml").write_text("learning_rate: 3e-5\n")
    assert read_yaml(tmp_path / "o.yaml") == {"learning_rate": 3e-5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "masked-ml"}, "task must be one of .*; got 'masked-ml': did you mean masked-lm"),
        ({"schedule": "step"}, "schedule must be one of linear, cosine, constant; got 'step'"),
        ({"epochs": "3"}, "epochs must be of type float; got '3'"),
        ({"max_steps": 2.5}, "max_steps must be of type int; got 2.5"),
        ({"seed": True}, "seed must be of type int; got True"),
        ({"train_files": "a.txt"}, "train_files must be of type list.*; got 'a.txt'"),
        ({"mask_rate": 0.95}, "mask_rate must be between 0.01 and 0.9; got 0.95"),
        ({"learning_rate": float("nan")}, "learning_rate must be between 0 and 10; got nan"),
        ({"gradient_accumulation": 0}, "gradient_accumulation must be at least 1; got 0"),
        ({"train_files": []}, "must be train_files or a dataset; got neither"),
        ({"dataset": "x"}, "must be train_files or a dataset; got both"),
        (
            {"max_length": 4096, "tokens_per_batch": 100},
            "tokens_per_batch must hold one document of max_length=4096",
        ),
        ({"validation_split": "test"}, "validation_split belongs to a dataset; got 'test'"),
    ],
)
def test_bad_values(change, message):
    with pytest.raises(OptionError, match=message):
        TrainOptions(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1\n", "got 'learning_rat': did you mean learning_rate"),
        ("- a\n", "must be a mapping"),
        ("a: [\n", "must be YAML"),
    ],
)
def test_bad_yaml(tmp_path, text, message):
    (tmp_path / "o.yaml").write_text(text)
    with pytest.raises(OptionError, match=message):
        read_yaml(tmp_path / "o.yaml")


def test_missing_yaml(tmp_path):
    with pytest.raises(OptionError, match=r"must be readable; .*none\.yaml is not"):
        read_yaml(tmp_path / "none.yaml")


def test_buckets_double_up_to_the_longest():
    options = TrainOptions(**GOOD, smallest_bucket=100, max_length=1000)
    assert options.buckets == (100, 200, 400, 800, 1000)
    assert TrainOptions(**GOOD, max_length=64).buckets == (64,)


def test_flags_win_over_the_file(tmp_path):
    path = tmp_path / "o.yaml"
    path.write_text("output_dir: a\ntrain_files: [x.txt]\nepochs: 2\nseed: 5\n")
    options = cli.gather(
        "masked-lm",
        path,
        {"epochs": 4.0, "seed": None, "train_files": [], "model_config": ["block_size=16", "a=b"]},
    )
    assert (options.epochs, options.seed, options.train_files) == (4.0, 5, ["x.txt"])
    assert options.model_config == {"block_size": 16, "a": "b"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"train_files": ["a"]}, "output_dir must be given; got none: add --output-dir"),
        ({"model_config": ["block_size"]}, "model_config must be key=value; got 'block_size'"),
    ],
)
def test_bad_flags(flags, message):
    with pytest.raises(CommandError, match=message):
        cli.gather("masked-lm", None, flags)


def test_the_file_and_the_line_must_name_one_task(tmp_path):
    (tmp_path / "o.yaml").write_text("task: masked-lm\n")
    with pytest.raises(CommandError, match="task must be that of"):
        cli.gather("sequence-classification", tmp_path / "o.yaml", {})


def test_every_option_is_a_flag_with_help(capsys, monkeypatch):
    from flax_bigbird.cli.main import main

    monkeypatch.setenv("COLUMNS", "200")
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    for spec in dataclasses.fields(TrainOptions):
        assert spec.metadata["help"]
        if spec.name != "task":
            assert f"--{spec.name.replace('_', '-')}" in shown, spec.name
