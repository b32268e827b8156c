"""Batches of a stream of documents: tokenized by several processes, shuffled, and resumable.

Windows are shuffled in blocks: a block is filled, and its windows are given out in random order.
The state of the iterator is therefore small: where the stream was before the block, the few windows
that waited for their batch then, and how many batches of the block were given out. A resumed
iterator reads one block again, and continues with the same bits.
"""

import base64
import collections
import contextlib
import itertools
import multiprocessing
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from flax_bigbird.data.batching import PREFETCHED_BATCHES, BatchRows, Bucket, CollateFn, stack
from flax_bigbird.data.streaming import Corpus, Position

DOCUMENTS_PER_TASK = 32
"""How many documents a process tokenizes at once."""

State = dict[str, Any]
EncodeFn = Callable[[list[str]], list[np.ndarray]]
"""Returns the windows of texts, one after another. It is pickled if processes tokenize."""


class Block(NamedTuple):
    """Windows that are shuffled together.

    Attributes:
      start: The position of the stream before it.
      number: The number of blocks before it.
      windows: The token ids of its windows, in the order of the documents.
    """

    start: Position
    number: int
    windows: list[np.ndarray]


class StreamBatches:
    """An endless iterator of batches, which are made in a thread of its own.

    It has the `get_state` and `set_state` of grain's iterators.
    """

    def __init__(self, source: "BatchSource"):
        self._source = source
        self._state: State = source.start_state
        self._batches: Iterator[tuple[Any, State]] | None = None

    def __iter__(self) -> "StreamBatches":
        return self

    def __next__(self) -> Any:
        if self._batches is None:
            self._batches = in_thread(self._source.iterate_batches(self._state))
        batch, self._state = next(self._batches)
        return batch

    def get_state(self) -> State:
        """Returns the state after the last batch, as values that JSON holds."""
        return self._state

    def set_state(self, state: State) -> None:
        """Continues after the batch at which `get_state` returned a state."""
        self._state, self._batches = dict(state), None


