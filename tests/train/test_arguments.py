"""Options of a training run: types, ranges, options without effect, YAML files."""

import inspect
import subprocess
import sys

import pytest

from flax_bigbird.tasks.options import option_fields
from flax_bigbird.tasks.registry import task_names
from flax_bigbird.train import (
    OptionError,
    TrainerCallback,
    read_yaml,
    to_yaml,
    train,
    train_options,
    train_options_class,
)
from flax_bigbird.train.run import check_arguments

REQUIRED = {"output_dir": "out", "train_files": ["a.txt"]}


def test_yaml_round_trip(tmp_path):
    options = train_options(
        "masked-lm", **REQUIRED, learning_rate=3e-5, config_overrides={"num_hidden_layers": 2}
    )
    (tmp_path / "o.yaml").write_text(to_yaml(options))
    values = read_yaml(tmp_path / "o.yaml")
    assert train_options(values.pop("task"), **values) == options


def test_yaml_floats_without_a_point_are_numbers(tmp_path):
    """YAML 1.1 reads 3e-5 as text."""
    (tmp_path / "o.yaml").write_text("learning_rate: 3e-5\n")
    assert read_yaml(tmp_path / "o.yaml", "masked-lm") == {"learning_rate": 3e-5}
    text = "config_overrides: {layer_norm_eps: 1e-12, hidden_act: gelu, name: 1e5a}"
    (tmp_path / "o.yaml").write_text(text)
    changes = {"layer_norm_eps": 1e-12, "hidden_act": "gelu", "name": "1e5a"}
    assert read_yaml(tmp_path / "o.yaml", "masked-lm") == {"config_overrides": changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"lr_scheduler_type": "step"},
            "lr_scheduler_type must be one of linear, cosine, constant, warmup_stable_decay; "
            "got 'step'",
        ),
        ({"num_train_epochs": "3"}, "num_train_epochs must be of type float; got '3'"),
        ({"max_steps": 2.5}, "max_steps must be of type int; got 2.5"),
        ({"seed": True}, "seed must be of type int; got True"),
        ({"train_files": "a.txt"}, "train_files must be of type list.*; got 'a.txt'"),
        ({"mlm_probability": 0.95}, "mlm_probability must be between 0.01 and 0.9; got 0.95"),
        ({"learning_rate": float("nan")}, "learning_rate must be between 0 and 10; got nan"),
        (
            {"gradient_accumulation_steps": 0},
            "gradient_accumulation_steps must be at least 1; got 0",
        ),
        ({"train_files": []}, "must be train_files or a dataset; got neither"),
        ({"dataset": "x"}, "must be train_files or a dataset; got both"),
        (
            {"max_length": 4096, "tokens_per_batch": 100},
            "tokens_per_batch must hold one document of max_length=4096",
        ),
        ({"validation_split": "test"}, "validation_split belongs to a dataset; got 'test'"),
        ({"output_dir": None}, "output_dir must be of type str; got None"),
    ],
)
def test_values_that_are_not_allowed(change, message):
    with pytest.raises(OptionError, match=message):
        train_options("masked-lm", **{**REQUIRED, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train_files": [], "dataset": "x", "file_format": "csv"},
            "file_format is an option of files; got 'csv' for a dataset: leave it out",
        ),
        (
            {"file_format": "xml"},
            "file_format must be one of json, csv, parquet, text, conll, fasta",
        ),
        ({"train_split": "all"}, "train_split belongs to a dataset; got 'all'"),
        ({"dataset_config": "en"}, "dataset_config belongs to a dataset; got 'en'"),
        (
            {"validation_files": ["b.txt"], "validation_fraction": 0.2},
            "validation_fraction holds out training rows .* got 0.2 beside validation data",
        ),
        ({"eval_steps": 5, "validation_fraction": 0}, "eval_steps needs validation data; got 5"),
        (
            {"early_stopping_patience": 2, "validation_fraction": 0},
            "early_stopping_patience needs validation data; got 2",
        ),
        (
            {"metric_for_best_model": "loss", "validation_fraction": 0},
            "metric_for_best_model needs validation data; got 'loss'",
        ),
        ({"num_train_epochs": 1, "max_steps": 5}, "max_steps or num_train_epochs; got both"),
        ({"vocab_size": 100, "tokenizer": "t"}, "got 100, and the tokenizer of t is used"),
        ({"vocab_size": 100, "model": "m"}, "got 100, and the tokenizer of m is used"),
        (
            {"vocabulary": "characters", "model": "m"},
            "kind of a new tokenizer; got characters, and",
        ),
        ({"vocabulary": "bytes"}, "vocabulary must be one of subwords, characters; got 'bytes'"),
        (
            {"random_attention": "hf", "config_overrides": {"attention_type": "original_full"}},
            "random_attention belongs to attention_type 'block_sparse'; got 'hf'",
        ),
        ({"stride": 8}, "stride is an option of question-answering; got it for masked-lm"),
        (
            {"temperature": 1.0},
            "temperature is an option of causal-lm, embedding; got it for masked-lm",
        ),
    ],
)
def test_options_without_effect(change, message):
    with pytest.raises(OptionError, match=message):
        train_options("masked-lm", **{**REQUIRED, **change})


