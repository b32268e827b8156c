"""The output folder: checked before the work, filled only when all of it is done."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flax_bigbird.cli.demo.report import MADE_BY
from flax_bigbird.cli.errors import CommandError

REPORT = "report.json"  # written last: a folder that has it is complete


def check_output(folder: Path) -> None:
    """Raises `CommandError` unless the folder is new, empty or an earlier demo's."""
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"--output must be a folder; {folder} is a file: name another")
    try:
        if folder.exists() and any(folder.iterdir()) and not _is_demo(folder):
            raise CommandError(
                f"--output must be new, empty or an earlier demo's folder; {folder} holds other "
                "files: name another"
            )
        parents = (path for path in folder.absolute().parents if path.exists())
        for place in [next(parents), *([folder] if folder.exists() else [])]:
            with tempfile.TemporaryFile(dir=place):
                pass
    except OSError as error:
        raise CommandError(
            f"--output must be writable, as must the folder it is in; {folder} is not "
            f"({error.strerror}): name another"
        ) from error


def _is_demo(folder: Path) -> bool:
    try:
        return json.loads((folder / REPORT).read_text(encoding="utf-8"))["made_by"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A scratch folder beside `folder`; its files move there when the block ends without error.

    An error or Ctrl-C leaves `folder` as it was. Files of other names in it stay.
    """
    folder = folder.absolute()
    parent = folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=parent))
    try:
        yield scratch
        folder.mkdir(exist_ok=True)
        names = sorted(path.name for path in scratch.iterdir())
        for name in sorted(names, key=lambda name: name == REPORT):
            os.replace(scratch / name, folder / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
