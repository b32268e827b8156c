"""Writes the data of an index from those of the previous one and from the new documents."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flax_bigbird.checkpoint import atomic_directory, write_checksums
from flax_bigbird.inference.search.documents import ContentFile, NewDocuments
from flax_bigbird.inference.search.lexical import BM25_DIRECTORY, WordIndex
from flax_bigbird.inference.search.manifest import Manifest
from flax_bigbird.inference.search.store import (
    CHUNK_FILE,
    KEY_FILE,
    Chunk,
    ChunkStore,
    ChunkWriter,
    IndexedFile,
    write_file_table,
)
from flax_bigbird.inference.search.vectors import BATCH_SIZE, VECTOR_FILE, update_vectors


class _Run(NamedTuple):
    """Neighboring chunks that are new.

    Attributes:
      key: The key of the first chunk.
      vector: The index of its vector.
      num_chunks: The number of chunks.
    """

    key: int
    vector: int
    num_chunks: int


def write_data(
    index: Path,
    manifest: Manifest,
    previous: Path | None,
    previous_files: Sequence[IndexedFile],
    files: Sequence[ContentFile],
    new: NewDocuments,
) -> Manifest:
    """Writes the data of an index to a new directory in it.

    Args:
      index: The index.
      manifest: What is known about the index; `next_key` is that of the previous one.
      previous: The directory with the data of the previous index; None for a new one.
      previous_files: The files of the previous index.
      files: The files of the index.
      new: The documents whose contents the previous index does not have.

    Returns:
      The complete manifest.
    """
    old_ids = {file.content: file.content_id for file in previous_files}
    contents = sorted({file.content for file in files})
    new_contents = [content for content in contents if content not in old_ids]
    first_id = max(old_ids.values(), default=-1) + 1
    new_ids = {content: first_id + number for number, content in enumerate(new_contents)}
    ids = {content: old_ids[content] for content in contents if content in old_ids} | new_ids
    with atomic_directory(index / manifest.data) as target:
        if previous is not None and ids == old_ids:
            for name in (CHUNK_FILE, KEY_FILE, VECTOR_FILE):
                _link(previous / name, target / name)
            if manifest.has_words and (previous / BM25_DIRECTORY).exists():
                directories = (previous / BM25_DIRECTORY, target / BM25_DIRECTORY)
                shutil.copytree(*directories, copy_function=_link)
            changes = {}
        else:
            changes = _write_chunks(target, manifest, previous, ids, new_ids, new)
        if manifest.has_words and not (target / BM25_DIRECTORY).exists():
            store = ChunkStore(target)
            WordIndex.write(target, store.texts())
            store.close()
        table = [IndexedFile(f.path, f.size, f.mtime_ns, c, ids[c]) for f, c in files]
        write_file_table(target, table)
        write_checksums(target)
    return manifest.model_copy(update={"num_files": len(files)} | changes)


def _link(source: str | Path, target: str | Path) -> None:
    """Gives a file, which never changes, a second name, or copies it where that is impossible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write_chunks(
    target: Path,
    manifest: Manifest,
    previous: Path | None,
    ids: dict[str, int],
    new_ids: dict[str, int],
    new: NewDocuments,
) -> dict[str, int]:
    """Writes the chunks and their vectors.

    Args:
      target: The directory to write to.
      manifest: What is known about the index.
      previous: The directory with the data of the previous index; None for a new one.
      ids: The ids of all contents.
      new_ids: The ids of the contents that the previous index does not have.
      new: The new documents.

    Returns:
      The entries of the manifest that change.
    """
    with ChunkWriter(target) as writer:
        kept = np.array(sorted(ids.values()), np.int64)
        removed = _copy_chunks(previous, kept, writer) if previous else np.zeros(0, np.int64)
        runs = _add_chunks(new, new_ids, manifest.next_key, writer)
    added = _added_vectors(runs, new.vectors(manifest.dimension))
    update_vectors(previous, target, manifest.dimension, manifest.metric, removed, added)
    next_key = runs[-1].key + runs[-1].num_chunks if runs else manifest.next_key
    return {"num_chunks": writer.num_chunks, "next_key": next_key}


def _copy_chunks(previous: Path, kept_ids: np.ndarray, writer: ChunkWriter) -> np.ndarray:
    """Copies the chunks whose contents are kept, and returns the keys of the others."""
    removed = []
    store = ChunkStore(previous)
    for table in store.tables():
        is_kept = np.isin(table["content_id"].to_numpy(), kept_ids)
        removed.append(table["key"].to_numpy()[~is_kept])
        if is_kept.any():
            writer.append_table(table if is_kept.all() else table.filter(is_kept))
    store.close()
    return np.concatenate([*removed, np.zeros(0, np.int64)])


def _add_chunks(
    new: NewDocuments, ids: dict[str, int], key: int, writer: ChunkWriter
) -> list[_Run]:
    """Writes the chunks of the new contents, and returns where their vectors are."""
    runs: list[_Run] = []
    for document, first_vector in new.documents():
        content = document["content"]
        if content not in new.complete or content not in ids:
            continue
        spans, texts = document["spans"], document["texts"]
        if spans:
            runs.append(_Run(key, first_vector, len(spans)))
        for (start, end, line), text in zip(spans, texts, strict=True):
            writer.append(Chunk(key, ids[content], document["row"], start, end, line, text))
            key += 1
    return runs


def _added_vectors(
    runs: Sequence[_Run], vectors: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches of the keys and the vectors of new chunks."""
    keys: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    count = 0
    for run in runs:
        keys.append(np.arange(run.key, run.key + run.num_chunks))
        rows.append(vectors[run.vector : run.vector + run.num_chunks])
        count += run.num_chunks
        if count >= BATCH_SIZE:
            yield np.concatenate(keys), np.concatenate(rows)
            keys, rows, count = [], [], 0
    if count:
        yield np.concatenate(keys), np.concatenate(rows)
