"""Reads the imports of the package from its source code, as a graph of modules."""

import ast
import dataclasses
from pathlib import Path

import flax_bigbird
from flax_bigbird._lazy import declared_names

ROOT = Path(flax_bigbird.__file__).parent
PACKAGE = "flax_bigbird"


@dataclasses.dataclass(frozen=True)
class Import:
    """One import statement: where it stands and the dotted name that it imports."""

    module: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.module}, line {self.line}: {self.name}"


def module_name(path: Path) -> str:
    """Returns the dotted name of the module that a file of the package defines."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
_PUBLIC_NAMES = declared_names(MODULES[PACKAGE].read_text())


def imports_of(module: str) -> list[Import]:
    """Returns every import of the package in a module.

    Imports inside functions and under TYPE_CHECKING count like all others. So does attribute
    access on the root package, such as `flax_bigbird.FlaxBigBirdModel`.
    """
    imports = []
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(level=0, module=str(origin)):
                names = [f"{origin}.{alias.name}" for alias in node.names]
            case ast.ImportFrom():
                raise AssertionError(f"{module}, line {node.lineno}: imports must be absolute")
            case ast.Attribute(value=ast.Name(id="flax_bigbird")):
                names = [f"{PACKAGE}.{node.attr}"]
            case _:
                continue
        imports += [
            Import(module, node.lineno, name) for name in names if name.split(".")[0] == PACKAGE
        ]
    return imports


def target_module(name: str) -> str:
    """Returns the module that defines an imported dotted name, through the root's public names."""
    package, _, rest = name.partition(".")
    first = rest.split(".")[0]
    if f"{package}.{first}" not in MODULES and first in _PUBLIC_NAMES:
        origin, attribute = _PUBLIC_NAMES[first]
        name = f"{origin}.{attribute}"
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def module_graph() -> dict[str, set[str]]:
    """Returns the modules that each module imports, without the root package itself.

    The root's public names stand for the modules that define them.
    """
    return {
        module: {target_module(i.name) for i in imports_of(module)} - {PACKAGE}
        for module in MODULES
        if module != PACKAGE
    }
