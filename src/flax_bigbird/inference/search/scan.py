"""Finds the files of a folder that can be indexed, and what keeps others from it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from flax_bigbird.data.files import FORMATS, format_of_name
from flax_bigbird.data.readers.lines import COMPRESSIONS
from flax_bigbird.inference.partial_output import SUFFIX, PartialOutput
from flax_bigbird.inference.search.manifest import FORMAT, MANIFEST

MARKDOWN = (".md", ".markdown")
SUFFIXES = (*MARKDOWN, *FORMATS)


class FoundFile(NamedTuple):
    """A file to index.

    Attributes:
      path: Its path in the folder, with `/` between the parts.
      format: Its format, one of the values of `FORMATS`.
      size: Its size in bytes.
      mtime_ns: When it was last modified, in nanoseconds since the epoch.
    """

    path: str
    format: str
    size: int
    mtime_ns: int


class Skipped(NamedTuple):
    """A file or a directory that is not indexed.

    Attributes:
      path: Its path in the folder.
      reason: Why it is not.
    """

    path: str
    reason: str


class Scan(NamedTuple):
    """What a folder holds.

    Attributes:
      files: The files to index, sorted by path.
      skipped: What should be indexed and cannot be.
      num_others: The number of files of other formats.
    """

    files: list[FoundFile]
    skipped: list[Skipped]
    num_others: int


def indexed_format(path: Path) -> str | None:
    """Returns the format by which a file is read for an index, or None if it is not indexed."""
    stem = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return "text" if stem.suffix.lower() in MARKDOWN else format_of_name(path)


def scan_folder(folder: Path, exclude: tuple[Path, ...] = ()) -> Scan:
    """Returns the files of a folder and of all folders below it.

    Links are followed, each directory is read once, and names that begin with a period are left
    out, as are indexes.

    Args:
      folder: The folder.
      exclude: Directories that are left out.
    """
    files: list[FoundFile] = []
    skipped: list[Skipped] = []
    num_others = 0
    visited = {_identity(path): "" for path in exclude if path.exists()}
    directories, links = [folder], []  # links come last, so that paths without them are kept
    while directories or links:
        directory = directories.pop() if directories else links.pop()
        name = directory.relative_to(folder).as_posix()
        first = visited.setdefault(_identity(directory), name)
        if first != name or (directory != folder and _is_index(directory)):
            if first and first != name:
                reason = f"it is the directory {first}, which is read once"
                skipped.append(Skipped(_printable(name), reason))
            continue
        for entry in _entries(directory, folder, skipped):
            path = Path(entry.path)
            name = path.relative_to(folder).as_posix()
            try:
                if entry.is_dir():
                    (links if entry.is_symlink() else directories).append(path)
                elif (format := indexed_format(path)) is None:
                    num_others += 1
                else:
                    files.append(_found_file(entry, name, format))
            except (OSError, ValueError) as error:
                skipped.append(Skipped(_printable(name), reason_of(error)))
    return Scan(sorted(files), sorted(skipped), num_others)


def reason_of(error: BaseException) -> str:
    """Returns why a file cannot be read, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _entries(directory: Path, folder: Path, skipped: list[Skipped]) -> Iterator["os.DirEntry[str]"]:
    """Yields what a directory holds, sorted by name."""
    try:
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if directory == folder:
            raise
        name = directory.relative_to(folder).as_posix()
        skipped.append(Skipped(_printable(name), reason_of(error)))
        return
    yield from (entry for entry in found if not entry.name.startswith("."))


def _found_file(entry: "os.DirEntry[str]", name: str, format: str) -> FoundFile:
    """Returns the file of an entry.

    Raises:
      OSError, ValueError: if it cannot be indexed.
    """
    if _printable(name) != name:
        raise ValueError("the name of a file must be UTF-8, and this one is not: rename it")
    status = entry.stat()
    if not entry.is_file():
        raise ValueError("it is no regular file")
    return FoundFile(name, format, status.st_size, status.st_mtime_ns)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _is_index(directory: Path) -> bool:
    """Returns whether a directory is an index, or an unfinished one."""
    if directory.suffix == SUFFIX and PartialOutput(directory).job.exists():
        return True
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def _printable(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()
