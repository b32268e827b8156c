"""Reads files as slices of consecutive rows, each of which a worker answers at once."""

import bisect
import dataclasses
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from flax_bigbird.data import files as data_files
from flax_bigbird.data.readers.rows import FileRow
from flax_bigbird.data.remote_files import is_url, local_copy, parquet_num_rows
from flax_bigbird.inference.ray.cluster import CPUS_FOR_TASKS, OWN_ERRORS

MAX_ROWS_PER_SLICE = 1024
MAX_CHARACTERS_PER_SLICE = 2**23
"""About two million tokens, so that a worker is not busy with one slice for long."""

SLICES_PER_WORKER = 4
MIN_ROWS_PER_SLICE = 256
"""Workers are done at about the same time if each has several slices. But the last batches of a
slice are not full, which costs a fifth of the time with 64 rows."""

MAX_BYTES_COUNTED_HERE = 2**24
"""How large files may be whose rows this process counts before the cluster is started."""

MAX_READ_TASKS = 512
TASK_CPUS = CPUS_FOR_TASKS / 2

Range = tuple[int, int]
"""The indices `[first, stop)` of rows among those of all files."""


@dataclasses.dataclass(frozen=True)
class Input:
    """The files of a job, and how they are read.

    Attributes:
      sources: The paths and URLs of the files.
      kind: Their format.
      columns: The columns that are needed; None needs all.
      separator: The character between the fields of CSV files.
    """

    sources: Sequence[str]
    kind: str
    columns: frozenset[str] | None
    separator: str | None

    def iterate_rows(self, source: str) -> Iterator[FileRow]:
        """Yields the rows of one file, whose origins are as users named the file."""
        with local_copy(source) as path:
            yield from self.iterate_rows_of_copy(source, path)

    def iterate_rows_of_copy(self, source: str, path: Path) -> Iterator[FileRow]:
        """Yields the rows of one file whose local copy (see `local_copy`) is at `path`."""
        for row in data_files.iterate_rows(
            [path], self.kind, columns=self.columns, separator=self.separator, missing=""
        ):
            yield FileRow(row, row.origin.replace(str(path), source, 1))

    def count_rows(self, source: str) -> int:
        """Returns the number of rows of one file.

        Raises:
          DataError: if a row cannot be read. Of Parquet files, the schema alone is read.
        """
        if self.kind != "parquet":
            return sum(1 for _ in self.iterate_rows(source))
        return parquet_num_rows(source)


def count_few_rows(inputs: Input) -> list[int] | None:
    """Returns the number of rows of each file, if few data on this machine hold them; or else None.

    Broken rows are then reported before a cluster is started.

    Raises:
      DataError: if a row cannot be read.
    """
    if any(map(is_url, inputs.sources)):
        return None
    if sum(Path(source).stat().st_size for source in inputs.sources) > MAX_BYTES_COUNTED_HERE:
        return None
    return [inputs.count_rows(source) for source in inputs.sources]


def count_all_rows(inputs: Input) -> list[int]:
    """Returns the number of rows of each file, which the tasks of the cluster read.

    Raises:
      DataError: if a row cannot be read.
    """
    count = ray.remote(num_cpus=TASK_CPUS)(_count_rows)
    counts: list[int] = []
    for result in ray.get([count.remote(inputs, source) for source in inputs.sources]):
        if isinstance(result, Exception):
            raise result
        counts.append(result)
    return counts


def _count_rows(inputs: Input, source: str) -> int | Exception:
    """Returns the number of rows of a file, or the error if one cannot be read."""
    try:
        return inputs.count_rows(source)
    except OWN_ERRORS as error:
        return error


def slices_dataset(
    inputs: Input, counts: Sequence[int], done: Sequence[Range], num_workers: int
) -> "ray.data.Dataset":
    """Returns a dataset of slices, one in each block.

    A slice has the columns `first`, the index of its first row, and `rows`, pickled: Arrow has no
    type for what different rows of a JSON file may hold in one column. If a file cannot be read any
    more, there is an exception in the place of rows.

    Args:
      inputs: The files.
      counts: The number of rows of each file.
      done: The ranges of rows that are answered already, sorted.
      num_workers: The number of workers that the slices are divided among.
    """
    remaining = sum(counts) - rows_of(done)
    max_rows = rows_per_slice(remaining, num_workers)
    first = 0
    items = []
    for source, count in zip(inputs.sources, counts, strict=True):
        if _gaps(done, first, first + count):
            items.append({"source": source, "first": first, "count": count})
        first += count
    blocks = max(1, min(len(items), MAX_READ_TASKS))
    dataset = ray.data.from_items(items, override_num_blocks=blocks)
    # Ray joins rows to blocks of this many bytes, and a worker is busy with a whole block.
    dataset.context.target_max_block_size = 1
    return dataset.map_batches(
        _read_slices,  # type: ignore[arg-type]
        batch_size=1,
        num_cpus=TASK_CPUS,
        fn_kwargs={"inputs": inputs, "done": list(done), "max_rows": max_rows},
    )


def rows_per_slice(num_rows: int, num_workers: int) -> int:
    """Returns the largest number of rows in a slice, if `num_rows` are divided among workers."""
    wanted = max(MIN_ROWS_PER_SLICE, -(-num_rows // (num_workers * SLICES_PER_WORKER)))
    num_slices = -(-num_rows // min(wanted, MAX_ROWS_PER_SLICE))
    num_slices = max(1, -(-num_slices // num_workers) * num_workers)
    return max(1, -(-num_rows // num_slices))


def _read_slices(
    batch: dict[str, Any], *, inputs: Input, done: list[Range], max_rows: int
) -> Iterator[dict[str, list[Any]]]:
    """Yields the slices of a file that are not done, one at a time, and an error as the last."""
    (source,), (first,), (count,) = batch["source"], batch["first"], batch["count"]
    try:
        yield from _slices(inputs, str(source), int(first), int(count), done, max_rows)
    except OWN_ERRORS as error:
        yield {"first": [int(first)], "rows": [pickle.dumps(error)]}


def _slices(
    inputs: Input, source: str, first: int, count: int, done: list[Range], max_rows: int
) -> Iterator[dict[str, list[Any]]]:
    """Yields the slices of a file; see `_read_slices`."""
    gaps = _gaps(done, first, first + count)
    waiting: list[FileRow] = []
    num_characters = 0
    start = stop = -1
    for index, row in enumerate(inputs.iterate_rows(source), first):
        if not gaps:
            break
        if index < gaps[0][0]:
            continue
        start = start if waiting else index
        waiting.append(row)
        num_characters += sum(len(value) for value in row.values() if isinstance(value, str))
        stop = index + 1
        is_full = len(waiting) >= max_rows or num_characters >= MAX_CHARACTERS_PER_SLICE
        if stop == gaps[0][1]:
            gaps.pop(0)
            is_full = True
        if is_full:
            yield {"first": [start], "rows": [pickle.dumps(waiting)]}
            waiting, num_characters = [], 0


def rows_of(ranges: Sequence[Range]) -> int:
    """Returns the number of rows in ranges."""
    return sum(stop - first for first, stop in ranges)


def _gaps(done: Sequence[Range], first: int, stop: int) -> list[Range]:
    """Returns the ranges within `[first, stop)` that are not done."""
    gaps: list[Range] = []
    position = bisect.bisect_right(done, first, key=lambda range: range[1])
    for done_first, done_stop in done[position:]:
        if done_first >= stop:
            break
        if first < done_first:
            gaps.append((first, done_first))
        first = max(first, done_stop)
    if first < stop:
        gaps.append((first, stop))
    return gaps
