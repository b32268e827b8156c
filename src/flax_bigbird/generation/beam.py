"""Beam search: the likeliest continuations, kept and compared by length-normalised score.

    score of n tokens = sum of log probabilities / n ** length_penalty

Each step extends the K running beams of a document by every token and keeps the best candidates:
those that end are compared with the ended ones so far, the others run on. The rules are those of
`transformers` 5, so that the same weights give the same tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from flax_bigbird.generation.decoder import Decoder, Prompt
from flax_bigbird.generation.options import Options
from flax_bigbird.generation.processors import History, one_of, process

_OUT = -1e9  # added to the score of what must not be chosen


class Beams(NamedTuple):
    """Where the search stands; K beams of each of B documents.

    Attributes:
      running, ended: `[B, K, room]` continuations, best first, and their scores: of running beams
        the plain sum, of ended ones normalised.
      full: whether that ended beam is one; open: whether the document's may still improve.
      stop: nothing can be gained any more, in any document.
    """

    new: Int[Array, ""]
    running: Int[Array, "B K room"]
    running_scores: Float[Array, "B K"]
    ended: Int[Array, "B K room"]
    ended_scores: Float[Array, "B K"]
    full: Bool[Array, "B K"]
    open: Bool[Array, "B 1"]
    stop: Bool[Array, ""]


def generate(
    decoder: Decoder,
    prompt: Prompt,
    options: Options,
    numbers: dict[str, Array],
    custom: tuple[Callable[..., Array], ...] = (),
) -> tuple[Int[Array, "rows room"], Float[Array, " rows"]]:
    """The best `num_return_sequences` continuations of each document, and their scores."""
    beams = options.num_beams
    scores, state = decoder.prefill()
    batch = scores.shape[0]
    state = decoder.repeat(state, beams)
    prompt = prompt._replace(
        tokens=jnp.repeat(prompt.tokens, beams, axis=0),
        first=jnp.repeat(prompt.first, beams, axis=0),
    )
    nothing = jnp.full((batch, beams, options.room), options.pad, jnp.int32)
    start = Beams(
        new=jnp.zeros((), jnp.int32),
        running=nothing,
        # All beams are the same before the first token: one of them counts.
        running_scores=jnp.full((batch, beams), _OUT).at[:, 0].set(0),
        ended=nothing,
        ended_scores=jnp.full((batch, beams), _OUT),
        full=jnp.zeros((batch, beams), bool),
        open=jnp.ones((batch, 1), bool),
        stop=jnp.zeros((), bool),
    )

    def extend(scores, state, carry):
        carry, rows, tokens = _extend(scores, carry, prompt, options, numbers, custom)
        return carry, decoder.reorder(state, rows), tokens

    def body(loop):
        carry, state, tokens = loop
        scores, state = decoder.step(state, tokens)
        return extend(scores, state, carry)

    first = extend(jnp.repeat(scores, beams, axis=0), state, start)
    carry, _, _ = lax.while_loop(lambda loop: ~loop[0].stop, body, first)
    wanted = options.num_return_sequences
    best = carry.ended[:, :wanted].reshape(batch * wanted, -1)
    return best, carry.ended_scores[:, :wanted].reshape(-1)


def _extend(scores, at: Beams, prompt: Prompt, options: Options, numbers, custom):
    """One step of every document: `(beams, the rows they go on from, their last tokens)`."""
    batch, beams, _ = at.running.shape
    vocabulary = scores.shape[-1]
    so_far = at.running.reshape(batch * beams, -1)
    history = History(
        jnp.concatenate([prompt.tokens, so_far], axis=1),
        prompt.first,
        prompt.tokens.shape[1] + at.new,
        at.new,
        prompt.limit,
    )
    scores = jax.nn.log_softmax(scores.astype(jnp.float32), axis=-1)
    scores = process(scores, history, options, numbers, custom)
    total = scores.reshape(batch, beams, vocabulary) + at.running_scores[..., None]

    # Enough that K are left to run on if every end there is takes one from each beam.
    kept = max(2, 1 + len(options.eos)) * beams
    total, choice = lax.top_k(total.reshape(batch, -1), min(kept, beams * vocabulary))
    parent, token = choice // vocabulary, (choice % vocabulary).astype(jnp.int32)
    new = at.new + 1
    ends = jnp.asarray(one_of(options.eos, vocabulary))[token] | (new == prompt.limit)
    candidates = _pick(at.running, parent)
    candidates = lax.dynamic_update_slice(candidates, token[..., None], (0, 0, at.new))

    running_scores, order = lax.top_k(total + ends * _OUT, beams)
    running, parent, token = (_pick(x, order) for x in (candidates, parent, token))

    early = options.early_stopping is True
    penalty = numbers["length_penalty"]
    normalised = total / new.astype(jnp.float32) ** penalty
    ended = ends & (jnp.arange(ends.shape[1]) < beams)
    closed = ~at.open | (at.full.all(1, keepdims=True) & early)
    normalised = normalised + _OUT * closed + _OUT * ~ended
    ended_scores, order = lax.top_k(jnp.concatenate([at.ended_scores, normalised], 1), beams)
    finished = _pick(jnp.concatenate([at.ended, candidates], 1), order)
    full = _pick(jnp.concatenate([at.full, ended], 1), order)

    # The best a running beam may still reach, against the worst it would replace.
    length = new
    if options.early_stopping == "never":
        length = jnp.where(penalty > 0, prompt.limit, new)
    reachable = running_scores[:, :1] / length.astype(jnp.float32) ** penalty
    worst = jnp.where(full, ended_scores.min(1, keepdims=True), _OUT)
    still_open = at.open & (reachable > worst).any(1, keepdims=True)
    stop = ~still_open.any() | (full.all() & early) | ends.all()

    rows = (jnp.arange(batch)[:, None] * beams + parent).reshape(-1)
    after = Beams(new, running, running_scores, finished, ended_scores, full, still_open, stop)
    return after, rows, token.reshape(-1)


def _pick(x: Array, order: Int[Array, "B J"]) -> Array:
    """Entries of the second axis, each document its own."""
    return jax.vmap(lambda entries, at: entries[at])(x, order)
