"""Checks the output directory of the demo, and fills it when the whole demo has succeeded."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flax_bigbird.cli.errors import CommandError
from flax_bigbird.examples.state_of_the_union.report import MADE_BY

REPORT_FILE = "report.json"  # It is moved last: a directory that has it is complete.


def check_output(directory: Path) -> None:
    """Checks that the demo may write to a directory.

    Raises:
      CommandError: unless the directory is writable, and new, empty or that of an earlier demo.
    """
    if directory.exists() and not directory.is_dir():
        raise CommandError(f"--output must be a directory; {directory} is a file: choose another")
    try:
        if directory.exists() and any(directory.iterdir()) and not _is_demo(directory):
            raise CommandError(
                "--output must be new, empty or the directory of an earlier demo; "
                f"{directory} holds other files: choose another"
            )
        parents = (path for path in directory.absolute().parents if path.exists())
        for path in [next(parents), *([directory] if directory.exists() else [])]:
            with tempfile.TemporaryFile(dir=path):
                pass
    except OSError as error:
        raise CommandError(
            "--output must be writable, as must the directory that contains it; "
            f"{directory} is not ({error.strerror}): choose another"
        ) from error


def _is_demo(directory: Path) -> bool:
    try:
        report = json.loads((directory / REPORT_FILE).read_text(encoding="utf-8"))
        return report["made_by"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def staging_directory(directory: Path) -> Iterator[Path]:
    """Yields a temporary directory whose files move to `directory` if the block succeeds.

    After an error or Ctrl-C, `directory` is unchanged. Files with other names stay in it.
    """
    directory = directory.absolute()
    parent = directory.parent
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=parent))
    try:
        yield temporary
        directory.mkdir(exist_ok=True)
        names = sorted(path.name for path in temporary.iterdir())
        for name in sorted(names, key=lambda name: name == REPORT_FILE):
            os.replace(temporary / name, directory / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
