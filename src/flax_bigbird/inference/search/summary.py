"""What an update of an index did: which files are in it, and which are not."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flax_bigbird.inference.search.documents import ContentFile
from flax_bigbird.inference.search.manifest import Manifest
from flax_bigbird.inference.search.scan import Skipped
from flax_bigbird.inference.search.store import IndexedFile, read_file_table, used_contents


class IndexSummary(NamedTuple):
    """What a call of `build_index` did.

    Attributes:
      num_files: The number of files in the index.
      num_added: How many of them are new.
      num_changed: How many of them have another content than before.
      num_removed: The number of files that are no longer there.
      num_chunks: The number of chunks in the index.
      num_others: The number of files of other formats in the folder.
      skipped: The files and directories that could not be read, and why.
      duplicates: Pairs of files with the same content, which is indexed once.
      empty: The files without any text.
    """

    num_files: int
    num_added: int
    num_changed: int
    num_removed: int
    num_chunks: int
    num_others: int
    skipped: list[Skipped]
    duplicates: list[tuple[str, str]]
    empty: list[str]


def summarize(
    index: Path,
    manifest: Manifest,
    old_files: Sequence[IndexedFile],
    files: Sequence[ContentFile],
    skipped: Sequence[Skipped],
    num_others: int,
) -> IndexSummary:
    """Returns what an update did.

    Args:
      index: The index.
      manifest: Its manifest.
      old_files: The files of the previous index.
      files: The files of the index.
      skipped: What could not be read.
      num_others: The number of files of other formats.
    """
    old = {file.path: file.content for file in old_files}
    now = {file.file.path: file.content for file in files}
    first: dict[str, str] = {}
    duplicates = []
    for path, content in now.items():
        if first.setdefault(content, path) != path:
            duplicates.append((path, first[content]))
    data = index / manifest.data
    ids = {file.content: file.content_id for file in read_file_table(data)}
    used = used_contents(data)
    return IndexSummary(
        num_files=len(files),
        num_added=len(now.keys() - old.keys()),
        num_changed=sum(old.get(path, content) != content for path, content in now.items()),
        num_removed=len(old.keys() - now.keys()),
        num_chunks=manifest.num_chunks,
        num_others=num_others,
        skipped=list(skipped),
        duplicates=duplicates,
        empty=[path for path, content in now.items() if ids[content] not in used],
    )
