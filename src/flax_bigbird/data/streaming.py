"""Opens corpora that are streamed: files, patterns, URLs, and datasets on the Hub."""

import glob
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax_bigbird.data import files
from flax_bigbird.data.corpus import READABLE, Corpus
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.remote_files import is_url
from flax_bigbird.data.unreachable import unreachable

BUILDERS = ("json", "csv", "parquet", "text")
"""The formats of files for which `datasets` has a builder, under the same name."""


def stream_files(
    paths: Sequence[str], text_column: str, seed: int, file_format: str | None = None
) -> Corpus:
    """Returns the corpus of files, each of which is at least one shard.

    Args:
      paths: Paths, directories of text files, patterns such as `corpus/*.jsonl.gz`, and URLs, in
        which patterns are allowed, too.
      text_column: The column of the documents.
      seed: The seed of the order of shards.
      file_format: The format of the files; by default, it follows from their names.

    Raises:
      DataError: if a file is missing, or of a format that is not streamed.
    """
    found = [file for path in paths for file in _expand(path, file_format)]
    formats = {file_format or files.format_of_name(Path(file)) for file in found}
    kind = formats.pop() if len(formats) == 1 else None
    if kind is None or kind not in BUILDERS:
        raise DataError(
            "files that are streamed must be of one kind among JSONL, CSV, Parquet and text; got "
            f"{', '.join(found[:3])}: convert them, name their format with file_format, or leave "
            "streaming out"
        )
    options = {"sample_by": "document"} if kind == "text" else {}
    sizes = [(file, 0 if is_url(file) else Path(file).stat().st_size) for file in found]
    dataset = _load(kind, found[0], data_files=found, split="train", **options)
    name = ", ".join(map(str, paths))
    return Corpus(dataset, text_column, name, _hash(sizes), seed, tuple(found))


def stream_dataset(
    name: str, configuration: str | None, split: str, text_column: str, seed: int
) -> Corpus:
    """Returns the corpus of a dataset on the Hub, or of a directory that `datasets` reads.

    Args:
      name: The dataset's id or directory.
      configuration: The dataset's configuration; None for the default.
      split: The name of the split.
      text_column: The column of the documents.
      seed: The seed of the order of shards.

    Raises:
      DataError: if `datasets` cannot load it.
    """
    dataset = _load(name, name, name=configuration, split=split)
    return Corpus(dataset, text_column, name, _hash((name, configuration, split)), seed)


def _load(path: str, shown: str, **options: Any) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(path, streaming=True, **options)
    except Exception as error:  # many libraries may raise here
        raise unreachable(shown, error, READABLE) from error


def _expand(path: str, file_format: str | None) -> list[str]:
    """Returns the files of a path or a local pattern; `datasets` expands patterns in URLs."""
    if is_url(path):
        return [path]
    local = str(Path(path).expanduser())
    if not Path(local).exists() and glob.has_magic(local):
        found = sorted(glob.glob(local, recursive=True))
        if not found:
            raise DataError(f"data files must exist; no file matches {path}: check the pattern")
        return [str(Path(file).absolute()) for file in found]
    return [str(file.absolute()) for file in files.expand_paths([local], file_format)[1]]


def _hash(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:32]
