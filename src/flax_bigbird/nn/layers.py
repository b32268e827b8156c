"""The post-LayerNorm transformer layer and the stack of them."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flax_bigbird.attention import RESIDUALS
from flax_bigbird.nn.activations import activation
from flax_bigbird.nn.attention import BigBirdAttention, ResidualOutput
from flax_bigbird.nn.context import NOTHING_SAID, Call, Reading
from flax_bigbird.nn.embeddings import dense


class Intermediate(nn.Module):
    """`activation(dense(x))`, `[B, T, F]`."""

    config: Any
    dtype: Any = jnp.float32

    def setup(self):
        self.dense = dense(self.config, self.config.intermediate_size, self.dtype)

    def __call__(self, x: Array) -> Array:
        # Recomputed going backward: keeping what is inside costs more time than it saves, and room.
        return jax.checkpoint(activation(self.config.hidden_act))(self.dense(x))


# Tokens whose feed-forward states a CPU's shared cache holds: [1024, 3072] floats are 12 MiB.
ROWS_AT_ONCE = 1024


class BigBirdLayer(nn.Module):
    """Self-attention, cross-attention where the configuration has it, feed-forward."""

    config: Any
    layer: int = 0
    dtype: Any = jnp.float32

    def setup(self):
        self.attention = BigBirdAttention(self.config, self.layer, dtype=self.dtype)
        if self.config.add_cross_attention:
            self.crossattention = BigBirdAttention(
                self.config, self.layer, cross=True, dtype=self.dtype
            )
        self.intermediate = Intermediate(self.config, self.dtype)
        self.output = ResidualOutput(self.config, self.dtype)

    def __call__(
        self,
        x,
        mask,
        head_mask,
        encoder_states,
        encoder_mask,
        call: Call,
        reading: Reading = NOTHING_SAID,
    ):
        """`(x, self-attention probabilities, cross-attention probabilities)`, or None for each."""
        x, probabilities = self.attention(x, mask, head_mask, None, call, reading)
        cross_probabilities = None
        if encoder_states is not None:
            x, cross_probabilities = self.crossattention(
                x, encoder_mask, head_mask, encoder_states, call
            )
        return self._feed_forward(x, call), probabilities, cross_probabilities

    def _feed_forward(self, x: Float[Array, "B T D"], call: Call) -> Float[Array, "B T D"]:
        """On a CPU many tokens go in parts, a tenth faster: the wide states stay in its cache."""
        batch, length, width = x.shape
        parts = batch * length // ROWS_AT_ONCE
        if parts < 2 or self.is_initializing() or not _one_cpu():
            return self._feed_forward_at_once(x, call)

        def one_part(layer: "BigBirdLayer", carry: tuple[()], part: Array):
            return carry, layer._feed_forward_at_once(part, call)

        rows = x.reshape(-1, width)
        whole = parts * ROWS_AT_ONCE
        streams: Any = {"params": False, "dropout": True}
        over_parts = nn.scan(one_part, variable_broadcast="params", split_rngs=streams)
        _, out = over_parts(self, (), rows[:whole].reshape(parts, ROWS_AT_ONCE, width))
        out = out.reshape(whole, -1)
        if whole < len(rows):
            out = jnp.concatenate([out, self._feed_forward_at_once(rows[whole:], call)])
        return out.reshape(batch, length, -1)

    def _feed_forward_at_once(self, x: Array, call: Call) -> Array:
        return self.output(self.intermediate(x), x, deterministic=call.deterministic)


def _one_cpu() -> bool:
    """Whether there is one device, a CPU: over several, parts would cut across their shares."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


class EncoderResult(NamedTuple):
    """The last hidden states, and per layer what was asked for."""

    last_hidden_state: Array
    hidden_states: tuple[Array, ...]
    attentions: tuple[Array, ...]
    cross_attentions: tuple[Array, ...]


class LayerStack(nn.Module):
    """The layers, named by number; `gradient_checkpointing` recomputes them going backward.

    All of a layer if it is True; all but what attention computed if it is "attention".
    """

    config: Any
    dtype: Any = jnp.float32
    gradient_checkpointing: bool | str = False

    def setup(self):
        layer = BigBirdLayer
        if self.gradient_checkpointing:
            saved = [RESIDUALS] if self.gradient_checkpointing == "attention" else []
            policy = jax.checkpoint_policies.save_only_these_names(*saved)
            layer = nn.remat(BigBirdLayer, static_argnums=(6,), policy=policy)
        self.layers = [
            layer(self.config, i, self.dtype, name=str(i))
            for i in range(self.config.num_hidden_layers)
        ]

    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask: Bool[Array, "B T"] | None,
        head_mask: Float[Array, "L N"] | None,
        encoder_states: Float[Array, "B S D"] | None,
        encoder_mask: Bool[Array, "B S"] | None,
        call: Call,
        reading: Reading = NOTHING_SAID,
    ) -> EncoderResult:
        states, attentions, cross_attentions = [x], [], []
        for i, layer in enumerate(self.layers):
            layer_head_mask = None if head_mask is None else head_mask[i]
            x, probabilities, cross = layer(
                x, mask, layer_head_mask, encoder_states, encoder_mask, call, reading
            )
            states.append(x)
            attentions.append(probabilities)
            cross_attentions.append(cross)
        return EncoderResult(x, tuple(states), tuple(attentions), tuple(cross_attentions))


class BigBirdEncoder(nn.Module):
    """Holds the stack under the name that checkpoints give it, `encoder/layer`."""

    config: Any
    dtype: Any = jnp.float32
    gradient_checkpointing: bool | str = False

    def setup(self):
        self.layer = LayerStack(self.config, self.dtype, self.gradient_checkpointing)

    def __call__(self, *args) -> EncoderResult:
        return self.layer(*args)
