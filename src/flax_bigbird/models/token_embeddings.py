"""`resize_token_embeddings` changes the vocabulary size of a model or its parameters."""

import copy
from typing import Any, TypeVar

import jax.numpy as jnp
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from flax_bigbird.models.base import FlaxBigBirdPreTrainedModel
from flax_bigbird.models.position_embeddings import copy_with_config, find_table

_TABLE = ("embeddings", "word_embeddings", "embedding")
# The parameters with an axis of the vocabulary, and that axis. A tied head has no kernel.
_VOCABULARY_AXES = {
    _TABLE: 0,
    ("predictions", "bias"): 0,
    ("predictions", "decoder", "kernel"): 1,
    ("predictions", "decoder", "bias"): 0,
}
_TOKEN_ID_KEYS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id")

ModelOrParams = TypeVar("ModelOrParams", FlaxBigBirdPreTrainedModel, dict[str, Any])


def resize_token_embeddings(model_or_params: ModelOrParams, vocab_size: int) -> ModelOrParams:
    """Returns the model, or the parameters, for a vocabulary of `vocab_size` tokens.

    The word embeddings, the bias of a language-model head, and the kernel of an untied one are
    resized together. The parameters of tokens that stay are those of before. Every new token
    starts from the mean of the old ones, so that it is neither likelier nor rarer than an average
    token before it is trained (as with `mean_resizing` in `transformers`, without its noise).

    Args:
      model_or_params: A model with parameters, or the parameter tree of a task. It is not changed.
      vocab_size: The new number of tokens. If it is smaller than before, the last tokens are
        removed.

    Returns:
      A new model of the same class whose `config.vocab_size` is `vocab_size`; or a new tree, for a
      configuration with that value. Parameters keep their dtype.

    Raises:
      ValueError: If `vocab_size` is not a positive integer, if it removes a special token of the
        model's configuration, or if the tree has no word embeddings.
    """
    if not isinstance(vocab_size, int) or isinstance(vocab_size, bool) or vocab_size < 1:
        raise ValueError(f"vocab_size must be a positive integer; got {vocab_size!r}")
    if isinstance(model_or_params, FlaxBigBirdPreTrainedModel):
        return _resize_model(model_or_params, vocab_size)
    return _resize_params(model_or_params, vocab_size)


def _resize_model(model: Any, vocab_size: int) -> Any:
    config = copy.deepcopy(model.config)
    for key in _TOKEN_ID_KEYS:
        token_id = getattr(config, key, None)
        if isinstance(token_id, int) and token_id >= vocab_size:
            raise ValueError(
                f"vocab_size must be larger than the id of every special token; got {vocab_size}, "
                f"and {key} is {token_id}: raise it"
            )
    config.vocab_size = vocab_size
    params = _resize_params(model.params, vocab_size)
    return copy_with_config(model, config, params)


def _resize_params(params: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    leaves = dict(flatten_dict(unfreeze(params)))
    find_table(leaves, _TABLE)
    for path, leaf in leaves.items():
        for suffix, axis in _VOCABULARY_AXES.items():
            if path[-len(suffix) :] == suffix:
                leaves[path] = _resize(jnp.asarray(leaf), vocab_size, axis)
    return unflatten_dict(leaves)


def _resize(leaf: Float[Array, "..."], vocab_size: int, axis: int) -> Float[Array, "..."]:
    """Cuts an axis, or appends copies of the mean along it."""
    old_size = leaf.shape[axis]
    if vocab_size <= old_size:
        return jnp.take(leaf, jnp.arange(vocab_size), axis=axis)
    # The mean of many short floats is computed in float32.
    mean = leaf.astype(jnp.float32).mean(axis, keepdims=True).astype(leaf.dtype)
    return jnp.concatenate([leaf, jnp.repeat(mean, vocab_size - old_size, axis)], axis)
