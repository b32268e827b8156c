"""The documentation names options that exist, and every page of a task lists the task's own."""

import re
from pathlib import Path

import pytest

from flax_bigbird.inference.attention_options import AttentionArguments
from flax_bigbird.inference.options import EvaluationArguments
from flax_bigbird.inference.search.options import IndexArguments, SearchArguments
from flax_bigbird.server.settings import ServerSettings
from flax_bigbird.tasks import task_names
from flax_bigbird.tasks.options import TaskOptions, command_options, option_fields
from flax_bigbird.train.arguments import TrainingArguments, train_options_class

DOCS = Path(__file__).parent.parent.parent / "docs"
# Flags of commands that are no options of a task: of predict, embed, evaluate, train and demo.
OTHER_FLAGS = {"output", "keep", "config", "task", "overwrite", "help"}
OTHER_FLAGS |= {"engine", "address", "concurrency"}
DEMO_FLAGS = {"steps", "quick", "from_scratch"}
# Flags of SLURM, gcloud, Ray and XLA on the page about several hosts.
CLUSTER_FLAGS = {
    *("job_name", "nodes", "ntasks_per_node", "gpus_per_node", "cpus_per_task", "time", "signal"),
    *("requeue", "kill_on_bad_exit", "worker", "command", "xla", "head", "port"),
}


def flags(page: Path) -> set[str]:
    """Returns the names of the options whose flags a page mentions."""
    names = re.findall(r"(?<![\w-])--([a-z][a-z-]+)", page.read_text("utf-8"))
    return {name.removeprefix("no-").replace("-", "_") for name in names}


def options(task: str) -> set[str]:
    """Returns the names of the options that any command has for a task."""
    return {
        *option_fields(train_options_class(task)),
        *option_fields(command_options(task, "evaluate", EvaluationArguments)),
        *option_fields(command_options(task, "predict")),
        *option_fields(command_options(task, "embed")),
    }


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_options_exist(page):
    known = OTHER_FLAGS.union(*map(options, task_names()))
    known |= {*option_fields(IndexArguments), *option_fields(SearchArguments)}
    known |= set(option_fields(ServerSettings)) if page.name == "serving.md" else set()
    known |= DEMO_FLAGS if page.name == "demo.md" else set()
    known |= CLUSTER_FLAGS if page.name == "scale.md" else set()
    known |= set(option_fields(AttentionArguments)) if page.name == "attention-maps.md" else set()
    assert flags(page) <= known


def test_the_page_about_serving_lists_all_options():
    assert set(option_fields(ServerSettings)) <= flags(DOCS / "serving.md")


@pytest.mark.parametrize("task", task_names())
def test_the_page_of_a_task_lists_its_options(task):
    page = DOCS / "tasks" / f"{task}.md"
    own = options(task) - set(TaskOptions.model_fields) - set(TrainingArguments.model_fields)
    own -= set(EvaluationArguments.model_fields)
    assert flags(page) <= options(task) | OTHER_FLAGS
    assert own <= flags(page), f"{page.name} must list {sorted(own - flags(page))}"


@pytest.mark.parametrize("task", task_names())
def test_every_task_has_a_page_in_four_parts(task):
    headings = re.findall(r"^## (.*)$", (DOCS / "tasks" / f"{task}.md").read_text("utf-8"), re.M)
    assert headings[:4] == ["Train", "Evaluate", "Predict", "Python"]
