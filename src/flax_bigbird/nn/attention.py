"""Multi-head attention: full or block-sparse self-attention, cross-attention, key-value cache."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention import (
    BlockPattern,
    attention_probabilities,
    masked_softmax,
    num_token_shards,
    sharded_block_sparse_attention,
    sharded_full_attention,
)
from flax_bigbird.config import SparsityConfig
from flax_bigbird.nn import decoding
from flax_bigbird.nn.context import AttentionInputs, CallOptions
from flax_bigbird.nn.dropout import Dropout
from flax_bigbird.nn.embeddings import dense, layer_norm
from flax_bigbird.nn.patterns import call_pattern, layer_pattern
from flax_bigbird.nn.projections import project_together


def full_attention_probabilities(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    weight: Float[Array, "#B #N #T S"],
) -> Float[Array, "B N T S"]:
    """Returns the attention probabilities of every query over all keys.

        p[t, s] = w[t, s] e^z[t, s] / sum_s w[t, s] e^z[t, s],    z = q k^T / sqrt(H)

    Args:
      q: The queries.
      k: The keys.
      weight: How often (w) each query reads each key; 0 if it does not.

    Returns:
      Probabilities in float32 or more. They are 0 for a query that reads nothing.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=dtype)
    return masked_softmax(scores / math.sqrt(q.shape[-1]), weight)


