"""The vectors of an index: a graph of nearest neighbors (HNSW) of `usearch`, in float32."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird.data.errors import OptionError
from flax_bigbird.inference.search.manifest import METRICS

VECTOR_FILE = "vectors.usearch"
BATCH_SIZE = 4096  # vectors
# Removed vectors stay in the graph until others take their places. From this fraction of the rest
# on, a new graph is built.
MAX_REMOVED_FRACTION = 0.25


def new_vectors(dimension: int, metric: str) -> Any:
    """Returns an empty `usearch.index.Index`.

    Args:
      dimension: The number of dimensions of a vector.
      metric: A key of `METRICS`.
    """
    from usearch.index import Index

    return Index(ndim=dimension, metric=METRICS[metric], dtype="f32")


def open_vectors(directory: Path, dimension: int, *, view: bool) -> Any:
    """Opens the vectors of an index.

    Args:
      directory: The directory with the data of the index.
      dimension: The number of dimensions of a vector.
      view: Whether to map the file to memory, for search alone.

    Raises:
      OptionError: if the file cannot be read.
    """
    from usearch.index import Index

    path = directory / VECTOR_FILE
    try:
        vectors = Index.restore(path, view=view)
    except (ValueError, RuntimeError, OSError) as error:
        raise _unreadable(path, str(error)) from error
    if vectors is None or vectors.ndim != dimension:
        raise _unreadable(path, "it has vectors of another size")
    return vectors


def _unreadable(path: Path, reason: str) -> OptionError:
    return OptionError(
        f"the vectors of an index must be as they were written; {path} is not ({reason}): build "
        "the index again with bigbird index --overwrite"
    )


def update_vectors(
    previous: Path | None,
    target: Path,
    dimension: int,
    metric: str,
    removed: np.ndarray,
    added: Iterator[tuple[np.ndarray, np.ndarray]],
) -> None:
    """Writes the vectors of an index, which differ from previous ones in some keys.

    Args:
      previous: The directory with the data of the previous index; None for a new one.
      target: The directory to write to.
      dimension: The number of dimensions of a vector.
      metric: A key of `METRICS`.
      removed: The keys of the vectors to remove, `[R]`.
      added: Pairs of new keys `[N]` and their vectors `[N, D]`.

    Raises:
      OptionError: if the previous file cannot be read.
      OSError: if the new one cannot be written.
    """
    from usearch.index import Index

    if previous is None:
        vectors = new_vectors(dimension, metric)
        num_removed = 0
    else:
        vectors = open_vectors(previous, dimension, view=False)
        metadata: Any = Index.metadata(str(previous / VECTOR_FILE))
        num_removed = metadata["count_deleted"] + len(removed)
        if len(removed):
            vectors.remove(removed.astype(np.uint64))
    for keys, values in added:
        vectors.add(keys.astype(np.uint64), np.ascontiguousarray(values))
        num_removed -= len(keys)
    if num_removed > MAX_REMOVED_FRACTION * len(vectors):
        vectors = _rebuilt(vectors, dimension, metric)
    path = target / VECTOR_FILE
    try:
        vectors.save(str(path))
    except RuntimeError as error:  # usearch does not say which error the system reported
        reason = f"the vectors could not be written ({error}), as if the disk were full"
        raise OSError(errno.EIO, reason, str(path)) from error


def _rebuilt(vectors: Any, dimension: int, metric: str) -> Any:
    """Returns a new graph with the same keys and vectors."""
    keys = np.sort(np.array(vectors.keys[: len(vectors)], np.uint64))
    rebuilt = new_vectors(dimension, metric)
    for start in range(0, len(keys), BATCH_SIZE):
        part = keys[start : start + BATCH_SIZE]
        rebuilt.add(part, np.asarray(vectors.get(part), np.float32))
    return rebuilt


def search_vectors(
    vectors: Any, query: np.ndarray, top_k: int, metric: str, *, exact: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the vectors that are most similar to a query, best first.

    Args:
      vectors: The vectors.
      query: `[D]`.
      top_k: The maximum number of vectors.
      metric: A key of `METRICS`.
      exact: Whether to compare the query with every vector instead of those that the graph leads
        to.

    Returns:
      The keys, and the similarities: cosines, products, or negated distances.
    """
    if not top_k:  # an index without chunks
        return np.zeros(0, np.int64), np.zeros(0, np.float64)
    matches = vectors.search(np.asarray(query, np.float32), top_k, exact=exact)
    keys, distances = matches.keys.astype(np.int64), np.asarray(matches.distances, np.float64)
    if metric == "euclidean":  # usearch returns squares
        return keys, -np.sqrt(np.maximum(distances, 0.0))
    return keys, 1.0 - distances
