"""Models that are part of the package, loaded by name without a network."""

from pathlib import Path

DEFAULT_MODEL = "bigbird-sotu-mini"
_FOLDER = Path(__file__).parent / "pretrained"


def shipped_models() -> list[str]:
    """The names of the models inside the package."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/config.json"))


def local_path(name: str) -> str:
    """The folder of a model inside the package; any other name as it is.

    A folder of that name in the working directory comes first.
    """
    if "/" in name or Path(name).is_dir() or not (_FOLDER / name / "config.json").is_file():
        return name
    return str(_FOLDER / name)
