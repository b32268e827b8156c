"""Data parallelism: distributes the examples of a batch over the devices."""

from typing import Any

import jax
import numpy as np


class BatchSharding:
    """Splits batches by examples over all devices; on a single device, batches do not change."""

    def __init__(self) -> None:
        self._num_devices = jax.device_count()
        if self._num_devices == 1:
            return
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
        self._split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        self._replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def place(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns the batch on the devices.

        Args:
          batch: Arrays `[B, ...]`. If the number of devices does not divide `B`, every device gets
            the whole batch.
        """
        if self._num_devices == 1:
            return batch
        divides = all(len(value) % self._num_devices == 0 for value in batch.values())
        return jax.device_put(batch, self._split if divides else self._replicated)
