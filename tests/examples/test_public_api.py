"""The examples import only the public API: the package, and the names of train and inference."""

import ast
from pathlib import Path

import pytest

import flax_bigbird
import flax_bigbird.inference
import flax_bigbird.train

PACKAGES = {
    "flax_bigbird": flax_bigbird,
    "flax_bigbird.train": flax_bigbird.train,
    "flax_bigbird.inference": flax_bigbird.inference,
}
INSTALLED = Path(flax_bigbird.__file__).parent / "examples"
IN_REPOSITORY = Path(__file__).parents[2] / "examples"
FILES = sorted([*INSTALLED.rglob("*.py"), *IN_REPOSITORY.rglob("*.py")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_only_public_names_are_imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
            assert not {n for n in names if n.startswith("flax_bigbird.")} - PACKAGES.keys()
        if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("flax_bigbird"):
            continue
        if str(node.module).startswith("flax_bigbird.examples"):
            continue
        assert node.module in PACKAGES, node.module
        for alias in node.names:
            assert not alias.name.startswith("_")
            assert alias.name in dir(PACKAGES[node.module])


def test_there_are_examples():
    assert len(FILES) > 5
