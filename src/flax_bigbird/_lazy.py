"""Loads the public names of a package on first access (PEP 562).

A package whose `__init__.py` imported all of its modules would make every command wait for JAX and
Flax. Such a package declares its public names once, as imports for type checkers and editors:

    if TYPE_CHECKING:
        from flax_bigbird.tasks.base import Task as Task
    else:
        __getattr__, __dir__ = _lazy.attach(__name__, __file__)

`attach` reads these declarations, and each import runs when its name is first accessed.
"""

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns the `__getattr__` and `__dir__` of a package that loads its public names lazily.

    Args:
      package: the package's `__name__`.
      file: its `__file__`, whose `if TYPE_CHECKING:` block declares the public names.
    """
    origins = declared_names(Path(file).read_text(encoding="utf-8"))

    def __getattr__(name: str) -> Any:
        if name not in origins:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = origins[name]
        if module == package:
            return importlib.import_module(f"{package}.{attribute}")
        return getattr(importlib.import_module(module), attribute)

    def __dir__() -> list[str]:
        return sorted({*vars(importlib.import_module(package)), *origins})

    return __getattr__, __dir__


def declared_names(source: str) -> dict[str, tuple[str, str]]:
    """Returns `(module, attribute)` for every name that a TYPE_CHECKING block imports.

    Args:
      source: Python source code. Only `from MODULE import NAME as NAME` statements count, in `if
        TYPE_CHECKING:` blocks at the top level.
    """
    blocks = [
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"
    ]
    imports = [node for block in blocks for node in block if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname: (node.module, alias.name)
        for node in imports
        for alias in node.names
        if alias.asname and node.module
    }
