"""Beam search, which compares continuations by their length-normalized score.

    score of n tokens = sum of log probabilities / n ** length_penalty

Each step extends the K running beams of an example by every token, and keeps the best candidates.
Candidates that end are compared with the finished beams so far; the others continue. The rules are
those of `transformers` 5, so that the same weights generate the same tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from flax_bigbird.generation.decoder import Decoder, Prompt
from flax_bigbird.generation.decoding_options import DecodingOptions, Scalars
from flax_bigbird.generation.logits_processors import History, process_logits, token_mask

_EXCLUDED = -1e9  # added to the score of candidates that must not be selected


class Beams(NamedTuple):
    """The state of the search: K beams of each of B examples.

    Attributes:
      num_new: The number of tokens that have been generated.
      running: The running continuations, best first.
      running_scores: Their summed log probabilities.
      finished: The finished continuations, best first.
      finished_scores: Their length-normalized scores.
      is_finished: Whether a finished continuation exists in that slot.
      can_improve: Whether the finished continuations of the example may still improve.
      stop: Whether no example can improve any more.
    """

    num_new: Int[Array, ""]
    running: Int[Array, "B K S"]
    running_scores: Float[Array, "B K"]
    finished: Int[Array, "B K S"]
    finished_scores: Float[Array, "B K"]
    is_finished: Bool[Array, "B K"]
    can_improve: Bool[Array, "B 1"]
    stop: Bool[Array, ""]


def generate(
    decoder: Decoder,
    prompt: Prompt,
    options: DecodingOptions,
    scalars: Scalars,
    custom_processors: tuple[Callable[..., Array], ...] = (),
) -> tuple[Int[Array, "sequences S"], Float[Array, " sequences"]]:
    """Returns the best `num_return_sequences` continuations of each prompt, and their scores.

    Args:
      decoder: The model.
      prompt: The prompts.
      options: The static options.
      scalars: The values of the options that are traced.
      custom_processors: The caller's own logits processors.
    """
    num_beams = options.num_beams
    scores, state = decoder.prefill()
    state = decoder.repeat(state, num_beams)
    beams = _initial_beams(scores.shape[0], options)
    prompt = prompt._replace(
        tokens=jnp.repeat(prompt.tokens, num_beams, axis=0),
        first_slot=jnp.repeat(prompt.first_slot, num_beams, axis=0),
    )

    def extend(scores, state, beams):
        beams, rows, tokens = _extend(scores, beams, prompt, options, scalars, custom_processors)
        return beams, decoder.reorder(state, rows), tokens

    def body(carry):
        beams, state, tokens = carry
        scores, state = decoder.step(state, tokens)
        return extend(scores, state, beams)

    first = extend(jnp.repeat(scores, num_beams, axis=0), state, beams)
    beams, _, _ = lax.while_loop(lambda carry: ~carry[0].stop, body, first)
    num_returned = options.num_return_sequences
    best = beams.finished[:, :num_returned]
    best = best.reshape(best.shape[0] * num_returned, -1)
    return best, beams.finished_scores[:, :num_returned].reshape(-1)


def _initial_beams(batch: int, options: DecodingOptions) -> Beams:
    num_beams = options.num_beams
    empty = jnp.full((batch, num_beams, options.max_slots), options.pad_token_id, jnp.int32)
    excluded = jnp.full((batch, num_beams), _EXCLUDED, jnp.float32)
    return Beams(
        num_new=jnp.zeros((), jnp.int32),
        running=empty,
        # All beams are equal before the first token, so all but one are excluded.
        running_scores=excluded.at[:, 0].set(0),
        finished=empty,
        finished_scores=excluded,
        is_finished=jnp.zeros((batch, num_beams), bool),
        can_improve=jnp.ones((batch, 1), bool),
        stop=jnp.zeros((), bool),
    )


def _extend(
    scores: Float[Array, "BK V"],
    beams: Beams,
    prompt: Prompt,
    options: DecodingOptions,
    scalars: Scalars,
    custom_processors: tuple[Callable[..., Array], ...],
) -> tuple[Beams, Int[Array, " BK"], Int[Array, " BK"]]:
    """Performs one step of every example.

    Returns:
      The new beams, the rows that the running beams continue from, and their last tokens.
    """
    batch, num_beams, _ = beams.running.shape
    num_new = beams.num_new + 1
    scores = _processed_log_probabilities(
        scores, beams, prompt, options, scalars, custom_processors
    )
    vocab_size = scores.shape[-1]
    total = scores.reshape(batch, num_beams, vocab_size) + beams.running_scores[..., None]

    # With this many candidates, K remain even if every end token ends each beam once.
    num_candidates = max(2, 1 + len(options.eos_token_ids)) * num_beams
    total, choice = lax.top_k(total.reshape(batch, -1), min(num_candidates, num_beams * vocab_size))
    parent, token = choice // vocab_size, (choice % vocab_size).astype(jnp.int32)
    ends = jnp.asarray(token_mask(options.eos_token_ids, vocab_size))[token] | (
        num_new == prompt.max_new_tokens
    )
    candidates = _take(beams.running, parent)
    candidates = lax.dynamic_update_slice_in_dim(candidates, token[..., None], beams.num_new, 2)

    running_scores, order = lax.top_k(total + _penalty(ends), num_beams)
    running, parent, token = (_take(x, order) for x in (candidates, parent, token))
    rows = (jnp.arange(batch)[:, None] * num_beams + parent).reshape(-1)
    updated = _update_finished(
        beams._replace(num_new=num_new, running=running, running_scores=running_scores),
        candidates,
        total,
        ends,
        prompt,
        options,
        scalars,
    )
    return updated, rows, token.reshape(-1)


def _processed_log_probabilities(
    scores: Float[Array, "BK V"],
    beams: Beams,
    prompt: Prompt,
    options: DecodingOptions,
    scalars: Scalars,
    custom_processors: tuple[Callable[..., Array], ...],
) -> Float[Array, "BK V"]:
    """Returns the log probabilities of the next token after the logits processors."""
    running = beams.running.reshape(scores.shape[0], -1)
    history = History(
        jnp.concatenate([prompt.tokens, running], axis=1),
        prompt.first_slot,
        prompt.tokens.shape[1] + beams.num_new,
        beams.num_new,
        prompt.max_new_tokens,
    )
    scores = jax.nn.log_softmax(scores.astype(jnp.float32), axis=-1)
    return process_logits(scores, history, options, scalars, custom_processors)


def _update_finished(
    beams: Beams,
    candidates: Int[Array, "B C S"],
    total: Float[Array, "B C"],
    ends: Bool[Array, "B C"],
    prompt: Prompt,
    options: DecodingOptions,
    scalars: Scalars,
) -> Beams:
    """Adds the candidates that end to the finished beams, and decides whether to stop.

    Args:
      beams: The beams after this step, with the finished beams of the step before.
      candidates: The candidates of this step, best first.
      total: Their summed log probabilities.
      ends: Whether they end.
      prompt: The prompts.
      options: The static options.
      scalars: The values of the options that are traced.
    """
    num_beams = options.num_beams
    early = options.early_stopping is True
    length_penalty = scalars["length_penalty"]
    normalized = total / beams.num_new.astype(jnp.float32) ** length_penalty
    is_new = ends & (jnp.arange(ends.shape[1]) < num_beams)
    closed = ~beams.can_improve | (beams.is_finished.all(1, keepdims=True) & early)
    normalized = normalized + _penalty(closed) + _penalty(~is_new)
    finished_scores, order = lax.top_k(
        jnp.concatenate([beams.finished_scores, normalized], 1), num_beams
    )
    finished = _take(jnp.concatenate([beams.finished, candidates], 1), order)
    is_finished = _take(jnp.concatenate([beams.is_finished, is_new], 1), order)

    # The best score that a running beam can still reach, compared with the worst finished one.
    length = beams.num_new
    if options.early_stopping == "never":
        length = jnp.where(length_penalty > 0, prompt.max_new_tokens, beams.num_new)
    reachable = beams.running_scores[:, :1] / length.astype(jnp.float32) ** length_penalty
    worst = jnp.where(is_finished, finished_scores.min(1, keepdims=True), _EXCLUDED)
    can_improve = beams.can_improve & (reachable > worst).any(1, keepdims=True)
    stop = ~can_improve.any() | (is_finished.all() & early) | ends.all()
    return beams._replace(
        finished=finished,
        finished_scores=finished_scores,
        is_finished=is_finished,
        can_improve=can_improve,
        stop=stop,
    )


def _penalty(excluded: Bool[Array, "B C"]) -> Float[Array, "B C"]:
    """Returns what to add to scores so that candidates are excluded."""
    return excluded.astype(jnp.float32) * _EXCLUDED


def _take(x: Shaped[Array, "B C ..."], order: Int[Array, "B J"]) -> Shaped[Array, "B J ..."]:
    """Selects entries of the second axis, with separate indices for each example."""
    return jax.vmap(lambda entries, indices: entries[indices])(x, order)
