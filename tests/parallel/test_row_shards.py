"""Which rows each process reads, on meshes whose devices belong to several processes."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from flax_bigbird.parallel.row_shards import RowShards


@dataclasses.dataclass(frozen=True)
class Device:
    """What is read of a device of a mesh."""

    id: int
    process_index: int


def by_process(*shards):
    return {process: frozenset(held) for process, held in enumerate(shards)}


@pytest.mark.parametrize(
    ("held", "num_readers"),
    [
        (by_process([0]), 1),
        (by_process([0, 1], [2, 3]), 2),
        (by_process([0, 3], [1, 2]), 2),
        (by_process([0], [0], [1], [1]), 2),
        (by_process([0, 1, 2, 3], [0, 1, 2, 3]), 1),
        (by_process([0], [1], [2], [3]), 4),
    ],
)
@pytest.mark.parametrize("rows_per_reader", [1, 2, 3, 5])
def test_every_process_reads_the_rows_of_one_reader(held, num_readers, rows_per_reader):
    """Processes that share examples read the same rows; every other row is read by one."""
    shards = RowShards(held)
    assert shards.num_readers == num_readers
    all_rows = np.arange(rows_per_reader * num_readers)
    by_reader = [all_rows[reader::num_readers] for reader in range(num_readers)]
    rows, is_copy = shards.pad(by_reader)
    assert len(rows) % shards.count == 0
    assert sorted(rows[~is_copy]) == all_rows.tolist()
    readers = {}
    for process, own in held.items():
        positions = shards.positions(process, len(rows))
        (readers[own],) = {int(row) % num_readers for row in rows[positions]}
    assert sorted(readers.values()) == list(range(num_readers))


def test_more_processes_than_readers_share_the_rows_of_a_reader():
    shards = RowShards(by_process([0], [1], [2], [3]))
    rows, is_copy = shards.pad([np.array([0, 2, 4]), np.array([1, 3, 5])])
    assert rows.tolist() == [0, 2, 4, 0, 1, 3, 5, 1]
    assert is_copy.tolist() == [False, False, False, True] * 2


def test_fewer_processes_than_readers_read_those_of_several():
    rows, is_copy = RowShards(by_process([0], [1])).pad([np.arange(2) + 2 * n for n in range(3)])
    assert rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert not is_copy.any()


def test_shards_follow_from_the_devices_of_a_mesh():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "tensor"))
    assert RowShards.of(mesh) == RowShards.of(None) == RowShards(by_process([0]))
    devices = np.empty((2, 1, 2, 1), object)
    for index in range(4):
        devices.flat[index] = Device(index, index % 2)
    shards = RowShards.of(Mesh(devices, ("data", "fsdp", "sequence", "tensor")))
    assert shards == RowShards(by_process([0, 1], [0, 1]))
