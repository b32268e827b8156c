"""Which rows of a batch the devices of each process hold."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from flax_bigbird._mesh_axes import ROW_AXES


@dataclass(frozen=True)
class RowShards:
    """The shards that the rows of a batch are split into, and the processes that hold them.

    Attributes:
      by_process: The indices of the shards that the devices of each process hold.
    """

    by_process: Mapping[int, frozenset[int]]

    @classmethod
    def of(cls, mesh: Mesh | None) -> "RowShards":
        """Returns the shards on a mesh; without one, there is a single shard."""
        if mesh is None:
            return cls({0: frozenset({0})})
        axes = [mesh.axis_names.index(name) for name in ROW_AXES if name in mesh.axis_names]
        devices = np.moveaxis(mesh.devices, axes, range(len(axes)))
        num_shards = math.prod(devices.shape[: len(axes)])
        held: dict[int, set[int]] = {}
        for shard, copies in enumerate(devices.reshape(num_shards, -1)):
            for device in copies:
                held.setdefault(device.process_index, set()).add(shard)
        return cls({process: frozenset(shards) for process, shards in held.items()})

    @property
    def count(self) -> int:
        return len(frozenset.union(*self.by_process.values()))

    @property
    def num_readers(self) -> int:
        """The number of processes that need different rows.

        Those whose devices share the same examples, along `sequence` or `tensor`, count as one.
        """
        return math.gcd(len(set(self.by_process.values())), self.count)

    def positions(self, process: int, num_rows: int) -> np.ndarray:
        """Returns the rows, of `num_rows` that the shards divide, that a process holds, sorted."""
        size = num_rows // self.count
        return (
            np.arange(num_rows).reshape(self.count, size)[sorted(self.by_process[process])].ravel()
        )

    def pad(self, by_reader: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows with copies, as many for each shard, and which of them are copies.

        If possible, the rows of a reader, and their copies, are in shards of a single process.

        Args:
          by_reader: The rows of each reader.
        """
        if self.count % len(by_reader) or not all(map(len, by_reader)):
            by_reader = [np.concatenate(by_reader)]
        shards_per_reader = self.count // len(by_reader)
        size = -(-max(map(len, by_reader)) // shards_per_reader) * shards_per_reader
        rows = np.concatenate([np.resize(own, size) for own in by_reader])
        is_copy = np.concatenate([np.arange(size) >= len(own) for own in by_reader])
        if len(by_reader) > 1:
            places = np.arange(len(rows)).reshape(self.count, -1)[np.argsort(self._order)].ravel()
            rows, is_copy = rows[places], is_copy[places]
        return rows, is_copy

    @property
    def _order(self) -> list[int]:
        """The shards, those of a process one after another.

        On a TPU, they need not be so on the mesh, which follows the wires between chips.
        """
        return list(
            dict.fromkeys(
                shard
                for process in sorted(self.by_process)
                for shard in sorted(self.by_process[process])
            )
        )
