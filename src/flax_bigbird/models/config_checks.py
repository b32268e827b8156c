"""Checks that a model can be built from a `BigBirdConfig`."""

from typing import Any

from flax_bigbird import _transformers
from flax_bigbird.config import SparsityConfig, classifier_pooling
from flax_bigbird.models.config_rules import find_invalid_value
from flax_bigbird.nn.activations import activation


def check_config(config: Any) -> None:
    """Checks the values of a configuration; `SparsityConfig.from_hf` checks more of attention.

    Raises:
      TypeError: If `config` is not a `transformers.BigBirdConfig`.
      ValueError: If no model can be built with one of its values.
    """
    cls = _transformers.bigbird_config_class()
    if not isinstance(config, cls):
        raise TypeError(f"config must be a transformers.BigBirdConfig; got {type(config).__name__}")
    invalid = find_invalid_value(config)
    if invalid is not None:
        raise ValueError(invalid)
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            "config.hidden_size must be a multiple of config.num_attention_heads; got "
            f"{config.hidden_size} and {config.num_attention_heads}"
        )
    activation(config.hidden_act)
    classifier_pooling(config)
    SparsityConfig.from_hf(config)
