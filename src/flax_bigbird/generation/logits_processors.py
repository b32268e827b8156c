"""Logits processors: pure functions that change the scores `[B, V]` of the next token.

A score of `-inf` forbids a token. The processors run in the order of `transformers` 5, which
decides the result where they conflict.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.generation.decoding_options import DecodingOptions, Scalars

Scores = Float[Array, "B V"]


class History(NamedTuple):
    """The tokens so far.

    Attributes:
      tokens: The prompt and the continuation; slots from `next_slot` on are unused.
      first_slot: The slot of the first real token of each prompt; slots before it are padding.
      next_slot: The slot of the next token.
      num_new: The number of tokens that have been generated.
      max_new_tokens: The number of tokens that will be generated at most.
    """

    tokens: Int[Array, "B S"]
    first_slot: Int[Array, " B"]
    next_slot: Int[Array, ""]
    num_new: Int[Array, ""]
    max_new_tokens: Int[Array, ""]

    @property
    def is_used(self) -> Bool[Array, "B S"]:
        """True at the real tokens of each example."""
        slots = jnp.arange(self.tokens.shape[1])
        return (slots >= self.first_slot[:, None]) & (slots < self.next_slot)


def process_logits(
    scores: Scores,
    history: History,
    options: DecodingOptions,
    scalars: Scalars,
    custom_processors: tuple[Callable[..., Array], ...] = (),
) -> Scores:
    """Applies the processors that the options select, the caller's own, and those of sampling.

    Args:
      scores: The scores of the next token.
      history: The tokens so far.
      options: The static options.
      scalars: The values of the options that are traced.
      custom_processors: Functions `(tokens, scores, length) -> scores`.
    """
    vocab_size = scores.shape[-1]
    if "repetition_penalty" in options.active:
        scores = penalize_repetition(scores, history, scalars["repetition_penalty"])
    if options.no_repeat_ngram_size:
        scores = forbid_repeated_ngrams(scores, history, options.no_repeat_ngram_size)
    for word in options.bad_words_ids:
        scores = forbid_word(scores, history, word)
    if "min_new_tokens" in options.active:
        too_short = history.num_new < jnp.asarray(scalars["min_new_tokens"], jnp.int32)
        is_end = token_mask(options.eos_token_ids, vocab_size)
        scores = jnp.where(too_short & is_end, -jnp.inf, scores)
    if options.forced_bos_token_id is not None:
        forced = force_token(options.forced_bos_token_id, vocab_size)
        scores = jnp.where(history.num_new == 0, forced, scores)
    if options.forced_eos_token_id is not None:
        is_last = history.num_new == history.max_new_tokens - 1
        scores = jnp.where(is_last, force_token(options.forced_eos_token_id, vocab_size), scores)
    if options.suppress_tokens:
        scores = jnp.where(token_mask(options.suppress_tokens, vocab_size), -jnp.inf, scores)
    if options.begin_suppress_tokens:
        is_begin = history.num_new == options.begin_index
        suppressed = token_mask(options.begin_suppress_tokens, vocab_size)
        scores = jnp.where(is_begin & suppressed, -jnp.inf, scores)
    for processor in custom_processors:
        scores = processor(history.tokens, scores, history.next_slot)
    return _warp_for_sampling(scores, options, scalars)


def _warp_for_sampling(scores: Scores, options: DecodingOptions, scalars: Scalars) -> Scores:
    """Applies temperature, top-k, top-p and min-p."""
    if "temperature" in options.active:
        scores = scores / scalars["temperature"]
    if options.top_k:
        scores = keep_top_k(scores, options.top_k)
    if "top_p" in options.active:
        scores = keep_top_p(scores, scalars["top_p"])
    if "min_p" in options.active:
        scores = keep_min_p(scores, scalars["min_p"])
    return scores


def penalize_repetition(
    scores: Scores, history: History, penalty: Float[Array, ""] | float
) -> Scores:
    """Penalizes the tokens of the history.

    Positive scores are divided by the penalty, negative ones multiplied by it.
    """
    examples = jnp.arange(scores.shape[0])[:, None]
    seen = jnp.zeros(scores.shape, bool)
    seen = seen.at[examples, history.tokens].max(history.is_used, mode="drop")
    return jnp.where(seen, jnp.where(scores < 0, scores * penalty, scores / penalty), scores)


def forbid_repeated_ngrams(scores: Scores, history: History, size: int) -> Scores:
    """Forbids tokens that would complete an n-gram of the history for a second time."""
    tokens, next_slot, first_slot = history.tokens, history.next_slot, history.first_slot[:, None]
    matches = history.is_used  # at the last token of each earlier n-gram
    slots = jnp.arange(tokens.shape[1])
    for distance in range(1, size):
        # Compares the token `distance` slots earlier with the one `distance` slots before the next.
        earlier = jnp.roll(tokens, distance, axis=1)
        newest = jnp.take(tokens, jnp.maximum(next_slot - distance, 0), axis=1)[:, None]
        inside = (slots - distance >= first_slot) & (next_slot - distance >= first_slot)
        matches = matches & (earlier == newest) & inside
    examples = jnp.arange(tokens.shape[0])[:, None]
    banned = jnp.zeros(scores.shape, bool).at[examples, tokens].max(matches, mode="drop")
    return jnp.where(banned, -jnp.inf, scores)


def forbid_word(scores: Scores, history: History, word: tuple[int, ...]) -> Scores:
    """Forbids the last token of a word where the history ends with the tokens before it."""
    completes = jnp.ones(scores.shape[0], bool)
    for distance, token in enumerate(reversed(word[:-1]), start=1):
        slot = history.next_slot - distance
        previous = jnp.take(history.tokens, jnp.maximum(slot, 0), axis=1)
        completes = completes & (previous == token) & (slot >= history.first_slot)
    banned = completes[:, None] & token_mask(word[-1:], scores.shape[-1])
    return jnp.where(banned, -jnp.inf, scores)


def keep_top_k(scores: Scores, k: int) -> Scores:
    """Keeps the k largest scores, and those that are equal to the k-th."""
    return jnp.where(scores < jax.lax.top_k(scores, k)[0][:, -1:], -jnp.inf, scores)


def keep_top_p(scores: Scores, p: Float[Array, ""] | float) -> Scores:
    """Keeps the fewest most probable tokens whose probabilities sum to p, at least one."""
    ascending = jnp.sort(scores, axis=-1)
    cumulative = jnp.cumsum(jax.nn.softmax(ascending, axis=-1), axis=-1)
    kept = (cumulative > 1 - p).at[:, -1].set(True)
    threshold = jnp.min(jnp.where(kept, ascending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(scores < threshold, -jnp.inf, scores)


def keep_min_p(scores: Scores, p: Float[Array, ""] | float) -> Scores:
    """Keeps tokens that are at least p times as probable as the most probable one."""
    probabilities = jax.nn.softmax(scores, axis=-1)
    return jnp.where(probabilities < p * probabilities.max(-1, keepdims=True), -jnp.inf, scores)


def token_mask(ids: tuple[int, ...], vocab_size: int) -> Bool[np.ndarray, " V"]:
    """Returns a mask that is True at the ids."""
    mask = np.zeros(vocab_size, bool)
    mask[list(ids)] = True
    return mask


def force_token(token_id: int, vocab_size: int) -> Float[np.ndarray, " V"]:
    """Returns scores that allow only one token."""
    return np.where(token_mask((token_id,), vocab_size), 0, -np.inf).astype(np.float32)
