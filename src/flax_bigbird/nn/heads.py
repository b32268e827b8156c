"""The modules of the task heads: language modeling, classification and question answering."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.attention import vary_together
from flax_bigbird.nn.activations import activation
from flax_bigbird.nn.attention import ResidualOutput
from flax_bigbird.nn.dropout import Dropout
from flax_bigbird.nn.embeddings import layer_norm
from flax_bigbird.nn.fused_losses import fused_cross_entropy
from flax_bigbird.nn.layers import Intermediate


def classifier_dropout(config: Any) -> float:
    """Returns `config.classifier_dropout`, or `config.hidden_dropout_prob` if that is None."""
    rate = config.classifier_dropout
    return config.hidden_dropout_prob if rate is None else rate


class PredictionTransform(nn.Module):
    """Computes `LayerNorm(activation(dense(x)))`."""

    config: Any
    dtype: Any = jnp.float32

    def setup(self):
        self.dense = nn.Dense(self.config.hidden_size, dtype=self.dtype)
        self.LayerNorm = layer_norm(self.config, self.dtype)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Returns the transformed hidden states."""
        return self.LayerNorm(activation(self.config.hidden_act)(self.dense(x)))


class LanguageModelHead(nn.Module):
    """Computes logits over the vocabulary from the hidden states.

    The output matrix is the word embedding table if `config.tie_word_embeddings` is True, and the
    module's own `decoder` otherwise.
    """

    config: Any
    dtype: Any = jnp.float32

    def setup(self):
        self.transform = PredictionTransform(self.config, self.dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (self.config.vocab_size,))
        self.decoder = nn.Dense(self.config.vocab_size, use_bias=False, dtype=self.dtype)

    def __call__(
        self, x: Float[Array, "B T D"], word_embeddings: nn.Embed
    ) -> Float[Array, "B T V"]:
        """Returns the logits."""
        x = self.transform(x)
        if self.config.tie_word_embeddings:
            # `word_embeddings.attend` transposes the table, which XLA copies in every call on CPUs.
            x = jnp.einsum("...d,vd->...v", x, word_embeddings.embedding.astype(x.dtype))
        else:
            x = self.decoder(x)
        return _add_bias(*vary_together(x, jnp.asarray(self.bias, x.dtype)))

    def loss(
        self, x: Float[Array, "B T D"], word_embeddings: nn.Embed, labels: Int[Array, "B T"]
    ) -> Float[Array, ""]:
        """Returns the mean cross-entropy of the labels, without the logits of all tokens."""
        x = self.transform(x)
        if self.config.tie_word_embeddings:
            matrix = word_embeddings.embedding
        else:
            matrix = self.decoder.variables["params"]["kernel"].T
        return fused_cross_entropy(x, matrix, labels, self.bias)


@jax.custom_vjp
def _add_bias(x: Float[Array, "... V"], bias: Float[Array, " V"]) -> Float[Array, "... V"]:
    """Returns `x + bias`; a matmul sums the gradient of the bias.

    XLA's reduction over the rows of the logits takes four times as long on a CPU.
    """
    return x + bias


def _add_bias_backward(_, d_out: Array) -> tuple[Array, Array]:
    rows = d_out.reshape(-1, d_out.shape[-1])
    return d_out, (jnp.ones((1, rows.shape[0]), rows.dtype) @ rows)[0]


_add_bias.defvjp(lambda x, bias: (x + bias, None), _add_bias_backward)


class PreTrainingHeads(nn.Module):
    """The language-model head and, if `next_sentence` is True, the next-sentence head."""

    config: Any
    next_sentence: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        self.predictions = LanguageModelHead(self.config, self.dtype)
        if self.next_sentence:
            self.seq_relationship = nn.Dense(2, dtype=self.dtype)

    def __call__(
        self, x: Float[Array, "B T D"], word_embeddings: nn.Embed
    ) -> Float[Array, "B T V"]:
        """Returns the logits of the language-model head."""
        return self.predictions(x, word_embeddings)

    def loss(
        self, x: Float[Array, "B T D"], word_embeddings: nn.Embed, labels: Int[Array, "B T"]
    ) -> Float[Array, ""]:
        """Returns the loss of the language-model head."""
        return self.predictions.loss(x, word_embeddings, labels)


class ClassificationHead(nn.Module):
    """Computes `num_labels` logits from the first token.

    The order is dropout, dense, activation, dropout, output projection.
    """

    config: Any
    dtype: Any = jnp.float32

    def setup(self):
        self.dense = nn.Dense(self.config.hidden_size, dtype=self.dtype)
        self.out_proj = nn.Dense(self.config.num_labels, dtype=self.dtype)
        self.dropout = Dropout(classifier_dropout(self.config))

    def __call__(
        self, x: Float[Array, "B T D"], *, deterministic: bool = True
    ) -> Float[Array, "B labels"]:
        """Returns the logits."""
        x = self.dropout(x[:, 0], deterministic=deterministic)
        x = activation(self.config.hidden_act)(self.dense(x))
        return self.out_proj(self.dropout(x, deterministic=deterministic))


class MeanPoolingHead(nn.Module):
    """Computes `num_labels` logits from the mean of the hidden states.

    The order is mean, dropout, output projection. Without a layer between the mean and the
    projection, a linear classifier of the means is such a head exactly, and the logits of a
    document in several windows are the mean of theirs, weighted by their numbers of tokens.

    The rate of dropout is `config.classifier_dropout`, and 0 if that is None, where the heads of
    `transformers` fall back to `config.hidden_dropout_prob`: means over many tokens differ little
    between documents, so that a coordinate set to 0 changes the logits more than the document does.
    """

    config: Any
    dtype: Any = jnp.float32

    def setup(self):
        self.out_proj = nn.Dense(self.config.num_labels, dtype=self.dtype)
        self.dropout = Dropout(self.config.classifier_dropout or 0.0)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask: Bool[Array, "B T"] | None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B labels"]:
        """Returns the logits.

        Args:
          x: The hidden states.
          mask: True at the tokens to average; None for all.
          deterministic: Whether to disable dropout.
        """
        mean = masked_mean(x, mask)
        return self.out_proj(self.dropout(mean, deterministic=deterministic))


def masked_mean(x: Float[Array, "B T D"], mask: Bool[Array, "B T"] | None) -> Float[Array, "B D"]:
    """Returns the mean over the tokens where `mask` is True, summed in float32.

    Values elsewhere have no effect, even if they are not finite. Without any token, it is 0.
    """
    values = x.astype(jnp.float32)
    if mask is None:
        return values.mean(1).astype(x.dtype)
    total = jnp.where(mask[:, :, None], values, 0.0).sum(1)
    count = jnp.maximum(mask.sum(1, keepdims=True), 1).astype(jnp.float32)
    return (total / count).astype(x.dtype)


class QuestionAnsweringHead(nn.Module):
    """Computes a start logit and an end logit for every token.

    Dropout is applied to the input of the feed-forward block, but not to its residual connection.
    """

    config: Any
    dtype: Any = jnp.float32

    def setup(self):
        self.dropout = Dropout(self.config.hidden_dropout_prob)
        self.intermediate = Intermediate(self.config, self.dtype)
        self.output = ResidualOutput(self.config, self.dtype)
        self.qa_outputs = nn.Dense(2, dtype=self.dtype)

    def __call__(
        self, x: Float[Array, "B T D"], *, deterministic: bool = True
    ) -> Float[Array, "B T 2"]:
        """Returns the logits."""
        inner = self.intermediate(self.dropout(x, deterministic=deterministic))
        return self.qa_outputs(self.output(inner, x, deterministic=deterministic))
