"""Rules that change the scores of the next token: pure functions, `[B, V]` in and out.

`-inf` forbids a token. The order is that of `transformers` 5, which decides where rules collide.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.generation.options import Options

Scores = Float[Array, "B V"]


class History(NamedTuple):
    """What has been written so far.

    Attributes:
      tokens: `[B, S]`, prompt and continuation; behind `slot` nothing has been written yet.
      first: `[B]`, slot of each prompt's first real token; what lies before it is padding.
      slot: where the next token goes.
      new: how many tokens have been generated.
      limit: how many will be at most.
    """

    tokens: Int[Array, "B S"]
    first: Int[Array, " B"]
    slot: Int[Array, ""]
    new: Int[Array, ""]
    limit: Int[Array, ""]

    @property
    def written(self) -> Bool[Array, "B S"]:
        """True on the document's own tokens."""
        slots = jnp.arange(self.tokens.shape[1])
        return (slots >= self.first[:, None]) & (slots < self.slot)


def process(
    scores: Scores,
    history: History,
    options: Options,
    numbers: dict[str, Array],
    custom: tuple[Callable[..., Array], ...] = (),
) -> Scores:
    """All rules that are on, then the caller's own, then those of sampling."""
    vocabulary = scores.shape[-1]
    if "repetition_penalty" in options.active:
        scores = penalise_repetition(scores, history, numbers["repetition_penalty"])
    if options.no_repeat_ngram_size:
        scores = forbid_repeated_ngrams(scores, history, options.no_repeat_ngram_size)
    for word in options.bad_words:
        scores = forbid_word(scores, history, word)
    if "min_new_tokens" in options.active:
        early = history.new < numbers["min_new_tokens"]
        scores = jnp.where(early & one_of(options.eos, vocabulary), -jnp.inf, scores)
    if options.forced_bos is not None:
        scores = jnp.where(history.new == 0, only(options.forced_bos, vocabulary), scores)
    if options.forced_eos is not None:
        last = history.new == history.limit - 1
        scores = jnp.where(last, only(options.forced_eos, vocabulary), scores)
    if options.suppressed:
        scores = jnp.where(one_of(options.suppressed, vocabulary), -jnp.inf, scores)
    if options.begin_suppressed:
        here = history.new == options.begin_at
        scores = jnp.where(here & one_of(options.begin_suppressed, vocabulary), -jnp.inf, scores)
    for function in custom:
        scores = function(history.tokens, scores, history.slot)
    if "temperature" in options.active:
        scores = scores / numbers["temperature"]
    if options.top_k:
        scores = keep_top_k(scores, options.top_k)
    if "top_p" in options.active:
        scores = keep_top_p(scores, numbers["top_p"])
    if "min_p" in options.active:
        scores = keep_min_p(scores, numbers["min_p"])
    return scores


def penalise_repetition(scores: Scores, history: History, penalty: Array) -> Scores:
    """Scores of tokens in the history: divided by the penalty above 0, multiplied below."""
    rows = jnp.arange(scores.shape[0])[:, None]
    seen = jnp.zeros(scores.shape, bool)
    seen = seen.at[rows, history.tokens].max(history.written, mode="drop")
    return jnp.where(seen, jnp.where(scores < 0, scores * penalty, scores / penalty), scores)


def forbid_repeated_ngrams(scores: Scores, history: History, size: int) -> Scores:
    """Forbids what would complete an n-gram of the history for a second time."""
    tokens, slot = history.tokens, history.slot
    length = tokens.shape[1]
    matches = history.written  # at the last token of each earlier n-gram
    slots = jnp.arange(length)
    for back in range(1, size):
        # The token `back` places before, compared with the one `back` before the next.
        earlier = jnp.roll(tokens, back, axis=1)
        newest = jnp.take(tokens, jnp.maximum(slot - back, 0), axis=1)[:, None]
        inside = (slots - back >= history.first[:, None]) & (slot - back >= history.first[:, None])
        matches = matches & (earlier == newest) & inside
    rows = jnp.arange(tokens.shape[0])[:, None]
    banned = jnp.zeros(scores.shape, bool).at[rows, tokens].max(matches, mode="drop")
    return jnp.where(banned, -jnp.inf, scores)


def forbid_word(scores: Scores, history: History, word: tuple[int, ...]) -> Scores:
    """Forbids the word's last token where the history ends with those before it."""
    completes = jnp.ones(scores.shape[0], bool)
    for back, token in enumerate(reversed(word[:-1]), start=1):
        at = history.slot - back
        here = jnp.take(history.tokens, jnp.maximum(at, 0), axis=1)
        completes = completes & (here == token) & (at >= history.first)
    banned = completes[:, None] & one_of(word[-1:], scores.shape[-1])
    return jnp.where(banned, -jnp.inf, scores)


def keep_top_k(scores: Scores, k: int) -> Scores:
    """The k largest scores, and those that equal the k-th."""
    return jnp.where(scores < jax.lax.top_k(scores, k)[0][:, -1:], -jnp.inf, scores)


def keep_top_p(scores: Scores, p: Array) -> Scores:
    """The fewest tokens whose probabilities reach p, the likeliest first; at least one."""
    ascending = jnp.sort(scores, axis=-1)
    below = jnp.cumsum(jax.nn.softmax(ascending, axis=-1), axis=-1)
    kept = (below > 1 - p).at[:, -1].set(True)
    least = jnp.min(jnp.where(kept, ascending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(scores < least, -jnp.inf, scores)


def keep_min_p(scores: Scores, p: Array) -> Scores:
    """Tokens at least p times as likely as the likeliest."""
    probabilities = jax.nn.softmax(scores, axis=-1)
    return jnp.where(probabilities < p * probabilities.max(-1, keepdims=True), -jnp.inf, scores)


def one_of(ids: tuple[int, ...], vocabulary: int) -> np.ndarray:
    """True at the ids, `[V]`."""
    out = np.zeros(vocabulary, bool)
    out[list(ids)] = True
    return out


def only(token: int, vocabulary: int) -> np.ndarray:
    """Scores that leave one token, `[V]`."""
    return np.where(one_of((token,), vocabulary), 0, -np.inf).astype(np.float32)
