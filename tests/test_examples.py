"""Tests that the examples use public names only, and the parts of them that are quick to run."""

import ast
import importlib
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
# The packages below `flax_bigbird` whose names are public.
PUBLIC_PACKAGES = {"attention", "data", "inference", "serve", "tasks", "train"}


def package_imports(path: Path) -> list[tuple[str, str]]:
    """Returns `(module, name)` for every name that a file imports from flax_bigbird."""
    imports = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            imports += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            imports += [(alias.name, "__name__") for alias in node.names]
    return [(module, name) for module, name in imports if module.split(".")[0] == "flax_bigbird"]


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: str(path.relative_to(EXAMPLES))
)
def test_examples_import_public_names_only(path):
    for module, name in package_imports(path):
        packages = module.split(".")[1:]
        assert not packages or (len(packages) == 1 and packages[0] in PUBLIC_PACKAGES), module
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"
        assert name == "__name__" or not name.startswith("_")


@pytest.fixture
def pretraining(monkeypatch):
    """Makes the scripts of `examples/pretraining` importable."""
    monkeypatch.syspath_prepend(EXAMPLES / "pretraining")


@pytest.mark.usefixtures("pretraining")
def test_pretraining_texts_have_the_split_of_the_demo():
    """The shipped model must not have seen the addresses that the demo evaluates on."""
    write_texts = importlib.import_module("write_texts")
    from flax_bigbird.cli.demo import data

    speeches = data.load_speeches()
    _, held_out = data.split(speeches)
    years = write_texts.held_out_years(speech.year for speech in speeches)
    assert years == {speech.year for speech in held_out}


@pytest.mark.usefixtures("pretraining")
def test_slow_waves_separate_the_copies_of_a_tiled_table():
    waves = importlib.import_module("add_position_waves")
    rng = np.random.default_rng(0)
    words, table = rng.standard_normal((300, 32)), rng.standard_normal((256, 32))
    tiled = np.tile(table, (16, 1))
    added = waves.slow_waves(words, tiled)
    assert added.shape == tiled.shape
    assert np.abs(added[:256] - added[2048:2304]).max(axis=1).min() > 0.05
    np.testing.assert_allclose(np.linalg.matrix_rank(added), 2 * len(waves.PERIODS))
