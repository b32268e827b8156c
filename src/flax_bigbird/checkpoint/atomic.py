"""Writes files and directories atomically: a crash leaves the old content or the new, never a part.

The content is first written under a temporary name in the same directory and flushed to disk. One
rename then puts it in place.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_SUFFIX = ".partial"  # of the temporary names


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 text file atomically, replacing a file that exists."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file atomically, replacing a file that exists."""
    path = Path(path)
    temporary = partial_file(path)
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def partial_file(path: Path) -> Path:
    """Returns the temporary file of `atomic_write_bytes`, which a killed process leaves behind."""
    return path.with_name(f".{path.name}{_SUFFIX}")


def partial_directory(path: Path) -> Path:
    """Returns the temporary directory of `atomic_directory`."""
    return path.with_name(f"{path.name}{_SUFFIX}")


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Yields an empty directory to fill, which is renamed to `path` when the block ends.

    If the block raises, the directory is removed, and `path` stays as it was.

    Args:
      path: The directory.
      replace: Whether to replace a directory that exists. A process that is killed between the two
        renames leaves it under another name, from which `recover_directory` restores it.

    Raises:
      OSError: if `path` already exists and is not an empty directory, unless `replace` is set.
    """
    path = Path(path)
    temporary = partial_directory(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        publish_directory(temporary, path, replace=replace)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def publish_directory(
    temporary: Path, path: Path, *, replace: bool = False, previous: Path | None = None
) -> None:
    """Flushes a directory to disk and renames it to `path`; see `atomic_directory`.

    Args:
      temporary: The directory.
      path: Its new name.
      replace: Whether to replace a directory that exists.
      previous: The name that this one has in the meantime; whatever has that name is removed. By
        default, it is `path` with the suffix `.previous`, for names that no user chooses.
    """
    previous = _previous_directory(path) if previous is None else previous
    for file in temporary.rglob("*"):
        flush_to_disk(file)
    flush_to_disk(temporary)
    if replace and path.exists():
        shutil.rmtree(previous, ignore_errors=True)
        path.rename(previous)
    temporary.rename(path)
    shutil.rmtree(previous, ignore_errors=True)


def recover_directory(path: Path) -> None:
    """Restores a directory that `atomic_directory` was replacing when its process was killed."""
    if not path.exists() and _previous_directory(path).exists():
        _previous_directory(path).rename(path)
    for leftover in (partial_directory(path), _previous_directory(path)):
        shutil.rmtree(leftover, ignore_errors=True)


def _previous_directory(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def flush_to_disk(path: Path) -> None:
    """Blocks until the content of a file, or the entries of a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