class BatchSource:
    """Makes the batches of `StreamBatches` from any state on."""

    def __init__(
        self,
        corpus: Corpus,
        encode: EncodeFn,
        buckets: Sequence[Bucket],
        collate: CollateFn,
        seed: int,
        *,
        shuffle_buffer_size: int,
        num_workers: int = 0,
        batch_rows: Callable[[Bucket], BatchRows] = BatchRows.all_of_bucket,
    ):
        """Prepares the source; nothing is read yet.

        Args:
          corpus: The documents.
          encode: The function from texts to windows.
          buckets: The buckets, in ascending order of their lengths; their indices are not used.
          collate: The function that returns the arrays of an example.
          seed: The seed of the order and of the random generators of the examples.
          shuffle_buffer_size: The minimum number of windows of a block.
          num_workers: The number of processes that tokenize; with 0, a thread of this process does.
            The batches do not depend on it.
          batch_rows: See `flax_bigbird.data.batching.training_batches`.
        """
        self._corpus, self._encode, self._buckets = corpus, encode, list(buckets)
        self._collate, self._seed = collate, seed
        self._block_size, self._num_workers = shuffle_buffer_size, num_workers
        self._selections = [batch_rows(bucket) for bucket in buckets]

    @property
    def start_state(self) -> State:
        """The state before the first batch."""
        return self._new_state(Position(), 0, 0, 0, [])

    def _new_state(
        self, start: Position, block: int, num_batches: int, given: int, waiting: list[np.ndarray]
    ) -> State:
        """Returns a state.

        Args:
          start: The position of the stream before the block.
          block: The number of the block.
          num_batches: The number of batches before the block.
          given: The number of batches of the block that were given out.
          waiting: The windows that waited for their batch before the block.
        """
        ids = np.concatenate([np.zeros(0, np.int32), *waiting]).astype("<i4")
        return {
            "start": list(start),
            "block": block,
            "batches": num_batches,
            "given": given,
            "waiting": base64.b64encode(ids.tobytes()).decode(),
            "waiting_lengths": [len(window) for window in waiting],
        }

    def iterate_batches(self, state: State) -> Iterator[tuple[Any, State]]:
        """Yields batches, each with the state after it."""
        ids = np.frombuffer(base64.b64decode(state["waiting"]), "<i4")
        lengths = state["waiting_lengths"]
        waiting = np.split(ids, np.cumsum(lengths)[:-1]) if lengths else []
        skipped, num_batches = state["given"], state["batches"]
        blocks = self._iterate_blocks(Position(*state["start"]), state["block"])
        # The next block is read while this one is given out.
        for block in in_thread(blocks, ahead=1):
            template = self._new_state(block.start, block.number, num_batches, 0, waiting)
            pending: list[list[np.ndarray]] = [[] for _ in self._buckets]
            generator = np.random.default_rng([self._seed, 1, block.number])
            order = generator.permutation(len(block.windows))
            given = 0
            for window in itertools.chain(waiting, (block.windows[i] for i in order)):
                index = self._bucket_index(len(window))
                pending[index].append(window)
                if len(pending[index]) < self._buckets[index].batch_size:
                    continue
                windows, pending[index] = pending[index], []
                given += 1
                if given > skipped:
                    batch = self._batch(index, windows, num_batches + given)
                    yield batch, template | {"given": given}
            waiting = [window for windows in pending for window in windows]
            num_batches, skipped = num_batches + given, 0

    def _bucket_index(self, length: int) -> int:
        return next(i for i, bucket in enumerate(self._buckets) if bucket.length >= length)

    def _batch(self, index: int, windows: list[np.ndarray], number: int) -> Any:
        """Returns a batch, of which only the rows are collated that this process needs."""
        (rows, finish), length = self._selections[index], self._buckets[index].length
        arrays = stack(
            [
                self._collate(
                    {"input_ids": windows[row], "length": len(windows[row])},
                    length,
                    np.random.default_rng([self._seed, 2, number, row]),
                )
                for row in map(int, rows)
            ]
        )
        return finish(arrays)

    def _iterate_blocks(self, position: Position, number: int) -> Iterator[Block]:
        """Yields blocks from a position on. Each of them ends with a document."""
        start, windows = position, []
        for encoded, stop in self._iterate_windows(position):
            windows += encoded
            if len(windows) >= self._block_size:
                yield Block(start, number, windows)
                start, windows, number = stop, [], number + 1

    def _iterate_windows(self, start: Position) -> Iterator[tuple[list[np.ndarray], Position]]:
        """Yields the windows of groups of documents, each with the position after them."""
        documents = self._corpus.iterate_documents(start)
        groups = iter(lambda: list(itertools.islice(documents, DOCUMENTS_PER_TASK)), [])
        if not self._num_workers:
            for group in groups:
                yield self._encode([text for text, _ in group]), group[-1][1]
            return
        context = multiprocessing.get_context("spawn")
        running: collections.deque[tuple[Any, Position]] = collections.deque()
        pool = ProcessPoolExecutor(self._num_workers, context, _start_worker, (self._encode,))
        try:
            for group in groups:
                texts = [text for text, _ in group]
                running.append((pool.submit(_encode_in_worker, texts), group[-1][1]))
                if len(running) > 2 * self._num_workers:
                    future, position = running.popleft()
                    yield future.result(), position
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_worker_encode: EncodeFn | None = None


def _start_worker(encode: EncodeFn) -> None:
    global _worker_encode
    _worker_encode = encode


def _encode_in_worker(texts: list[str]) -> list[np.ndarray]:
    assert _worker_encode is not None
    return _worker_encode(texts)


def in_thread(iterator: Iterator[Any], ahead: int = PREFETCHED_BATCHES) -> Iterator[Any]:
    """Yields the items of an iterator that runs ahead in a thread, until this one is closed.

    Args:
      iterator: The iterator, which must not refer to the one that is returned.
      ahead: How many items are ready, at most.
    """
    items: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                items.put((kind, value), timeout=0.1)
                return

    def run() -> None:
        try:
            with contextlib.closing(iterator):  # type: ignore[type-var]
                for item in iterator:
                    put("item", item)
                    if stopped.is_set():
                        return
        except BaseException as error:  # it is raised where the items are taken
            put("error", error)
        else:
            put("end", None)

    threading.Thread(target=run, daemon=True).start()
    try:
        while (taken := items.get())[0] == "item":
            yield taken[1]
        if taken[0] == "error":
            raise taken[1]
    finally:
        stopped.set()
