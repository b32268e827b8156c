"""The heads' own bodies: language modelling, classification, question answering."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_bigbird.nn.activations import activation
from flax_bigbird.nn.attention import ResidualOutput
from flax_bigbird.nn.dropout import Dropout
from flax_bigbird.nn.embeddings import layer_norm
from flax_bigbird.nn.layers import Intermediate


def classifier_dropout(config: Any) -> float:
    """`classifier_dropout`, else `hidden_dropout_prob`."""
    rate = config.classifier_dropout
    return config.hidden_dropout_prob if rate is None else rate


class PredictionTransform(nn.Module):
    """`LayerNorm(activation(dense(x)))`."""

    config: Any
    dtype: Any = jnp.float32

    def setup(self):
        self.dense = nn.Dense(self.config.hidden_size, dtype=self.dtype)
        self.LayerNorm = layer_norm(self.config, self.dtype)

    def __call__(self, x: Array) -> Array:
        return self.LayerNorm(activation(self.config.hidden_act)(self.dense(x)))


class LanguageModelHead(nn.Module):
    """Logits over the vocabulary; the decoder is the word table unless embeddings are untied."""

    config: Any
    dtype: Any = jnp.float32

    def setup(self):
        self.transform = PredictionTransform(self.config, self.dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (self.config.vocab_size,))
        self.decoder = nn.Dense(self.config.vocab_size, use_bias=False, dtype=self.dtype)

    def __call__(self, x: Float[Array, "B T D"], words: nn.Embed) -> Float[Array, "B T V"]:
        x = self.transform(x)
        if self.config.tie_word_embeddings:
            # Not `words.attend`, whose transposed table XLA copies at every call on CPUs.
            x = jnp.einsum("...d,vd->...v", x, words.embedding.astype(x.dtype))
        else:
            x = self.decoder(x)
        return _add_bias(x, jnp.asarray(self.bias, x.dtype))


@jax.custom_vjp
def _add_bias(x: Float[Array, "... V"], bias: Float[Array, " V"]) -> Float[Array, "... V"]:
    """`x + bias`. Its gradient is summed by a matmul: XLA's sum over the rows of logits takes four
    times as long on a CPU."""
    return x + bias


def _add_bias_backward(_, d_out: Array) -> tuple[Array, Array]:
    rows = d_out.reshape(-1, d_out.shape[-1])
    return d_out, (jnp.ones((1, rows.shape[0]), rows.dtype) @ rows)[0]


_add_bias.defvjp(lambda x, bias: (x + bias, None), _add_bias_backward)


class PreTrainingHeads(nn.Module):
    """The language-model head and, for pretraining, the next-sentence one."""

    config: Any
    next_sentence: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        self.predictions = LanguageModelHead(self.config, self.dtype)
        if self.next_sentence:
            self.seq_relationship = nn.Dense(2, dtype=self.dtype)

    def __call__(self, x: Array, words: nn.Embed) -> Array:
        return self.predictions(x, words)


class ClassificationHead(nn.Module):
    """First token -> dropout -> dense -> activation -> dropout -> `num_labels` logits."""

    config: Any
    dtype: Any = jnp.float32

    def setup(self):
        self.dense = nn.Dense(self.config.hidden_size, dtype=self.dtype)
        self.out_proj = nn.Dense(self.config.num_labels, dtype=self.dtype)
        self.dropout = Dropout(classifier_dropout(self.config))

    def __call__(self, x: Float[Array, "B T D"], *, deterministic: bool = True) -> Array:
        x = self.dropout(x[:, 0], deterministic=deterministic)
        x = activation(self.config.hidden_act)(self.dense(x))
        return self.out_proj(self.dropout(x, deterministic=deterministic))


class QuestionAnsweringHead(nn.Module):
    """Dropout, a feed-forward block around the undropped states, two logits a token."""

    config: Any
    dtype: Any = jnp.float32

    def setup(self):
        self.dropout = Dropout(self.config.hidden_dropout_prob)
        self.intermediate = Intermediate(self.config, self.dtype)
        self.output = ResidualOutput(self.config, self.dtype)
        self.qa_outputs = nn.Dense(2, dtype=self.dtype)

    def __call__(self, x: Float[Array, "B T D"], *, deterministic: bool = True) -> Array:
        inner = self.intermediate(self.dropout(x, deterministic=deterministic))
        return self.qa_outputs(self.output(inner, x, deterministic=deterministic))
