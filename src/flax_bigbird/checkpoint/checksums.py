"""Checksums of the files in a directory, which show whether they are still as they were saved.

A checksum is the CRC-32 of a file. It finds every error of up to 32 neighboring bits, such as a
byte that a disk or a copy changed, and all but one in four billion others. It is no protection
against somebody who changes files on purpose.
"""

import json
import zlib
from pathlib import Path

from flax_bigbird.checkpoint.atomic import atomic_write_text

CHECKSUM_FILE = "checksums.json"
_CHUNK = 2**22  # bytes


def write_checksums(folder: Path) -> None:
    """Writes the sizes and checksums of all files below a directory to `checksums.json` in it."""
    checksums = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _checksum(path)]
        for path in _files(folder)
    }
    atomic_write_text(folder / CHECKSUM_FILE, json.dumps(checksums, indent=1) + "\n")


def has_checksums(folder: Path) -> bool:
    """Returns whether `write_checksums` was called for a directory."""
    return (folder / CHECKSUM_FILE).exists()


def find_damage(folder: Path) -> str | None:
    """Compares the files of a directory with its checksums.

    Args:
      folder: The directory.

    Returns:
      The first file that is missing or differs, for a message; None if all files are as they were
      saved, or if the directory has no checksums (an earlier version wrote none). Files that were
      added do not count.
    """
    if not folder.is_dir():
        return f"{folder} is missing"
    if not has_checksums(folder):
        return None
    try:
        checksums = json.loads((folder / CHECKSUM_FILE).read_text(encoding="utf-8"))
        expected = {folder / name: (size, checksum) for name, (size, checksum) in checksums.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return f"{folder / CHECKSUM_FILE} is damaged"
    for path, (size, checksum) in expected.items():
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size or _checksum(path) != checksum:
            return f"{path} is not as it was saved"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / CHECKSUM_FILE)


def _checksum(path: Path) -> str:
    value = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"
