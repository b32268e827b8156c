"""Batches of a stream of documents, which several processes read together, shuffled and resumable.

Every reader, usually a process, has its own documents and gives the same number of rows to each
batch. Windows are shuffled in blocks: each reader reads a block, all of them agree on the batches
of these blocks and give each other the windows that they lack (see
`flax_bigbird.data.stream_schedule`), and the batches are given out in random order. The processes
communicate once per block only, and all of them see the same batches.

The state of the iterator is small: for each reader, where its block starts and the few windows that
waited for their batch then, and how many batches of the blocks were given out. A resumed iterator
reads one block again, and continues with the same bits. It has as many readers as the first one,
whatever the number of processes: a process reads what the readers of its rows read.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from flax_bigbird.data.batching import BatchRows, Bucket, CollateFn, SelectRows, stack
from flax_bigbird.data.corpus import Corpus
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.stream_blocks import EncodeFn, Tokenization, in_thread
from flax_bigbird.data.stream_exchange import ExchangeFn, exchange_windows
from flax_bigbird.data.stream_reader import (
    Reader,
    State,
    max_readers,
    shared_buckets,
    start_state,
)
from flax_bigbird.data.stream_schedule import Windows, count_batches, plan_moves


class StreamBatches:
    """An endless iterator of batches, which are made in a thread of its own.

    It has the `get_state` and `set_state` of grain's iterators. With several processes, each of
    them calls all methods in the same order.
    """

    def __init__(self, source: "BatchSource"):
        self._source = source
        self._state: State | None = None
        self._batches: Iterator[tuple[Any, State]] | None = None

    def __iter__(self) -> "StreamBatches":
        return self

    def __next__(self) -> Any:
        if self._batches is None:
            self._batches = self._source.iterate_batches(self._state or self._source.start_state())
        batch, self._state = next(self._batches)
        return batch

    def get_state(self) -> State:
        """Returns the state after the last batch, as values that JSON holds."""
        if self._state is None:
            return self._source.start_state()
        return self._source.complete_state(self._state)

    def set_state(self, state: State) -> None:
        """Continues after the batch at which `get_state` returned a state.

        Raises:
          DataError: if the state is that of an earlier version.
        """
        if "readers" not in state:
            raise DataError(
                "a run with streaming resumes with the version that it was started with; got one "
                "of an earlier version: start again with overwrite_output_dir"
            )
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
        num_readers: int = 1,
        batch_rows: SelectRows = BatchRows.all_of_bucket,
        exchange: ExchangeFn = lambda function: [function()],
    ):
        """Prepares the source; nothing is read yet.

        Args:
          corpus: The documents.
          encode: The function from texts to windows.
          buckets: The buckets, in ascending order of their lengths; their indices are not used.
            Their batches are made smaller if the readers do not divide them.
          collate: The function that returns the arrays of an example.
          seed: The seed of the order and of the random generators of the examples.
          shuffle_buffer_size: The number of windows of a block. A block has more if these might not
            fill a batch.
          num_workers: The number of processes that tokenize; with 0, a thread of this process does.
            The batches do not depend on it.
          num_readers: The number of processes that need different rows. Fewer read if batches have
            fewer rows.
          batch_rows: See `flax_bigbird.data.batching.training_batches`. Row r of a batch is one of
            the reader r modulo `num_readers`.
          exchange: The function by which the processes agree, such as
            `flax_bigbird.parallel.processes.gather_from_all`.
        """
        self._encode, self._buckets = encode, list(buckets)
        self._collate, self._seed = collate, seed
        self._block_size, self._num_workers = shuffle_buffer_size, num_workers
        self._num_readers = max_readers(buckets, num_readers)
        self._corpus = corpus
        self._batch_rows, self._exchange = batch_rows, exchange

    def start_state(self) -> State:
        """Returns the state before the first batch, for which few shards are divided."""
        corpus = self._corpus.divided(self._num_readers)
        return {
            "shards": corpus.dataset.num_shards,
            "parts": corpus.num_parts,
            "block": 0,
            "batches": 0,
            "given": 0,
            "readers": [start_state(index) for index in range(self._num_readers)],
        }

    def complete_state(self, state: State) -> State:
        """Returns a state with what the readers of other processes add to it."""
        parts = zip(*self._exchange(lambda: state["readers"]), strict=True)
        return state | {"readers": [next(filter(None, part)) for part in parts]}

    def iterate_batches(self, state: State) -> Iterator[tuple[Any, State]]:
        """Yields batches, each with the state after it, as far as this process knows it."""
        rows = ReaderRows(self._buckets, len(state["readers"]), self._batch_rows)
        number, num_batches, given = state["block"], state["batches"], state["given"]
        with self._open_readers(state, rows) as readers:
            while True:
                block = self._agree_on_block(readers, rows, number)
                states = [readers[i].state if i in readers else None for i in range(rows.count)]
                progress = {"block": number, "batches": num_batches, "readers": states}
                batches = self._iterate_block(block, rows, num_batches, given)
                with contextlib.closing(in_thread(batches)) as collated:
                    for batch in collated:
                        given += 1
                        yield batch, state | progress | {"given": given}
                number, num_batches, given = number + 1, num_batches + len(block.order), 0

    @contextlib.contextmanager
    def _open_readers(self, state: State, rows: "ReaderRows") -> Iterator[dict[int, Reader]]:
        """Yields the readers whose rows this process needs, by their index."""
        corpus = self._corpus.divided_as(state["shards"], state["parts"])
        block_size = max(self._block_size, sum(rows.per_batch))
        with contextlib.ExitStack() as stack:
            tokenization = stack.enter_context(Tokenization(self._encode, self._num_workers))
            readers = {
                index: Reader(corpus, rows.count, state["readers"][index], tokenization, block_size)
                for index in rows.own_readers
            }
            for reader in readers.values():
                stack.callback(reader.close)
            yield readers

    def _agree_on_block(
        self, readers: dict[int, Reader], rows: "ReaderRows", number: int
    ) -> "BatchesOfBlock":
        """Opens the next block of each reader, and divides all of them into batches."""
        lengths = [bucket.length for bucket in rows.buckets]

        def open_blocks() -> dict[int, list[int]]:
            return {
                index: reader.open_block(lengths, (self._seed, 1, number, index))
                for index, reader in readers.items()
            }

        counts: dict[int, list[int]] = {}
        for some in self._exchange(open_blocks):
            counts |= some
        by_reader = [counts[index] for index in range(rows.count)]
        num_batches = count_batches(by_reader, rows.per_batch)
        moves = plan_moves(by_reader, num_batches, rows.per_batch)
        exchange_windows(readers, rows.count, moves, lengths, self._exchange)
        windows = {
            index: reader.divide_block(num_batches, rows.per_batch)
            for index, reader in readers.items()
        }
        batches = [(bucket, i) for bucket, n in enumerate(num_batches) for i in range(n)]
        order = np.random.default_rng((self._seed, 3, number)).permutation(len(batches))
        return BatchesOfBlock([batches[i] for i in order], windows)

    def _iterate_block(
        self, block: "BatchesOfBlock", rows: "ReaderRows", num_batches: int, given: int
    ) -> Iterator[Any]:
        """Yields the batches of a block after those that were given out."""
        for number in range(given, len(block.order)):
            bucket, index = block.order[number]
            selected, finish = rows.selections[bucket]
            length = rows.buckets[bucket].length
            examples = []
            for row in map(int, selected):
                windows = block.windows[row % rows.count][bucket][index]
                window = windows[row // rows.count]
                generator = np.random.default_rng((self._seed, 2, num_batches + number, row))
                example = {"input_ids": window, "length": len(window)}
                examples.append(self._collate(example, length, generator))
            yield finish(stack(examples))


class ReaderRows:
    """Which rows of a batch the readers give, and which of them this process needs.

    Attributes:
      count: The number of readers.
      buckets: The buckets, in whose batches each reader has the same number of rows.
      per_batch: That number, for each bucket.
      selections: The rows that this process needs, for each bucket.
      own_readers: The readers of these rows.
    """

    def __init__(self, buckets: Sequence[Bucket], count: int, batch_rows: SelectRows):
        self.count = count
        self.buckets = shared_buckets(buckets, count)
        self.per_batch = [bucket.batch_size // count for bucket in self.buckets]
        self.selections = [batch_rows(bucket, count) for bucket in self.buckets]
        rows = np.concatenate([selection.rows for selection in self.selections])
        self.own_readers = sorted({int(row) % count for row in rows})


class BatchesOfBlock(NamedTuple):
    """The batches of a block.

    Attributes:
      order: The bucket of each batch, and its index among those of the bucket, in the order in
        which they are given out.
      windows: The windows of each reader of this process, by bucket and index.
    """

    order: list[tuple[int, int]]
    windows: dict[int, list[list[Windows]]]
