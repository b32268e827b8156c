"""Splits batches over the devices of a mesh, and says which rows a process must read.

The examples of a batch are split over the axes `data` and `fsdp`, and its tokens over `sequence`
where that divides them. If the devices do not divide the examples, copies of the first ones are
added, and the batch gets a mask of the rows that count, see `flax_bigbird.data.types.ROW_MASK`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flax_bigbird._mesh_axes import ROW_AXES, SEQUENCE
from flax_bigbird._messages import pluralize
from flax_bigbird.data.batching import BatchRows
from flax_bigbird.data.types import ROW_MASK, Arrays
from flax_bigbird.parallel.mesh import replicated
from flax_bigbird.parallel.row_shards import RowShards


@dataclass(frozen=True)
class BatchPart:
    """Consecutive rows of a batch that are computed with at once.

    Attributes:
      num_rows: The number of rows.
      num_padded: The number of rows with the copies that are added.
      local: `[n]`, the rows among the padded ones that devices of this process hold.
      rows: `[n]`, the rows of the batch that this process reads, in the order of `local`.
      is_copy: `[n]`, which of them are copies.
    """

    num_rows: int
    num_padded: int
    local: np.ndarray
    rows: np.ndarray
    is_copy: np.ndarray


class BatchSharding:
    """Distributes batches over a mesh; without a mesh, batches do not change.

    Attributes:
      pads_rows: Whether copies may be added to batches. Otherwise, a batch that the devices do not
        divide is replicated: every device gets all of it.
    """

    def __init__(self, mesh: Mesh | None, *, pads_rows: bool = True):
        self._mesh = mesh
        self.pads_rows = pads_rows
        self._shards = RowShards.of(mesh)
        self.num_row_shards = self._shards.count
        self._num_token_shards = 1 if mesh is None else dict(mesh.shape).get(SEQUENCE, 1)

    def parts(
        self, num_rows: int, max_rows: int | None = None, num_readers: int = 1
    ) -> list[BatchPart]:
        """Returns the parts of a batch.

        Args:
          num_rows: The number of rows of the batch.
          max_rows: The maximum number of rows of a part; by default, the batch is one part.
          num_readers: See `flax_bigbird.data.batching.SelectRows`.
        """
        count = 1 if max_rows is None else -(-num_rows // max(1, max_rows))
        sizes = [len(part) for part in np.array_split(np.arange(num_rows), count)]
        starts = np.cumsum([0, *sizes[:-1]])
        return [
            self._part(int(start), size, num_readers)
            for start, size in zip(starts, sizes, strict=True)
        ]

    def advice(self, num_rows: int, length: int) -> str | None:
        """Returns a sentence for the user if copies waste more than a quarter of the devices' work.

        Args:
          num_rows: The number of rows of a batch.
          length: Their length in tokens.
        """
        shards = self.num_row_shards
        wasted = 1 - num_rows / (-(-num_rows // shards) * shards)
        if wasted <= 0.25:
            return None
        return (
            f"Batches of {pluralize(num_rows, 'row')} of {length:,} tokens leave {wasted:.0%} of "
            f"the devices' work unused, as they are shared by {shards:,}: raise tokens_per_batch."
        )

    def batch_rows(
        self, num_rows: int, max_rows: int | None = None, num_readers: int = 1
    ) -> BatchRows:
        """Returns the rows of a batch that this process reads, and a function that splits them.

        The function returns the parts of the batch, each with its arrays.

        Args:
          num_rows: The number of rows of the batch.
          max_rows: The maximum number of rows of a part.
          num_readers: See `flax_bigbird.data.batching.SelectRows`.
        """
        parts = self.parts(num_rows, max_rows, num_readers)
        ends = np.cumsum([len(part.local) for part in parts]).tolist()

        def split(batch: Arrays) -> list[tuple[BatchPart, Arrays]]:
            starts = [0, *ends[:-1]]
            return [
                (part, {name: value[start:end] for name, value in batch.items()})
                for part, start, end in zip(parts, starts, ends, strict=True)
            ]

        return BatchRows(np.concatenate([part.rows for part in parts]), split)

    def place(self, batch: Arrays, part: BatchPart) -> Arrays:
        """Returns a part on the devices.

        Args:
          batch: The rows `part.rows` of the batch, `[n, ...]` each.
          part: The part.
        """
        if self._mesh is None:
            return batch
        if part.num_padded > part.num_rows:
            batch = batch | {ROW_MASK: ~part.is_copy}
        length = batch["input_ids"].shape[-1] if "input_ids" in batch else None
        placed = {}
        for name, value in batch.items():
            sharding = self._sharding(part, value.shape, length)
            if sharding.is_fully_addressable:
                placed[name] = jax.device_put(value, sharding)
            else:
                shape = (part.num_padded, *value.shape[1:])
                placed[name] = _from_local_rows(value, part.local, shape, sharding)
        return placed

    def _part(self, start: int, num_rows: int, num_readers: int) -> BatchPart:
        """Returns the part of `num_rows` rows from `start` on.

        Its rows are in the order of their readers on any mesh, as dropout depends on the order.
        """
        rows = np.arange(start, start + num_rows)
        by_reader = [rows[rows % num_readers == reader] for reader in range(num_readers)]
        if not self._splits(num_rows):
            rows = np.concatenate(by_reader)
            return BatchPart(
                num_rows, num_rows, np.arange(num_rows), rows, np.zeros(num_rows, bool)
            )
        rows, is_copy = self._shards.pad(by_reader)
        local = self._shards.positions(jax.process_index(), len(rows))
        return BatchPart(num_rows, len(rows), local, rows[local], is_copy[local])

    def _splits(self, num_rows: int) -> bool:
        divides = num_rows % self.num_row_shards == 0
        return self._mesh is not None and (self.pads_rows or divides)

    def _sharding(self, part: BatchPart, shape: Sequence[int], length: int | None) -> NamedSharding:
        assert self._mesh is not None
        if not self._splits(part.num_rows):
            return replicated(self._mesh)
        axes: list[Any] = [ROW_AXES, *([None] * (len(shape) - 1))]
        is_per_token = len(shape) > 1 and shape[-1] == length
        if is_per_token and self._num_token_shards > 1 and shape[-1] % self._num_token_shards == 0:
            axes[-1] = SEQUENCE
        return NamedSharding(self._mesh, PartitionSpec(*axes))


def _from_local_rows(
    value: np.ndarray, local: np.ndarray, shape: tuple[int, ...], sharding: NamedSharding
) -> jax.Array:
    """Returns an array of all processes, of which this one holds the rows `local`."""

    def rows_of(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        wanted = np.arange(shape[0])[index[0]]
        return value[np.searchsorted(local, wanted)][(slice(None), *index[1:])]

    return jax.make_array_from_callback(shape, sharding, rows_of)
