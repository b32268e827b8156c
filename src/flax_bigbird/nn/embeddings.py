"""The sum of word, token-type and position embeddings, with dropout before LayerNorm."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_bigbird.nn.dropout import Dropout
from flax_bigbird.nn.sharding import constrain_states
from flax_bigbird.nn.tables import look_up, look_up_positions


def dense(config: Any, features: int, dtype: Any, *, use_bias: bool = True) -> nn.Dense:
    """Returns a dense layer with the encoder's initializer, normal(`initializer_range`)."""
    init = nn.initializers.normal(config.initializer_range)
    return nn.Dense(features, use_bias=use_bias, dtype=dtype, kernel_init=init)


def layer_norm(config: Any, dtype: Any) -> nn.LayerNorm:
    """Returns a LayerNorm that computes its statistics in float32.

    The variance is computed in two passes, as PyTorch computes it.
    """
    return nn.LayerNorm(epsilon=config.layer_norm_eps, dtype=dtype, use_fast_variance=False)


class BigBirdEmbeddings(nn.Module):
    """Computes `LayerNorm(dropout(word [* sqrt(D)] + token_type + position))`."""

    config: Any
    dtype: Any = jnp.float32

    def setup(self):
        self.word_embeddings = self._table(self.config.vocab_size)
        self.position_embeddings = self._table(self.config.max_position_embeddings)
        self.token_type_embeddings = self._table(self.config.type_vocab_size)
        self.LayerNorm = layer_norm(self.config, self.dtype)
        self.dropout = Dropout(self.config.hidden_dropout_prob)

    def _table(self, num_embeddings: int) -> nn.Embed:
        init = nn.initializers.normal(self.config.initializer_range)
        return nn.Embed(
            num_embeddings, self.config.hidden_size, dtype=self.dtype, embedding_init=init
        )

    def __call__(
        self,
        input_ids: Int[Array, "B T"],
        token_type_ids: Int[Array, "B T"],
        position_ids: Int[Array, "B T"] | None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B T D"]:
        """Returns the embedded tokens; positions that are None are `0..T-1`."""
        words = look_up(self.word_embeddings, input_ids)
        if self.config.rescale_embeddings:
            words = words * self.config.hidden_size**0.5
        x = words + look_up(self.token_type_embeddings, token_type_ids)
        x = x + look_up_positions(self.position_embeddings, position_ids, input_ids.shape[-1])
        return constrain_states(self.LayerNorm(self.dropout(x, deterministic=deterministic)))
