"""Reads a stream of documents as blocks of windows, which processes tokenize and a thread holds.

A block has a fixed number of windows, so that readers of different documents get as many windows as
each other. It therefore starts and ends inside of documents.
"""

import collections
import contextlib
import multiprocessing
import pickle
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from flax_bigbird._transformers import quiet
from flax_bigbird.data.batching import PREFETCHED_BATCHES
from flax_bigbird.data.corpus import Position

EncodeFn = Callable[[list[str]], list[np.ndarray]]
"""Returns the windows of texts, one after another. It is pickled if processes tokenize."""

Groups = Iterator[tuple[list[str], Position]]
"""Groups of documents, each with the position after it."""


class BlockStart(NamedTuple):
    """Where a block starts.

    Attributes:
      position: The position in front of the group of documents with its first window.
      skipped: How many windows of that group belong to earlier blocks.
    """

    position: Position
    skipped: int = 0


class Block(NamedTuple):
    """Windows that are shuffled together.

    Attributes:
      start: Where it starts.
      windows: The token ids of its windows, in the order of the documents.
    """

    start: BlockStart
    windows: list[np.ndarray]


def iterate_blocks(
    groups: Groups,
    encode_all: Callable[[Groups], Iterator[tuple[list[np.ndarray], Position]]],
    start: BlockStart,
    size: int,
) -> Iterator[Block]:
    """Yields blocks of `size` windows each.

    Args:
      groups: The documents from `start.position` on.
      encode_all: The function that tokenizes them, such as `Tokenization.encode_all`.
      start: Where the first block starts.
      size: The number of windows of a block.
    """
    position, skipped = start
    windows: list[np.ndarray] = []
    for encoded, stop in encode_all(groups):
        while skipped < len(encoded):
            taken = encoded[skipped : skipped + size - len(windows)]
            windows += taken
            skipped += len(taken)
            if len(windows) == size:
                yield Block(start, windows)
                start, windows = BlockStart(position, skipped), []
        position, skipped = stop, 0


class Tokenization:
    """Tokenizes groups of documents in a pool of processes, or in the thread that asks for them.

    It is a context manager; the processes end with it.
    """

    def __init__(self, encode: EncodeFn, num_workers: int):
        self._encode, self._num_workers = encode, num_workers
        self._pool: ProcessPoolExecutor | None = None
        if num_workers:
            context = multiprocessing.get_context("spawn")
            arguments = (pickle.dumps(encode),)
            self._pool = ProcessPoolExecutor(num_workers, context, _start_worker, arguments)

    def __enter__(self) -> "Tokenization":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def encode_all(self, groups: Groups) -> Iterator[tuple[list[np.ndarray], Position]]:
        """Yields the windows of groups of documents, each with the position after them."""
        if self._pool is None:
            for texts, position in groups:
                yield self._encode(texts), position
            return
        running: collections.deque[tuple[Any, Position]] = collections.deque()
        for texts, position in groups:
            running.append((self._pool.submit(_encode_in_worker, texts), position))
            if len(running) > 2 * self._num_workers:
                future, stop = running.popleft()
                yield future.result(), stop


_worker_encode: EncodeFn | None = None


def _start_worker(encode: bytes) -> None:
    """Loads the function, whose tokenizer imports transformers, which logs advice."""
    global _worker_encode
    with quiet():
        _worker_encode = pickle.loads(encode)


def _encode_in_worker(texts: list[str]) -> list[np.ndarray]:
    assert _worker_encode is not None
    return _worker_encode(texts)


def in_thread(
    iterator: Iterator[Any], ahead: int = PREFETCHED_BATCHES
) -> Generator[Any, None, None]:
    """Yields the items of an iterator that runs ahead in a thread, until this one is closed.

    Args:
      iterator: The iterator, which must not refer to the one that is returned.
      ahead: How many items are made before they are asked for, at most.
    """
    items: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    permits = threading.Semaphore(ahead)
    stopped = threading.Event()

    def run() -> None:
        try:
            with contextlib.closing(iterator):  # type: ignore[type-var]
                while permits.acquire() and not stopped.is_set():
                    items.put(("item", next(iterator)))
        except StopIteration:
            items.put(("end", None))
        except BaseException as error:  # it is raised where the items are taken
            items.put(("error", error))

    threading.Thread(target=run, daemon=True).start()
    try:
        while (taken := items.get())[0] == "item":
            permits.release()
            yield taken[1]
        if taken[0] == "error":
            raise taken[1]
    finally:
        stopped.set()
        permits.release()
