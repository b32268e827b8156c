"""Encodes rows in several threads, ahead of the devices that wait for them."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

from flax_bigbird.attention.platform import current_platform

Encoded = TypeVar("Encoded")

MAX_THREADS = 16
ROWS_AHEAD = 2  # of each thread
NUM_FIRST_ROWS = 4  # encoded without threads, which do not pay for a few rows


def num_encoding_threads() -> int:
    """Returns the number of threads that keep the devices busy.

    A fast accelerator reads several times as many tokens per second as one thread can tokenize. On
    a CPU, the model needs all cores for much longer than its tokenizer.
    """
    if current_platform() == "cpu":
        return 1
    return min(MAX_THREADS, os.cpu_count() or 1)


def encode_in_order(
    encode: Callable[[Any], Encoded], rows: Iterable[Any], num_threads: int
) -> Generator[tuple[Any, Encoded], None, None]:
    """Yields rows with what `encode` returns for them, in their order.

    Tokenizers work outside of Python's lock, so that threads encode several rows at a time. With a
    single thread, a row is read when it is asked for; otherwise, some rows are read ahead.

    Args:
      encode: A function of a row, which several threads may call at once.
      rows: The rows.
      num_threads: The number of threads.

    Raises:
      Exception: what `encode` or the iterator of the rows raises, after the rows before.
    """
    remaining = iter(rows)
    for count, row in enumerate(remaining, 1):
        yield row, encode(row)
        if count == NUM_FIRST_ROWS and num_threads > 1:
            break
    else:
        return
    pool = concurrent.futures.ThreadPoolExecutor(num_threads, "encoder")
    waiting: collections.deque[tuple[Any, concurrent.futures.Future[Encoded]]] = collections.deque()
    try:
        while True:
            while len(waiting) < ROWS_AHEAD * num_threads:
                row, future = _submit(pool, encode, remaining)
                if future is None:
                    break
                waiting.append((row, future))
            if not waiting:
                return
            row, future = waiting.popleft()
            yield row, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(
    pool: concurrent.futures.Executor, encode: Callable[[Any], Encoded], rows: Iterator[Any]
) -> tuple[Any, concurrent.futures.Future[Encoded] | None]:
    """Returns the next row with its future, which fails if reading does; None at the end."""
    try:
        row = next(rows)
    except StopIteration:
        return None, None
    except Exception as error:
        failed: concurrent.futures.Future[Encoded] = concurrent.futures.Future()
        failed.set_exception(error)
        return None, failed
    return row, pool.submit(encode, row)