def test_both_kinds_of_validation_data():
    options = {"output_dir": "out", "dataset": "x", "validation_split": "test"}
    with pytest.raises(OptionError, match="validation_files or validation_split; got both"):
        train_options("masked-lm", **options, validation_files=["b.txt"])


def test_packing_belongs_to_language_models():
    with pytest.raises(OptionError, match=r"packing is an option of .*; got it for next-sentence"):
        train_options("next-sentence", **REQUIRED, packing=True)


def test_unknown_task():
    with pytest.raises(OptionError, match=r"task must be one of .*; got 'masked-ml': did you mean"):
        train_options("masked-ml", **REQUIRED)


def test_previous_name_of_an_option():
    with pytest.raises(OptionError, match="epochs is now num_train_epochs: rename it"):
        train_options("masked-lm", **REQUIRED, epochs=3.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1\n", "got 'learning_rat': did you mean learning_rate"),
        ("- a\n", "must be a mapping"),
        ("a: [\n", r"must be YAML; .* is not \(line 2, column 1: expected the node content"),
        ("seed: 1\nseed: 2\n", "the key 'seed' is given twice, lines 1 and 2"),
        ("config_overrides:\n  a: 1\n  a: 2\n", "the key 'a' is given twice, lines 2 and 3"),
        ("seed: 2024-13-45\n", r"must be YAML; .* is not \(month must be in 1..12"),
        ("seed: " + "[" * 5000, "is nested too deeply"),
        ("task: causal-lm\n", "task must be that of .*, 'causal-lm'; got 'masked-lm'"),
    ],
)
def test_yaml_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "o.yaml").write_text(text)
    with pytest.raises(OptionError, match=message):
        read_yaml(tmp_path / "o.yaml", "masked-lm")


def test_yaml_without_a_task(tmp_path):
    (tmp_path / "o.yaml").write_text("seed: 1\n")
    with pytest.raises(OptionError, match=r"task must be given; .* names none"):
        read_yaml(tmp_path / "o.yaml")


def test_missing_yaml(tmp_path):
    with pytest.raises(OptionError, match=r"must be readable; .*none\.yaml is not"):
        read_yaml(tmp_path / "none.yaml", "masked-lm")


def test_bucket_lengths_double_up_to_max_length():
    options = train_options("masked-lm", **REQUIRED, min_bucket_length=100, max_length=1000)
    assert options.bucket_lengths == (100, 200, 400, 800, 1000)
    options = train_options("masked-lm", **REQUIRED, max_length=64)
    assert options.bucket_lengths == (64,)


@pytest.mark.parametrize("task", task_names())
def test_every_option_has_a_help_text(task):
    for name, field in option_fields(train_options_class(task)).items():
        assert field.description, name


def test_options_are_imported_without_jax():
    code = """
import sys
from flax_bigbird.train.arguments import train_options
train_options("masked-lm", train_files=["a"], output_dir="b")
assert not {"jax", "flax", "numpy", "optax"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("callbacks", "got"),
    [([TrainerCallback], "the class TrainerCallback"), (TrainerCallback(), "TrainerCallback")],
)
def test_callbacks_are_a_list_of_instances(callbacks, got):
    options = train_options("masked-lm", **REQUIRED)
    with pytest.raises(OptionError, match=f"callbacks must be a list of .*; got {got}: write"):
        inspect.unwrap(train)(options, callbacks)  # without the type checks of the tests
    check_arguments(options, [TrainerCallback()])


def test_training_needs_options_of_train_options():
    with pytest.raises(OptionError, match="options must come from train_options; got dict: write"):
        inspect.unwrap(train)({"task": "masked-lm"}, ())
