"""The devices that share the work of a prediction or an evaluation: one, or a mesh of several."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flax_bigbird._mesh_axes import ROW_AXES, SEQUENCE
from flax_bigbird.data.errors import OptionError
from flax_bigbird.data.types import Arrays
from flax_bigbird.parallel.batch_sharding import BatchSharding
from flax_bigbird.parallel.mesh import create_mesh, under
from flax_bigbird.parallel.mesh_options import check_mesh_fits_model
from flax_bigbird.parallel.parameter_sharding import parameter_shardings, place_tree

Step = Callable[[Any, Arrays], Arrays]
"""A function from parameters and a batch to arrays with a row for each row of the batch."""


class InferenceDevices:
    """The devices that compute batches together.

    Attributes:
      mesh: The mesh of the devices; None for a single device.
      num_row_shards: The number of devices that the rows of a batch are split over.
    """

    def __init__(self, mesh: Mesh | None = None, device: Any = None):
        """Takes a mesh, or a single device.

        Args:
          mesh: The mesh.
          device: The device; None for the one that JAX chooses.
        """
        self.mesh = mesh
        self._device = device
        self._batches = BatchSharding(mesh)
        self.num_row_shards = self._batches.num_row_shards

    @classmethod
    def resolve(
        cls,
        mesh: str | None,
        devices: Sequence[Any] | None,
        config: Any,
        *,
        splits_tokens: bool = True,
    ) -> "InferenceDevices":
        """Returns the devices for a model, before it is loaded.

        Args:
          mesh: The option `mesh`; None for `data` over all devices.
          devices: The devices to use. By default, they are those of this process; or the one that
            `jax.default_device` names.
          config: The configuration of the model.
          splits_tokens: Whether the tokens of an example may be on several devices.

        Raises:
          OptionError: if there are no devices, or if the mesh does not fit them or the model.
        """
        available = _local_devices() if devices is None else list(devices)
        if not available:
            raise OptionError("must be one or more; got none: leave devices out", option="devices")
        created = create_mesh(mesh, available)
        if created is None:
            return cls(device=None if devices is None else available[0])
        sizes = dict(created.shape)
        check_mesh_fits_model(sizes, config)
        if sizes[SEQUENCE] > 1 and not splits_tokens:
            raise OptionError(
                "the axis sequence of mesh cannot split texts that the model continues; got "
                f"sequence={sizes[SEQUENCE]}: use data, fsdp or tensor"
            )
        return cls(created)

    def place_model(self, model: Any) -> None:
        """Moves the parameters of a model to the devices, split as in training."""
        if self.mesh is not None:
            # From the host, which compiles nothing, and leaves no second copy on a device.
            params = jax.tree.map(np.asarray, model.params)
            model.params = place_tree(params, parameter_shardings(self.mesh, params))
        elif self._device is not None:
            model.params = jax.device_put(model.params, self._device)

    def compile(self, step: Step) -> Step:
        """Returns a step that is compiled for the devices, over which it splits each batch.

        If the devices do not divide the rows of a batch, copies of the first rows are added, and
        the outputs have rows for them at the end.
        """
        if self.mesh is None:
            return jax.jit(step)
        # The host reads all outputs, so that devices need not gather those of other rows.
        rows = NamedSharding(self.mesh, PartitionSpec(ROW_AXES))
        compiled = self.run(jax.jit(step, out_shardings=rows))

        def place_and_run(params: Any, batch: Arrays) -> Arrays:
            return compiled(params, self._place(batch))

        return place_and_run

    def run(self, step: Step) -> Step:
        """Returns a step that is called for the devices, and compiles its own programs."""
        if self.mesh is None:
            return step

        def run_under_mesh(params: Any, batch: Arrays) -> Arrays:
            with under(self.mesh):
                return step(params, batch)

        return run_under_mesh

    def _place(self, batch: Arrays) -> Arrays:
        """Returns a batch on the devices, with copies of rows if they do not divide it."""
        num_rows = len(next(iter(batch.values())))
        (part,) = self._batches.parts(num_rows)
        if part.num_padded > num_rows:
            batch = {name: np.asarray(value)[part.rows] for name, value in batch.items()}
        return self._batches.place(batch, part)


def _local_devices() -> list[Any]:
    """Returns the devices of this process, unless JAX is told to use one of them."""
    chosen = jax.config.values["jax_default_device"]
    return jax.local_devices() if chosen is None else [chosen]
