"""The table of tasks: every entry resolves, and a new task works everywhere."""

import random
import subprocess
import sys

import numpy as np
import pytest
from example_task import TitleMatching
from tiny_checkpoints import Checkpoints
from tiny_runs import HARBOR, MEADOW, random_words, tiny_run_options, write_jsonl

import flax_bigbird
from flax_bigbird.inference import evaluate, load_predictor
from flax_bigbird.tasks import registry
from flax_bigbird.tasks.base import Task
from flax_bigbird.tasks.options import OptionError, TaskOptions, field_metadata
from flax_bigbird.train import train


@pytest.mark.parametrize("name", registry.task_names())
def test_entries_name_complete_tasks(name):
    task = registry.get_task(name)
    assert issubclass(task, Task)
    assert not task.__abstractmethods__
    assert (task.name, task.options_class.task) == (name, name)
    assert task.options_class is registry.get_options_class(name)
    assert issubclass(task.options_class, TaskOptions)
    assert hasattr(flax_bigbird, task.model_class)
    assert registry.task_summary(name).endswith(".")
    assert task.title
    assert task.pipeline_tag


@pytest.mark.parametrize("name", registry.task_names())
def test_every_option_has_a_help_text_and_a_panel(name):
    for option_name, field in registry.get_options_class(name).model_fields.items():
        assert field.description, option_name
        assert field.description.endswith("."), option_name
        metadata = field_metadata(field)
        assert metadata["panel"], option_name
        assert metadata["commands"], option_name


def test_the_table_and_the_options_are_imported_without_jax():
    code = """
import sys
from flax_bigbird.tasks import registry
assert not {"pydantic", "numpy"} & set(sys.modules)
for name in registry.task_names():
    registry.task_summary(name)
    registry.get_options_class(name)
assert not {"jax", "flax", "numpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_data_and_tasks_are_imported_without_optional_dependencies():
    """Neither the `train` extra nor PyTorch is needed to predict."""
    code = """
import importlib, pkgutil, sys
for name in ("datasets", "grain", "optax", "sklearn", "seqeval", "pyarrow", "pandas", "torch"):
    sys.modules[name] = None
import flax_bigbird.data, flax_bigbird.tasks
for package in (flax_bigbird.data, flax_bigbird.tasks):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
assert not {"sentencepiece", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_tasks():
    with pytest.raises(OptionError, match=r"task must be one of .*; got 'masked-ml': did you mean"):
        registry.get_task("masked-ml")


OWNERS = {"reranking": "sequence-classification"}  # of the model classes of other tasks


@pytest.mark.parametrize("name", [name for name in registry.task_names() if name != "embedding"])
def test_a_checkpoint_names_its_task(name):
    class Config:
        architectures = (registry.get_task(name).model_class.removeprefix("Flax"),)

    assert registry.task_for_config(Config, "model") == OWNERS.get(name, name)


def test_a_checkpoint_without_a_head_has_no_task():
    class Config:
        architectures = ("BigBirdModel",)

    with pytest.raises(OptionError, match="task must be given for m, which was saved as BigBirdMo"):
        registry.task_for_config(Config, "m")


@pytest.mark.parametrize(
    ("head", "name"),
    [("FlaxBigBirdForPreTraining", "next-sentence"), ("FlaxBigBirdForMaskedLM", "masked-lm")],
)
def test_pretrained_checkpoints_evaluate_and_predict(tmp_path, head, name):
    """BigBirdForPreTraining is the class of the checkpoints that Google published."""
    folder = Checkpoints(tmp_path)(head)
    rows = [{"text": random_words(MEADOW, 60, random.Random(seed))} for seed in range(4)]
    report = evaluate(folder, [write_jsonl(tmp_path / "a.jsonl", rows)])
    assert report["task"] == name
    assert all(np.isfinite(list(report["metrics"].values())))
    assert ("next_sentence_accuracy" in report["metrics"]) == (name == "next-sentence")
    assert len(load_predictor(folder)("the [MASK] grazes in a [MASK]")["masks"]) == 2


@pytest.fixture
def title_matching(monkeypatch):
    """Registers the example task for one test."""
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))
    registry.register_task(
        "title-matching", TitleMatching, "Predict whether a title belongs to an article."
    )


def write_titles(path, count, seed):
    """Writes articles about a meadow or a harbor, and titles about one of both."""
    generator = random.Random(seed)
    rows = []
    for index in range(count):
        topics = generator.sample([MEADOW, HARBOR], 2)
        title, text = topics[index % 2], topics[0]
        rows.append(
            {
                "headline": random_words(title, 4, generator),
                "text": random_words(text, 30, generator),
                "matches": 1 - index % 2,
            }
        )
    return write_jsonl(path, rows), rows


@pytest.mark.usefixtures("standard_dtype_promotion")  # optax promotes dtypes
def test_a_new_task_trains_evaluates_and_predicts(title_matching, tmp_path):
    data, rows = write_titles(tmp_path / "a.jsonl", 60, 0)
    options = tiny_run_options(
        tmp_path, "title-matching", train_files=[data], title_column="headline"
    )
    assert options.task == "title-matching"
    report = train(options)
    assert set(report["metrics"]) == {"loss", "accuracy"}
    assert "Title matcher" in (tmp_path / "run" / "README.md").read_text()

    test_data, _ = write_titles(tmp_path / "test.jsonl", 20, 1)
    evaluation = evaluate(tmp_path / "run", [test_data])
    assert evaluation["task"] == "title-matching"
    predict = load_predictor(tmp_path / "run")
    probabilities = [answer["probability"] for answer in predict(rows)]
    assert len(probabilities) == 60
    assert all(0 < probability < 1 for probability in probabilities)

    with pytest.raises(OptionError, match="title_column is an option of title-matching; got it"):
        tiny_run_options(tmp_path, "masked-lm", train_files=[data], title_column="headline")
    with pytest.raises(OptionError, match="stride is an option of question-answering; got it for"):
        load_predictor(tmp_path / "run", stride=8)


def test_the_name_of_a_new_task_must_be_new():
    with pytest.raises(ValueError, match="the name of a task must be new; got 'masked-lm'"):
        registry.register_task("masked-lm", TitleMatching, "...")
