"""Tests the public names that packages load on first access."""

import importlib
import sys

import import_graph
import pytest

from flax_bigbird import _lazy

LAZY_PACKAGES = [
    module
    for module, path in import_graph.MODULES.items()
    if path.name == "__init__.py" and "_lazy.attach(" in path.read_text()
]


@pytest.mark.parametrize("package", LAZY_PACKAGES)
def test_every_declared_name_is_loaded_from_its_module(package):
    module = importlib.import_module(package)
    declared = _lazy.declared_names(import_graph.MODULES[package].read_text())
    assert declared
    assert set(declared) <= set(dir(module))
    for name, (origin, attribute) in declared.items():
        if origin == package:
            assert getattr(module, name) is importlib.import_module(f"{package}.{attribute}")
        else:
            assert getattr(module, name) is getattr(importlib.import_module(origin), attribute)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nonsense'"):
        module.nonsense  # noqa: B018


def test_some_packages_are_lazy():
    assert "flax_bigbird" in LAZY_PACKAGES


PACKAGE = """
from typing import TYPE_CHECKING
from flax_bigbird import _lazy
if TYPE_CHECKING:
    from {name} import below as below
    from {name}.defines import answer as answer
    from {name}.defines import hidden
else:
    __getattr__, __dir__ = _lazy.attach(__name__, __file__)
"""


def test_modules_are_imported_on_first_access(tmp_path, monkeypatch):
    name = "package_for_test_lazy"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(PACKAGE.format(name=name))
    (folder / "defines.py").write_text("answer, hidden = 42, 43\n")
    (folder / "below.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    package = importlib.import_module(name)
    assert {"answer", "below"} <= set(dir(package))
    assert f"{name}.defines" not in sys.modules
    assert package.answer == 42
    assert f"{name}.below" not in sys.modules
    assert package.below is sys.modules[f"{name}.below"]
    with pytest.raises(AttributeError, match="no attribute 'hidden'"):
        package.hidden  # noqa: B018