class BigBirdSelfAttention(nn.Module):
    """The query, key and value projections, and the attention between them.

    Attributes:
      layer: The index of the layer, which selects its random blocks.
      cross: Whether the module attends to another sequence, which it always does in full.
    """

    config: Any
    layer: int = 0
    cross: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        config = self.config
        width = config.hidden_size
        self.sparsity = SparsityConfig.from_hf(config)
        self.query = dense(config, width, self.dtype, use_bias=config.use_bias)
        self.key = dense(config, width, self.dtype, use_bias=config.use_bias)
        self.value = dense(config, width, self.dtype, use_bias=config.use_bias)
        self.dropout = Dropout(config.attention_probs_dropout_prob)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask: Bool[Array, "B S"] | None,
        head_mask: Float[Array, " N"] | None,
        source: Float[Array, "B S D"] | None,
        options: CallOptions,
        attention_inputs: AttentionInputs,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N T K"] | None]:
        """Returns the context vectors and the probabilities, which are None if not requested.

        Args:
          x: The hidden states, which give the queries.
          mask: True at the keys that may be read. With a key-value cache, it covers its slots.
          head_mask: A factor for each head.
          source: The hidden states that give keys and values; None for self-attention.
          options: The static options of the call.
          attention_inputs: Global tokens and segments.
        """
        if self.cross:
            q = self._split_heads(self.query(x))
            k, v = self._cross_keys_and_values(source, options)
        else:
            q, k, v = self.project(x)
        uses_cache = not self.cross and (
            options.init_cache or self.has_variable("cache", "cached_key")
        )
        if uses_cache:
            context, probabilities = self._attend_with_cache(q, k, v, mask, options)
        elif attention_inputs.segment_ids is not None and not self.cross:
            context, probabilities = self._attend_sparse(q, k, v, mask, options, attention_inputs)
        elif self.cross or self.sparsity.uses_full_attention(x.shape[1]):
            context, probabilities = self._attend_full(q, k, v, mask, options)
        elif self.sparsity.causal:
            context, probabilities = self._attend_causal_sparse(q, k, v, mask, options)
        else:
            context, probabilities = self._attend_sparse(q, k, v, mask, options, attention_inputs)
        if head_mask is not None:
            # Scaling the probabilities of a head scales its context vectors.
            head_mask = head_mask.astype(context.dtype)
            context = context * head_mask[:, None]
            if probabilities is not None:
                probabilities = probabilities * head_mask[:, None, None]
        context = context.reshape(*context.shape[:2], -1)
        return context, probabilities if options.output_attentions else None

    def project(
        self, x: Float[Array, "B T D"]
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N H"], Float[Array, "B T N H"]]:
        """Returns the queries, keys and values of self-attention; attention maps intercept it."""
        q, k, v = project_together((self.query, self.key, self.value), x)
        return self._split_heads(q), self._split_heads(k), self._split_heads(v)

    def _split_heads(self, x: Float[Array, "B T D"]) -> Float[Array, "B T N H"]:
        return x.reshape(*x.shape[:2], self.config.num_attention_heads, -1)

    def _attend_full(self, q, k, v, mask, options: CallOptions):
        causal = self.sparsity.causal and not self.cross
        if not (self._drops_probabilities(options) or options.output_attentions):
            return self._full_attention(q, k, v, mask=mask, causal=causal), None
        weight = jnp.ones((1, 1, 1, k.shape[1]))
        if mask is not None:
            weight = mask[:, None, None, :].astype(jnp.float32)
        if causal:
            position = jnp.arange(k.shape[1])
            weight = jnp.where(position <= position[:, None], weight, 0)
        return self._attend_dense(q, k, v, weight, options)

    def _full_attention(self, q, k, v, *, mask, causal: bool = False):
        implementation = self.sparsity.full_implementation
        return sharded_full_attention(
            q, k, v, mask=mask, causal=causal, implementation=implementation
        )

    def _drops_probabilities(self, options: CallOptions) -> bool:
        return bool(self.config.attention_probs_dropout_prob) and not options.deterministic

    def _attend_dense(self, q, k, v, weight, options: CallOptions):
        """Computes attention through the probabilities, with dropout."""
        probabilities = full_attention_probabilities(q, k, weight).astype(q.dtype)
        dropped = self.dropout(probabilities, deterministic=options.deterministic)
        return jnp.einsum("bnts,bsnh->btnh", dropped, v), probabilities

    def _indices_key(self, options: CallOptions):
        """Returns the key that redraws the random blocks, or None."""
        if options.deterministic or not self.has_rng("indices"):
            return None
        return self.make_rng("indices")

    def _attend_sparse(self, q, k, v, mask, options: CallOptions, inputs: AttentionInputs):
        """Computes block-sparse attention of an encoder, or of packed rows."""
        pattern, invalid_examples = call_pattern(
            self.sparsity,
            self.layer,
            q.shape[1],
            mask=mask,
            user_global=inputs.user_global,
            segment_ids=inputs.segment_ids,
            train=not options.deterministic,
            key=self._indices_key(options),
        )
        context = self._sparse_attention(q, k, v, pattern, mask)
        if invalid_examples is not None:  # a traced value cannot raise an error
            context = jnp.where(invalid_examples[:, None, None, None], jnp.nan, context)
        if not options.output_attentions:
            return context, None
        padding = pattern.num_blocks * pattern.block_size - q.shape[1]
        real = jnp.ones(q.shape[:2], bool) if mask is None else mask
        real = jnp.pad(real, ((0, 0), (0, padding)))
        q, k = (jnp.pad(z, ((0, 0), (0, padding), (0, 0), (0, 0))) for z in (q, k))
        probabilities = attention_probabilities(
            q, k, pattern, mask=real, scale=1 / math.sqrt(q.shape[-1])
        )
        length = context.shape[1]
        return context, probabilities[:, :, :length, :length].astype(context.dtype)

    def _sparse_attention(self, q, k, v, pattern: BlockPattern, mask):
        implementation = self.sparsity.block_sparse_implementation
        return sharded_block_sparse_attention(
            q, k, v, pattern, mask=mask, implementation=implementation
        )

    def _causal_pattern(self, length: int, options: CallOptions) -> BlockPattern:
        key = self._indices_key(options)
        train = not options.deterministic
        return layer_pattern(self.sparsity, self.layer, length, train=train, key=key)

    def _attend_causal_sparse(self, q, k, v, mask, options: CallOptions):
        """Computes block-sparse attention of a decoder, for whole examples."""
        pattern = self._causal_pattern(q.shape[1], options)
        if not options.output_attentions:
            return decoding.attend_left_aligned(
                self._sparse_attention, q, k, v, pattern, mask
            ), None
        queries = jnp.arange(q.shape[1])
        weight = decoding.causal_weights(queries, q.shape[1], mask, pattern)
        return self._attend_dense_sparse(q, k, v, weight, mask)

    def _attend_dense_sparse(self, q, k, v, weight, query_mask):
        """Computes sparse attention through the probabilities, which are 0 at masked queries.

        As in the sparse kernels, there is no dropout.
        """
        probabilities = full_attention_probabilities(q, k, weight).astype(q.dtype)
        if query_mask is not None:
            probabilities = jnp.where(query_mask[:, None, :, None], probabilities, 0)
        return jnp.einsum("bnts,bsnh->btnh", probabilities, v), probabilities

    def _attend_with_cache(self, q, k, v, mask, options: CallOptions):
        """Appends the new keys and values to the cache, and attends to the whole cache.

        `mask` is `[B, S]`, over the slots of the cache.
        """
        length = q.shape[1]
        if not self.sparsity.causal:
            raise ValueError(
                "a key-value cache needs a causal model: set config.is_decoder=True "
                "(got is_decoder=False)"
            )
        if num_token_shards() > 1:
            raise ValueError(
                "a key-value cache cannot be split by tokens; got a mesh whose axis 'sequence' has "
                f"size {num_token_shards()}: generate under a mesh without that axis, with 'data' "
                "for the examples and 'tensor' for the heads"
            )
        updated = decoding.append(self, k, v)
        if updated is None:  # the call only creates the cache
            return jnp.zeros_like(q), None
        keys, values, start = updated
        size = keys.shape[1]
        sparse = not self.sparsity.uses_full_attention(size)
        dense = options.output_attentions or (self._drops_probabilities(options) and not sparse)
        if options.prefill and not dense:
            prompt_mask = None if mask is None else mask[:, :length]
            attend = self._attend_causal_sparse if sparse else self._attend_full
            return attend(q, k, v, prompt_mask, options)
        if length == 1 and not dense:
            if sparse:
                pattern = self._causal_pattern(size, options)
                return decoding.attend_step(q, keys, values, pattern, start, mask), None
            reads = jnp.broadcast_to(jnp.arange(size) <= start, (q.shape[0], size))
            reads = reads if mask is None else reads & mask
            return self._full_attention(q, keys, values, mask=reads), None
        queries = start + jnp.arange(length)
        pattern = self._causal_pattern(size, options) if sparse else None
        weight = decoding.causal_weights(queries, size, mask, pattern)
        if not sparse:
            return self._attend_dense(q, keys, values, weight, options)
        query_mask = None if mask is None else mask[:, jnp.minimum(queries, size - 1)]
        return self._attend_dense_sparse(q, keys, values, weight, query_mask)

    def _cross_keys_and_values(self, source, options: CallOptions):
        """Returns the keys and values of the encoder's states.

        If the cache has room for them, they are computed once and then read from the cache.
        """
        if self.has_variable("cache", "cross_key") and not options.prefill:
            names = ("cross_key", "cross_value")
            k, v = (self.get_variable("cache", name) for name in names)
            return k, v
        k, v = self._split_heads(self.key(source)), self._split_heads(self.value(source))
        if self.has_variable("cache", "cross_key"):
            self.put_variable("cache", "cross_key", k)
            self.put_variable("cache", "cross_value", v)
        return k, v


class ResidualOutput(nn.Module):
    """Computes `LayerNorm(residual + dropout(dense(x)))`, after attention and feed-forward."""

    config: Any
    dtype: Any = jnp.float32

    def setup(self):
        self.dense = dense(self.config, self.config.hidden_size, self.dtype)
        self.LayerNorm = layer_norm(self.config, self.dtype)
        self.dropout = Dropout(self.config.hidden_dropout_prob)

    def __call__(
        self, x: Float[Array, "... F"], residual: Float[Array, "... D"], *, deterministic: bool
    ) -> Float[Array, "... D"]:
        """Returns the normalized sum."""
        return self.LayerNorm(residual + self.dropout(self.dense(x), deterministic=deterministic))


class BigBirdAttention(nn.Module):
    """Attention with its output projection, residual connection and LayerNorm."""

    config: Any
    layer: int = 0
    cross: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        self.self = BigBirdSelfAttention(self.config, self.layer, self.cross, self.dtype)
        self.output = ResidualOutput(self.config, self.dtype)

    def __call__(
        self, x, mask, head_mask, source, options: CallOptions, attention_inputs: AttentionInputs
    ):
        """Returns the hidden states and the probabilities; see `BigBirdSelfAttention`."""
        context, probabilities = self.self(x, mask, head_mask, source, options, attention_inputs)
        return self.output(context, x, deterministic=options.deterministic), probabilities
