"""The manifest of an index: which model, options and files it was built with.

An index is a directory with `manifest.json` and one directory of data that the manifest names. The
data of an index never change: an update writes new ones beside them and then replaces the manifest,
atomically, so that a reader sees either the old index or the new one.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pydantic

from flax_bigbird.checkpoint import (
    CHECKSUM_FILE,
    atomic_write_text,
    find_damage,
    has_checksums,
    partial_file,
)
from flax_bigbird.data.errors import OptionError
from flax_bigbird.inference.search.options import VECTOR_OPTIONS

FORMAT = "flax-bigbird index"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
DATA_PREFIX = "data-"

# How `usearch` names the similarities that an index can have.
METRICS = {"cosine": "cos", "dot": "ip", "euclidean": "l2sq"}


class Manifest(pydantic.BaseModel):
    """What an index depends on, and what it holds.

    Attributes:
      library_version: The version of flax-bigbird that wrote the index.
      model: The directory, shipped name or Hub id of the model.
      fingerprint: A hash of the model's parameters, of its tokenizer, and of the layers behind it.
      options: The options of embedding that the vectors depend on.
      query_prompt: The text to put before each query; None stands for that of the model's folder.
      dimension: The number of dimensions of a vector.
      metric: How vectors are compared, a key of `METRICS`.
      has_words: Whether the index can be searched by words, too.
      folder: The folder that was indexed.
      data: The name of the directory with the data.
      scan_time_ns: When the folder was scanned, in nanoseconds since the epoch.
      num_files: The number of files.
      num_chunks: The number of chunks, each of which has a vector.
      next_key: The key of the next chunk. Keys are never used twice.
    """

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=True, protected_namespaces=()
    )

    library_version: str
    model: str
    fingerprint: str
    options: dict[str, Any]
    query_prompt: str | None
    dimension: int = pydantic.Field(ge=1)
    metric: Literal["cosine", "dot", "euclidean"]
    has_words: bool
    folder: str
    data: str = pydantic.Field(pattern=r"^data-\d+$")
    scan_time_ns: int
    num_files: int
    num_chunks: int
    next_key: int

    @pydantic.field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        if missing := set(VECTOR_OPTIONS) - options.keys():
            raise ValueError(f"options lacks {', '.join(sorted(missing))}")
        return options

    def save(self, index: Path) -> None:
        """Writes the manifest of an index atomically."""
        header = {"format": FORMAT, "format_version": FORMAT_VERSION}
        text = json.dumps(header | self.model_dump(), indent=1, ensure_ascii=False)
        atomic_write_text(index / MANIFEST, text + "\n")


def load_manifest(index: Path) -> Manifest:
    """Returns the manifest of an index.

    Raises:
      OptionError: if the directory holds no index, or one that cannot be used.
    """
    if not index.is_dir():
        what = "is a file" if index.exists() else "does not exist"
        raise OptionError(
            f"an index must be a directory that bigbird index wrote; {index} {what}: check the "
            "path, or build it with bigbird index FOLDER --output INDEX"
        )
    if not (index / MANIFEST).exists():
        if holds_only_own_files(index) and any(index.iterdir()):
            raise OptionError(
                f"an index must be complete; the first build of {index} was interrupted: give the "
                "same bigbird index command again, which resumes it"
            )
        raise OptionError(
            f"an index must be a directory that bigbird index wrote; {index} has no {MANIFEST}: "
            "check the path, or build it with bigbird index FOLDER --output INDEX"
        )
    content = _parse(index)
    try:
        return Manifest(**content)
    except (pydantic.ValidationError, TypeError) as error:
        reason = "it lacks entries, or has others than it should"
        raise _damaged(index / MANIFEST, reason) from error


def _parse(index: Path) -> dict[str, Any]:
    """Returns the entries of a manifest of this version."""
    path = index / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not JSON") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise OptionError(
            f"an index must be a directory that bigbird index wrote; {path} belongs to another "
            "program: check the path"
        )
    version = content.pop("format_version", None)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise OptionError(
            f"the version of an index must be at most {FORMAT_VERSION}; {index} has {version}, "
            f"written by flax-bigbird {content.get('library_version')}: update flax-bigbird, or "
            "build the index again with --overwrite"
        )
    return content


def data_directory(index: Path, manifest: Manifest) -> Path:
    """Returns the directory with the data of an index.

    Raises:
      OptionError: if a file is missing or is not as it was written.
    """
    directory = index / manifest.data
    if damage := find_damage(directory):
        raise _damaged(index, damage)
    if not has_checksums(directory):
        raise _damaged(index, f"{directory / CHECKSUM_FILE} is missing")
    return directory


def _damaged(path: Path, reason: str) -> OptionError:
    return OptionError(
        f"an index must be as it was written; {path} is damaged ({reason}): build it again with "
        "bigbird index --overwrite"
    )


def holds_only_own_files(index: Path) -> bool:
    """Returns whether a directory holds nothing but what an index holds, complete or not."""
    return all(_is_own(path) for path in index.iterdir())


def new_data_name(index: Path) -> str:
    """Returns a name for a directory of data that no directory in the index has."""
    numbers = [path.name.removeprefix(DATA_PREFIX) for path in index.glob(f"{DATA_PREFIX}*")]
    last = max((int(number) for number in numbers if number.isdecimal()), default=0)
    return f"{DATA_PREFIX}{last + 1:06d}"


def remove_other_data(index: Path, data: str) -> None:
    """Removes the data that the manifest does not name, of former or of interrupted builds."""
    for path in index.iterdir():
        if path.is_dir() and path.name != data and _is_own(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_own(path: Path) -> bool:
    names = (MANIFEST, partial_file(path.with_name(MANIFEST)).name)
    return path.name in names or path.name.startswith(DATA_PREFIX)
