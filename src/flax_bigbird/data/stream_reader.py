"""One reader of a stream: its blocks of windows, and its part of the state of the stream."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from flax_bigbird.data.batching import Bucket
from flax_bigbird.data.corpus import Corpus, Position
from flax_bigbird.data.stream_blocks import (
    Block,
    BlockStart,
    Tokenization,
    in_thread,
    iterate_blocks,
)
from flax_bigbird.data.stream_schedule import Windows, divide_windows

State = dict[str, Any]


def start_state(index: int) -> State:
    """Returns the state of a reader that has read nothing."""
    return _encode_state(BlockStart(Position(index)), [])


class Reader:
    """Reads every n-th shard of a corpus, block after block.

    A block is opened, readers give some of its windows to each other, the windows are divided among
    batches, and the next block is opened. Meanwhile, a thread reads that one.
    """

    def __init__(
        self,
        corpus: Corpus,
        num_readers: int,
        state: State,
        tokenization: Tokenization,
        block_size: int,
    ):
        """Starts to read.

        Args:
          corpus: The documents.
          num_readers: The number of readers of the corpus.
          state: The state in front of the first block.
          tokenization: What makes windows of documents.
          block_size: The number of windows of a block.
        """
        start, self._waiting = _decode_state(state)
        groups = corpus.iterate_documents(start.position, num_readers)
        self._blocks = in_thread(
            iterate_blocks(groups, tokenization.encode_all, start, block_size), ahead=1
        )
        self._state = state
        self._windows: list[Windows] = []

    @property
    def state(self) -> State:
        """The state in front of the present block, as values that JSON holds."""
        return self._state

    def open_block(self, lengths: Sequence[int], order_seed: Sequence[int]) -> list[int]:
        """Opens the next block, and returns the number of windows by bucket.

        Args:
          lengths: The lengths of the buckets, in ascending order.
          order_seed: The seed of the order of its windows. Those that have waited come first.
        """
        block: Block = next(self._blocks)
        self._state = _encode_state(block.start, self._waiting)
        order = np.random.default_rng(order_seed).permutation(len(block.windows))
        windows = [*self._waiting, *(block.windows[i] for i in order)]
        indices = np.searchsorted(lengths, [len(window) for window in windows])
        self._windows = [[] for _ in lengths]
        for index, window in zip(indices, windows, strict=True):
            self._windows[index].append(window)
        return [len(bucket) for bucket in self._windows]

    def give(self, bucket: int, count: int) -> Windows:
        """Removes windows of a bucket, the last ones, and returns them."""
        windows = self._windows[bucket]
        given, windows[-count:] = windows[-count:], []
        return given

    def receive(self, bucket: int, windows: Windows) -> None:
        """Adds windows of another reader to those of a bucket."""
        self._windows[bucket] += windows

    def divide_block(self, num_batches: list[int], rows: list[int]) -> list[list[Windows]]:
        """Returns the windows of each batch; see `divide_windows`. The others wait."""
        batches, self._waiting = divide_windows(self._windows, num_batches, rows)
        self._windows = []
        return batches

    def close(self) -> None:
        """Ends the thread."""
        self._blocks.close()


def shared_buckets(buckets: Sequence[Bucket], num_readers: int) -> list[Bucket]:
    """Returns buckets in whose batches all readers have the same number of rows."""
    return [
        Bucket(bucket.length, bucket.indices, bucket.batch_size // num_readers * num_readers)
        for bucket in buckets
    ]


def max_readers(buckets: Sequence[Bucket], num_readers: int) -> int:
    """Returns the largest divisor of a number of readers that has a row in every batch."""
    rows = min(bucket.batch_size for bucket in buckets)
    return next(n for n in range(num_readers, 0, -1) if num_readers % n == 0 and n <= rows)


def _encode_state(start: BlockStart, waiting: Windows) -> State:
    ids = np.concatenate([np.zeros(0, np.int32), *waiting]).astype("<i4")
    return {
        "position": list(start.position),
        "skipped": start.skipped,
        "waiting": base64.b64encode(ids.tobytes()).decode(),
        "waiting_lengths": [len(window) for window in waiting],
    }


def _decode_state(state: State) -> tuple[BlockStart, Windows]:
    ids = np.frombuffer(base64.b64decode(state["waiting"]), "<i4")
    lengths = state["waiting_lengths"]
    waiting = np.split(ids, np.cumsum(lengths)[:-1]) if lengths else []
    return BlockStart(Position(*state["position"]), state["skipped"]), waiting
