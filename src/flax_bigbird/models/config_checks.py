"""Checks that a model can be built from a `BigBirdConfig`."""

from typing import Any

from flax_bigbird import _transformers
from flax_bigbird.config import SparsityConfig
from flax_bigbird.nn.activations import activation

_MINIMUM = {
    "vocab_size": 1,
    "type_vocab_size": 1,
    "max_position_embeddings": 1,
    "hidden_size": 1,
    "intermediate_size": 1,
    "num_attention_heads": 1,
    "num_hidden_layers": 0,
}
_PROBABILITIES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")


def check_config(config: Any) -> None:
    """Checks the values of a configuration; `SparsityConfig.from_hf` checks those of attention.

    Raises:
      TypeError: If `config` is not a `transformers.BigBirdConfig`.
      ValueError: If no model can be built with one of its values.
    """
    cls = _transformers.bigbird_config_class()
    if not isinstance(config, cls):
        raise TypeError(f"config must be a transformers.BigBirdConfig; got {type(config).__name__}")
    for name, minimum in _MINIMUM.items():
        if getattr(config, name) < minimum:
            raise ValueError(
                f"config.{name} must be at least {minimum}; got {getattr(config, name)}"
            )
    for name in _PROBABILITIES:
        rate = getattr(config, name)
        if rate is not None and not 0 <= rate <= 1:
            raise ValueError(f"config.{name} must lie in 0..1, a probability; got {rate}")
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            "config.hidden_size must be a multiple of config.num_attention_heads; got "
            f"{config.hidden_size} and {config.num_attention_heads}"
        )
    activation(config.hidden_act)
    _check_sparsity(SparsityConfig.from_hf(config))


def _check_sparsity(sparsity: SparsityConfig) -> None:
    if sparsity.attention_type not in ("block_sparse", "original_full"):
        raise ValueError(
            "config.attention_type must be 'block_sparse' or 'original_full'; "
            f"got {sparsity.attention_type!r}"
        )
    for name, minimum in (("block_size", 1), ("num_random_blocks", 0)):
        if getattr(sparsity, name) < minimum:
            raise ValueError(
                f"config.{name} must be at least {minimum}; got {getattr(sparsity, name)}"
            )
