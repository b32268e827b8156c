"""The pretrained models that ship inside the package, loaded by name without a network.

Each model is a folder beside this file, in the layout that `save_pretrained` writes.
"""

from pathlib import Path

DEFAULT_MODEL = "bigbird-books-mini"
_FOLDER = Path(__file__).parent


def shipped_models() -> list[str]:
    """Returns the names of the models that ship inside the package."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/config.json"))


def local_path(name: str) -> str:
    """Returns the folder of a shipped model, and every other name or path unchanged.

    A folder called `name` in the working directory takes precedence over the shipped model.
    """
    if "/" in name or Path(name).is_dir() or not (_FOLDER / name / "config.json").is_file():
        return name
    return str(_FOLDER / name)
