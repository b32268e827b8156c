"""One continuation at a time: the likeliest token, or one drawn, until every row has ended."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from flax_bigbird.generation.decoder import Decoder, Emit, Prompt
from flax_bigbird.generation.options import Options
from flax_bigbird.generation.processors import History, one_of, process


def generate(
    decoder: Decoder,
    prompt: Prompt,
    options: Options,
    numbers: dict[str, Array],
    key: Array,
    custom: tuple[Callable[..., Array], ...] = (),
    emit: Emit | None = None,
) -> Int[Array, "rows room"]:
    """The continuations, `pad` behind their end; rows are documents times `num_return_sequences`.

    Args:
      key: of sampling; each token draws with `fold_in(key, i)`.
      custom: the caller's rules, `(tokens, scores, length) -> scores`.
      emit: called with the tokens of every step, in order.
    """
    scores, state = decoder.prefill()
    if options.num_return_sequences > 1:
        copies = options.num_return_sequences
        state = decoder.repeat(state, copies)
        scores, tokens, first = (
            jnp.repeat(x, copies, axis=0) for x in (scores, prompt.tokens, prompt.first)
        )
        prompt = prompt._replace(tokens=tokens, first=first)
    rows, start = prompt.tokens.shape
    written = jnp.pad(prompt.tokens, ((0, 0), (0, options.room)), constant_values=options.pad)
    ends = one_of(options.eos, scores.shape[-1])

    def choose(new, scores, written, finished):
        """Writes the next token of each row."""
        history = History(written, prompt.first, start + new, new, prompt.limit)
        scores = process(scores.astype(jnp.float32), history, options, numbers, custom)
        if options.do_sample:
            token = jax.random.categorical(jax.random.fold_in(key, new), scores)
        else:
            token = scores.argmax(-1)
        token = jnp.where(finished, options.pad, token.astype(jnp.int32))
        finished = finished | jnp.asarray(ends)[token]
        stop = jnp.zeros((), bool) if emit is None else emit(token)
        written = lax.dynamic_update_slice(written, token[:, None], (0, start + new))
        return new + 1, token, written, finished, stop

    def going(carry):
        (new, _, _, finished, stop), _ = carry
        return (new < prompt.limit) & ~finished.all() & ~stop

    def body(carry):
        (new, token, written, finished, _), state = carry
        scores, state = decoder.step(state, token)
        return choose(new, scores, written, finished), state

    first = choose(jnp.zeros((), jnp.int32), scores, written, jnp.zeros(rows, bool))
    (_, _, written, _, _), _ = lax.while_loop(going, body, (first, state))
    return written[:, start:]
