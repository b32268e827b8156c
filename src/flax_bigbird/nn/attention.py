"""Multi-head attention: full or block-sparse self-attention, cross-attention, key-value cache."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention import block_sparse_attention, full_attention, reference
from flax_bigbird.nn.context import Call
from flax_bigbird.nn.embeddings import dense, layer_norm
from flax_bigbird.nn.patterns import call_pattern, layer_pattern, uses_full_attention


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
        width = config.hidden_size
        self.query = dense(config, width, self.dtype, use_bias=config.use_bias)
        self.key = dense(config, width, self.dtype, use_bias=config.use_bias)
        self.value = dense(config, width, self.dtype, use_bias=config.use_bias)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask: Bool[Array, "B S"] | None,
        head_mask: Float[Array, " N"] | None,
        source: Float[Array, "B S D"] | None,
        call: Call,
        chosen: Bool[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N T S"] | None]:
        """`(context, probabilities or None)`; `mask` is over keys, `source` gives them.

        The blocks of `chosen` tokens are global too.
        """
        source = x if source is None else source
        q = self._heads(self.query(x))
        k, v = self._heads(self.key(source)), self._heads(self.value(source))
        caching = not self.cross and (call.init_cache or self.has_variable("cache", "cached_key"))
        if caching:
            context, probabilities = self._attend_cached(q, k, v, mask, call)
        elif self.cross or uses_full_attention(self.config, x.shape[1]):
            context, probabilities = self._attend_full(q, k, v, mask, call)
        else:
            context, probabilities = self._attend_sparse(q, k, v, mask, call, chosen)
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

    def _attend_sparse(self, q, k, v, mask, call: Call, chosen=None):
        key = None
        if not call.deterministic and self.has_rng("indices"):
            key = self.make_rng("indices")
        pattern, undefined = call_pattern(
            self.config,
            self.layer,
            q.shape[1],
            mask=mask,
            chosen=chosen,
            train=not call.deterministic,
            key=key,
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
        probabilities = reference.attention_probabilities(
            q, k, pattern, mask=real, scale=1 / math.sqrt(q.shape[-1])
        )
        length = context.shape[1]
        return context, probabilities[:, :, :length, :length].astype(context.dtype)

    @nn.compact
    def _cache(self, k: Array, v: Array) -> tuple[nn.Variable, nn.Variable, nn.Variable]:
        """Keys and values of every position so far, and how many there are."""
        keys = self.variable("cache", "cached_key", jnp.zeros, k.shape, k.dtype)
        values = self.variable("cache", "cached_value", jnp.zeros, v.shape, v.dtype)
        index = self.variable("cache", "cache_index", jnp.zeros, (), jnp.int32)
        return keys, values, index

    def _attend_cached(self, q, k, v, mask, call: Call):
        """Attends to the cache after writing the new keys at its index; `mask` is [B, S] of it."""
        if not self.config.is_decoder:
            raise ValueError(
                "a key-value cache needs a causal model: set config.is_decoder=True "
                "(got is_decoder=False)"
            )
        fresh = not self.has_variable("cache", "cached_key")
        keys, values, index = self._cache(k, v)
        start = index.value
        if not fresh:
            at = (0, start, 0, 0)
            keys.value = lax.dynamic_update_slice(keys.value, k.astype(keys.value.dtype), at)
            values.value = lax.dynamic_update_slice(values.value, v.astype(values.value.dtype), at)
            index.value = start + q.shape[1]
        size = keys.value.shape[1]
        queries = start + jnp.arange(q.shape[1])
        weight = (jnp.arange(size) <= queries[:, None])[None, None].astype(jnp.float32)
        if self.config.attention_type == "block_sparse":
            # Row i of a decoder depends on i alone, so steps read what one shot reads.
            pattern = layer_pattern(self.config, self.layer, size, train=False)
            blocks, counts = jnp.asarray(pattern.blocks), jnp.asarray(pattern.counts)
            row = jnp.minimum(queries // pattern.block_size, pattern.num_blocks - 1)
            listed = blocks[:, :, row, :, None] == jnp.arange(pattern.num_blocks)
            table = (listed * counts[:, :, row, :, None]).sum(-2)
            weight = weight * jnp.repeat(table, pattern.block_size, -1)[..., :size]
        if mask is not None:
            weight = jnp.where(mask[:, None, None, :], weight, 0)
        return self._weighted(q, keys.value, values.value, weight, call)


class ResidualOutput(nn.Module):
    """`LayerNorm(residual + dropout(dense(x)))`: how attention and feed-forward both end."""

    config: Any
    dtype: Any = jnp.float32

    def setup(self):
        self.dense = dense(self.config, self.config.hidden_size, self.dtype)
        self.LayerNorm = layer_norm(self.config, self.dtype)
        self.dropout = nn.Dropout(self.config.hidden_dropout_prob)

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

    def __call__(self, x, mask, head_mask, source, call: Call, chosen=None):
        context, probabilities = self.self(x, mask, head_mask, source, call, chosen)
        return self.output(context, x, deterministic=call.deterministic), probabilities
