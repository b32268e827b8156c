"""Greedy search and sampling: one token per step, until every sequence has ended."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from flax_bigbird.generation.decoder import Decoder, Emit, Prompt
from flax_bigbird.generation.decoding_options import DecodingOptions, Scalars
from flax_bigbird.generation.logits_processors import History, process_logits, token_mask


def generate(
    decoder: Decoder,
    prompt: Prompt,
    options: DecodingOptions,
    scalars: Scalars,
    key: Array,
    custom_processors: tuple[Callable[..., Array], ...] = (),
    emit: Emit | None = None,
) -> Int[Array, "sequences S"]:
    """Returns the continuations, with padding after their end.

    There are `num_return_sequences` continuations of every prompt, side by side.

    Args:
      decoder: The model.
      prompt: The prompts.
      options: The static options.
      scalars: The values of the options that are traced.
      key: The random key of sampling; token i is drawn with `fold_in(key, i)`.
      custom_processors: The caller's own logits processors.
      emit: A function that is called with the tokens of every step, in order.
    """
    scores, state = decoder.prefill()
    if options.num_return_sequences > 1:
        copies = options.num_return_sequences
        state = decoder.repeat(state, copies)
        scores, tokens, first_slot = (
            jnp.repeat(x, copies, axis=0) for x in (scores, prompt.tokens, prompt.first_slot)
        )
        prompt = prompt._replace(tokens=tokens, first_slot=first_slot)
    num_sequences, start = prompt.tokens.shape
    pad = options.pad_token_id
    sequences = jnp.pad(prompt.tokens, ((0, 0), (0, options.max_slots)), constant_values=pad)
    is_end = token_mask(options.eos_token_ids, scores.shape[-1])

    def select(num_new, scores, sequences, finished):
        """Appends the next token of each sequence."""
        history = History(
            sequences, prompt.first_slot, start + num_new, num_new, prompt.max_new_tokens
        )
        scores = scores.astype(jnp.float32)
        scores = process_logits(scores, history, options, scalars, custom_processors)
        if options.do_sample:
            token = jax.random.categorical(jax.random.fold_in(key, num_new), scores)
        else:
            token = scores.argmax(-1)
        token = jnp.where(finished, pad, token.astype(jnp.int32))
        finished = finished | jnp.asarray(is_end)[token]
        stop = jnp.zeros((), bool) if emit is None else emit(token)
        sequences = lax.dynamic_update_slice_in_dim(sequences, token[:, None], start + num_new, 1)
        return num_new + 1, token, sequences, finished, stop

    def should_continue(carry):
        (num_new, _, _, finished, stop), _ = carry
        return (num_new < prompt.max_new_tokens) & ~finished.all() & ~stop

    def body(carry):
        (num_new, token, sequences, finished, _), state = carry
        scores, state = decoder.step(state, token)
        return select(num_new, scores, sequences, finished), state

    finished = jnp.zeros(num_sequences, bool)
    first = select(jnp.zeros((), jnp.int32), scores, sequences, finished)
    (_, _, sequences, _, _), _ = lax.while_loop(should_continue, body, (first, state))
    return sequences[:, start:]
