"""Multi-head attention: full or block-sparse self-attention, cross-attention, key-value cache."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention import (
    attention_probabilities,
    block_sparse_attention,
    full_attention,
)
from flax_bigbird.config import SparsityConfig
from flax_bigbird.nn import decoding
from flax_bigbird.nn.context import NOTHING_SAID, Call, Reading
from flax_bigbird.nn.dropout import Dropout
from flax_bigbird.nn.embeddings import dense, layer_norm
from flax_bigbird.nn.patterns import call_pattern, layer_pattern


def full_attention_probabilities(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S N H"],
    weight: Float[Array, "#B #N #T S"],
) -> Float[Array, "B N T S"]:
    """softmax(q k^T / sqrt(H)) over the keys whose weight is not 0, each counted `weight` times.

    In float32 at least. A query that reads nothing gets finite, meaningless probabilities.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=dtype)
    scores = scores / math.sqrt(q.shape[-1])
    bias = jnp.where(weight > 0, jnp.log(jnp.maximum(weight, 1)), jnp.finfo(dtype).min)
    return jax.nn.softmax(scores + bias, axis=-1)


class BigBirdSelfAttention(nn.Module):
    """Query, key and value projections and the attention itself; heads joined, `[B, T, D]`.

    Attributes:
      layer: the layer's index, which selects its random blocks.
      cross: attends to another sequence, always in full.
    """

    config: Any
    layer: int = 0
    cross: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        config = self.config
        self.sparsity = SparsityConfig.from_hf(config)
        width = config.hidden_size
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
        call: Call,
        reading: Reading = NOTHING_SAID,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N T S"] | None]:
        """`(context, probabilities or None)`; `mask` is over keys, `source` gives them."""
        source = x if source is None else source
        q = self._heads(self.query(x))
        if self.cross:
            k, v = self._cross_keys(source, call)
        else:
            k, v = self._heads(self.key(source)), self._heads(self.value(source))
        caching = not self.cross and (call.init_cache or self.has_variable("cache", "cached_key"))
        if caching:
            context, probabilities = self._attend_cached(q, k, v, mask, call)
        elif reading.segments is not None and not self.cross:
            context, probabilities = self._attend_sparse(q, k, v, mask, call, reading)
        elif self.cross or self.sparsity.uses_full_attention(x.shape[1]):
            context, probabilities = self._attend_full(q, k, v, mask, call)
        elif self.config.is_decoder:
            context, probabilities = self._attend_causal_sparse(q, k, v, mask, call)
        else:
            context, probabilities = self._attend_sparse(q, k, v, mask, call, reading)
        if head_mask is not None:
            # Scaling a head's probabilities scales its context.
            head_mask = head_mask.astype(context.dtype)
            context = context * head_mask[:, None]
            if probabilities is not None:
                probabilities = probabilities * head_mask[:, None, None]
        context = context.reshape(*context.shape[:2], -1)
        return context, probabilities if call.output_attentions else None

    def _heads(self, x: Array) -> Float[Array, "B T N H"]:
        return x.reshape(*x.shape[:2], self.config.num_attention_heads, -1)

    def _attend_full(self, q, k, v, mask, call: Call):
        causal = self.config.is_decoder and not self.cross
        drops = self.config.attention_probs_dropout_prob and not call.deterministic
        if not (drops or call.output_attentions):
            return full_attention(q, k, v, mask=mask, causal=causal), None
        weight = jnp.ones((1, 1, 1, k.shape[1]))
        if mask is not None:
            weight = mask[:, None, None, :].astype(jnp.float32)
        if causal:
            position = jnp.arange(k.shape[1])
            weight = jnp.where(position <= position[:, None], weight, 0)
        return self._weighted(q, k, v, weight, call)

    def _weighted(self, q, k, v, weight, call: Call):
        probabilities = full_attention_probabilities(q, k, weight).astype(q.dtype)
        dropped = self.dropout(probabilities, deterministic=call.deterministic)
        return jnp.einsum("bnts,bsnh->btnh", dropped, v), probabilities

    def _indices_key(self, call: Call):
        if call.deterministic or not self.has_rng("indices"):
            return None
        return self.make_rng("indices")

    def _attend_sparse(self, q, k, v, mask, call: Call, reading: Reading):
        pattern, undefined = call_pattern(
            self.sparsity,
            self.layer,
            q.shape[1],
            mask=mask,
            user_global=reading.chosen,
            segment_ids=reading.segments,
            train=not call.deterministic,
            key=self._indices_key(call),
        )
        context = block_sparse_attention(q, k, v, pattern, mask=mask)
        if undefined is not None:  # shown, as a traced value cannot raise
            context = jnp.where(undefined[:, None, None, None], jnp.nan, context)
        if not call.output_attentions:
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

    def _causal_pattern(self, length: int, call: Call):
        train, key = not call.deterministic, self._indices_key(call)
        return layer_pattern(self.sparsity, self.layer, length, train=train, key=key)

    def _attend_causal_sparse(self, q, k, v, mask, call: Call):
        """Sparse attention of a decoder's whole documents."""
        pattern = self._causal_pattern(q.shape[1], call)
        if not call.output_attentions:
            return decoding.attend_sparse(q, k, v, pattern, mask), None
        queries = jnp.arange(q.shape[1])
        weight = decoding.causal_weights(queries, q.shape[1], mask, pattern)
        return self._weighted_sparse(q, k, v, weight, mask)

    def _weighted_sparse(self, q, k, v, weight, query_mask):
        """As `_weighted`; no dropout, and 0 at masked queries."""
        probabilities = full_attention_probabilities(q, k, weight).astype(q.dtype)
        if query_mask is not None:
            probabilities = jnp.where(query_mask[:, None, :, None], probabilities, 0)
        return jnp.einsum("bnts,bsnh->btnh", probabilities, v), probabilities

    def _attend_cached(self, q, k, v, mask, call: Call):
        """Attends to the cache after writing the new keys behind those it holds.

        `mask` is [B, S] over the cache's slots.
        """
        config, length = self.config, q.shape[1]
        if not config.is_decoder:
            raise ValueError(
                "a key-value cache needs a causal model: set config.is_decoder=True "
                "(got is_decoder=False)"
            )
        written = decoding.append(self, k, v)
        if written is None:  # nothing but the cache's shape is wanted
            return jnp.zeros_like(q), None
        keys, values, start = written
        size = keys.shape[1]
        sparse = config.attention_type == "block_sparse"
        drops = config.attention_probs_dropout_prob and not call.deterministic
        dense = call.output_attentions or (drops and not sparse)
        if call.prefill and not dense:
            chunk_mask = None if mask is None else mask[:, :length]
            attend = self._attend_causal_sparse if sparse else self._attend_full
            return attend(q, k, v, chunk_mask, call)
        if length == 1 and not dense:
            if sparse:
                pattern = self._causal_pattern(size, call)
                return decoding.attend_step(q, keys, values, pattern, start, mask), None
            reads = jnp.broadcast_to(jnp.arange(size) <= start, (q.shape[0], size))
            reads = reads if mask is None else reads & mask
            return full_attention(q, keys, values, mask=reads), None
        queries = start + jnp.arange(length)
        pattern = self._causal_pattern(size, call) if sparse else None
        weight = decoding.causal_weights(queries, size, mask, pattern)
        if not sparse:
            return self._weighted(q, keys, values, weight, call)
        real = None if mask is None else mask[:, jnp.minimum(queries, size - 1)]
        return self._weighted_sparse(q, keys, values, weight, real)

    def _cross_keys(self, source, call: Call):
        """Keys and values of the encoder's states; from a cache that has room for them, once."""
        if self.has_variable("cache", "cross_key") and not call.prefill:
            names = ("cross_key", "cross_value")
            k, v = (self.get_variable("cache", name) for name in names)
            return k, v
        k, v = self._heads(self.key(source)), self._heads(self.value(source))
        if self.has_variable("cache", "cross_key"):
            self.put_variable("cache", "cross_key", k)
            self.put_variable("cache", "cross_value", v)
        return k, v


class ResidualOutput(nn.Module):
    """`LayerNorm(residual + dropout(dense(x)))`: how attention and feed-forward both end."""

    config: Any
    dtype: Any = jnp.float32

    def setup(self):
        self.dense = dense(self.config, self.config.hidden_size, self.dtype)
        self.LayerNorm = layer_norm(self.config, self.dtype)
        self.dropout = Dropout(self.config.hidden_dropout_prob)

    def __call__(self, x: Array, residual: Array, *, deterministic: bool = True) -> Array:
        return self.LayerNorm(residual + self.dropout(self.dense(x), deterministic=deterministic))


class BigBirdAttention(nn.Module):
    """Attention with its output projection, residual and LayerNorm."""

    config: Any
    layer: int = 0
    cross: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        self.self = BigBirdSelfAttention(self.config, self.layer, self.cross, self.dtype)
        self.output = ResidualOutput(self.config, self.dtype)

    def __call__(self, x, mask, head_mask, source, call: Call, reading: Reading = NOTHING_SAID):
        context, probabilities = self.self(x, mask, head_mask, source, call, reading)
        return self.output(context, x, deterministic=call.deterministic), probabilities
