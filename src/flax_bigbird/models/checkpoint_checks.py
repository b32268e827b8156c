"""Checks that a checkpoint has the parameters of a model, without loading them."""

from typing import Any

import jax

from flax_bigbird import checkpoint
from flax_bigbird.config import SparsityConfig
from flax_bigbird.models.config_loading import resolve_config
from flax_bigbird.models.loading import match_checkpoint
from flax_bigbird.models.parameterized import ParameterizedModel


def check_params(
    cls: type[ParameterizedModel], source: checkpoint.Source, overrides: dict[str, Any]
) -> None:
    """Makes the checks of `load_params`, from the names and shapes that a checkpoint has.

    Neither a device of JAX is used nor, if the files are safetensors, more than their headers.

    Args:
      cls: The class of the model.
      source: The checkpoint.
      overrides: Configuration keys, which are set, and fields of the module.

    Raises:
      CheckpointError, ValueError: As `load_params` does.

    Warns:
      CheckpointWarning: As `load_params` does.
    """
    config, module_kwargs = resolve_config(cls, source, None, overrides)
    # Parameters do not depend on attention, and sparse attention depends on the device.
    config.attention_type = "original_full"
    setattr(config, SparsityConfig.IMPLEMENTATION_KEY, "xla")
    models: list[ParameterizedModel] = []

    def create() -> None:
        models.append(cls(config, _do_init=False, **module_kwargs))

    jax.eval_shape(create)  # the random key of the model would be on a device
    match_checkpoint(models[0], source, False, initialize=False, shapes_only=True)
