"""`generate`: checks the call, picks or makes the compiled program, and runs it.

A program holds prefill and loop and is compiled once for its options and shapes. Prompts and the
room behind them are rounded up to whole blocks, so that calls of near lengths share one.
"""

import functools
import inspect
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import io_callback
from jaxtyping import Array

from flax_bigbird.generation import beam, greedy_and_sampling
from flax_bigbird.generation.decoder import Decoder, Prompt
from flax_bigbird.generation.options import Options, compile_options, merge, new_tokens
from flax_bigbird.models import cache as key_value_cache
from flax_bigbird.models import extra_inputs, inputs
from flax_bigbird.models.outputs import FlaxBeamSearchOutput, FlaxGenerationOutput
from flax_bigbird.nn.decoding import leading_padding, shift

Params = dict[str, Any]
_programs: "weakref.WeakKeyDictionary[Any, dict[Any, Callable[..., Any]]]"
_programs = weakref.WeakKeyDictionary()


class GenerationMixin:
    """`generate`, for the classes that write text; mixed into `FlaxBigBirdPreTrainedModel`."""

    def generate(
        self,
        input_ids: Any,
        generation_config: Any = None,
        prng_key: Array | None = None,
        trace: bool = True,
        params: Params | None = None,
        logits_processor: Any = None,
        *,
        attention_mask: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        streamer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Continues prompts: greedily, by sampling or by beam search (docs/generation.md).

        Args:
          input_ids: [B, T], the prompts; padding may stand on either side.
          generation_config: a `transformers.GenerationConfig`; what it leaves unset is the model's.
          prng_key: of sampling; default `PRNGKey(0)`.
          trace: False runs step by step outside the compiler, to look inside.
          params: default the model's own.
          logits_processor: a function `(tokens [B, S], scores [B, V], length) -> scores`, or a list
            of them; traced, and called after the rules of the options.
          attention_mask: [B, T], 1 at real tokens; default all.
          encoder_hidden_states: [B, S, D], with `config.add_cross_attention`.
          encoder_attention_mask: [B, S], default all ones.
          streamer: called with each step's tokens [B] (NumPy), in order; or an object with `put`,
            given the prompts first, and `end`.
          kwargs: options of `GenerationConfig`, more important than those of the configurations.

        Returns:
          `.sequences` [B * num_return_sequences, T + max_new_tokens]: the prompts as given, their
          continuations, and `pad_token_id` behind an end. Beam search: also `.scores`, the
          length-normalised log probability of each.

        Raises:
          TypeError: the class has no next-token head.
          ValueError: options or inputs that do not fit, before any work.
        """
        model: Any = self
        config = model.config
        _check_model(model)
        values = merge(kwargs, generation_config, model.generation_config)
        ids = inputs.token_ids(
            "input_ids", input_ids, ndim=2, size=config.vocab_size, limit_name="vocab_size"
        )
        batch, length = ids.shape
        if attention_mask is not None:
            attention_mask = inputs.array("attention_mask", attention_mask)
        longest = _longest_prompt(attention_mask, ids.shape)
        mask = None
        if attention_mask is not None:
            mask = inputs.key_mask("attention_mask", attention_mask, ids.shape)
        crossing = _crossing(model, encoder_hidden_states, encoder_attention_mask, batch)
        custom = _functions(logits_processor)
        key = inputs.random_key("prng_key", prng_key)
        stream = _Stream(streamer, values["num_beams"])

        limit = new_tokens(values, length, longest, config.max_position_embeddings)
        # The caller's own rules see lengths and slots: those are exact then.
        block = 1 if custom else config.block_size
        options, numbers = compile_options(
            values,
            prompt=length,
            limit=limit,
            room=-(-limit // block) * block,
            vocabulary=config.vocab_size,
        )
        padding = -length % block
        if mask is None and padding:
            mask = jnp.ones(ids.shape, bool)
        aligned = jnp.pad(ids, ((0, 0), (padding, 0)))
        if mask is not None:
            mask = jnp.pad(mask, ((0, 0), (padding, 0)))
        arguments = {
            "ids": aligned,
            "mask": mask,
            "limit": np.int32(limit),
            "numbers": {name: np.float32(x) for name, x in numbers.items()},
            "key": jax.random.PRNGKey(0) if key is None else key,
            "stream": np.int32(stream.number),
            **crossing,
        }
        program = _program(model, options, custom, streaming=streamer is not None)
        params = model.params if params is None else params
        with stream.open(ids):
            if trace:
                continuations, scores = program(params, arguments)
            else:
                with jax.disable_jit():
                    continuations, scores = program(params, arguments)
            stream.wait(continuations)
        prompts = jnp.repeat(ids, options.num_return_sequences, axis=0)
        sequences = jnp.concatenate([prompts, continuations[:, :limit]], axis=1)
        if options.num_beams > 1:
            return FlaxBeamSearchOutput(sequences, scores)
        return FlaxGenerationOutput(sequences)


def _check_model(model: Any) -> None:
    if not model.can_generate():
        raise TypeError(
            f"{type(model).__name__} writes no text: load the checkpoint with "
            "FlaxBigBirdForCausalLM and is_decoder=True"
        )
    if not model.config.is_decoder:
        raise ValueError(
            "generate needs a causal model; got config.is_decoder=False: load it with "
            "is_decoder=True"
        )


def _longest_prompt(mask: Any, shape: tuple[int, ...]) -> int:
    """Real tokens of the longest prompt; all of them where the mask cannot be read."""
    if mask is None or isinstance(mask, Tracer) or mask.shape != shape:
        return shape[1]
    real = (np.asarray(mask) != 0).sum(1)
    if not real.all():
        raise ValueError(
            "every prompt must have at least one real token; row "
            f"{int(np.argmin(real))} of attention_mask has none: begin it with a token, such as "
            "the tokenizer's bos"
        )
    return int(real.max())


def _crossing(model: Any, states: Any, mask: Any, batch: int) -> Params:
    """The encoder's states and mask, checked; empty without them."""
    if states is None:
        if mask is not None:
            raise ValueError(
                "encoder_attention_mask needs encoder_hidden_states; got the mask alone: pass "
                "both, or neither"
            )
        return {}
    return extra_inputs.encoder_inputs(model, states, mask, batch)


def _functions(processors: Any) -> tuple[Callable[..., Array], ...]:
    """The caller's rules as a tuple."""
    if processors is None:
        return ()
    found: tuple[Any, ...] = (processors,) if callable(processors) else tuple(processors)
    for function in found:
        if not callable(function):
            raise ValueError(
                "logits_processor must be functions (tokens, scores, length) -> scores; got "
                f"{function!r}: pass one, or a list of them"
            )
    return found


def _program(
    model: Any, options: Options, custom: tuple[Callable[..., Array], ...], *, streaming: bool
) -> Callable[..., Any]:
    """The compiled function for these options: made once for a model and its configuration."""
    own = _programs.setdefault(model, {})
    key = (options, custom, streaming, id(model.module), model.config.to_json_string())
    if key not in own:
        own[key] = jax.jit(
            functools.partial(_run, model.module, options, custom, streaming=streaming)
        )
    return own[key]


def _run(
    module: Any,
    options: Options,
    custom: tuple[Callable[..., Array], ...],
    params: Params,
    arguments: Params,
    *,
    streaming: bool,
) -> tuple[Array, Array | None]:
    """Prefill and loop; traced."""
    ids, mask = arguments["ids"], arguments["mask"]
    if mask is not None:  # padding on the right goes to the left
        behind = leading_padding(mask[:, ::-1])
        ids, mask = shift(ids, -behind), shift(mask, -behind)
    first = jnp.zeros(len(ids), jnp.int32) if mask is None else leading_padding(mask)
    prompt = Prompt(ids, first, arguments["limit"])
    crossing = {name: arguments[name] for name in arguments if name.startswith("encoder_")}
    decoder = module_decoder(module, params, ids, mask, options.room, **crossing)
    if options.num_beams > 1:
        return beam.generate(decoder, prompt, options, arguments["numbers"], custom)

    def emit(tokens):
        shape = jax.ShapeDtypeStruct((), bool)
        return io_callback(_deliver, shape, arguments["stream"], tokens, ordered=True)

    written = greedy_and_sampling.generate(
        decoder,
        prompt,
        options,
        arguments["numbers"],
        arguments["key"],
        custom,
        emit if streaming else None,
    )
    return written, None


def module_decoder(
    module: Any,
    params: Params,
    ids: Array,
    mask: Array | None,
    room: int,
    encoder_hidden_states: Array | None = None,
    encoder_attention_mask: Array | None = None,
) -> Decoder:
    """A causal module as the loops see it, with a cache for the prompt and `room` more tokens.

    The state is a dict of cache, mask over its slots, next positions and the encoder's mask.
    """
    batch, length = ids.shape
    crossing = encoder_hidden_states is not None

    def call(module, tokens, positions, state):
        extra: Params = _last_only(module, tokens)
        if crossing:  # read from the cache, but for the first call
            extra["encoder_hidden_states"] = encoder_hidden_states
            extra["encoder_attention_mask"] = state["encoder_mask"]
        output, updated = module.apply(
            {"params": params, "cache": state["cache"]},
            tokens,
            state["mask"],
            position_ids=positions,
            mutable=["cache"],
            **extra,
        )
        scores = output[0][:, -1]  # of a module of the caller's own perhaps a tuple's
        state = state | {"cache": updated["cache"], "positions": positions[:, -1] + 1}
        return scores, state

    def prefill():
        positions = jnp.broadcast_to(jnp.arange(length), ids.shape)
        full_mask = None
        if mask is not None:
            positions = jnp.maximum(mask.cumsum(-1) - 1, 0)
            full_mask = jnp.pad(mask, ((0, 0), (0, room)), constant_values=True)
        keys = encoder_hidden_states.shape[1] if encoder_hidden_states is not None else 0
        state = {
            "cache": key_value_cache.empty(module, params, batch, length + room, keys),
            "mask": full_mask,
            "encoder_mask": encoder_attention_mask,
            "positions": positions[:, -1],
        }
        # A module of the caller's own may lack the field: it is then correct, and slower.
        first = module.clone(prefill=True) if hasattr(module, "prefill") else module
        return call(first, ids, positions, state)

    def step(state, tokens):
        return call(module, tokens[:, None], state["positions"][:, None], state)

    def repeat(state, copies):
        return jax.tree.map(lambda x: jnp.repeat(x, copies, axis=0) if x.ndim else x, state)

    def reorder(state, rows):
        def pick(path, x):
            # What stands before the continuation is the same in all copies of a document.
            if path[-1].key not in ("cached_key", "cached_value"):
                return x
            return x.at[:, length:].set(x[rows, length:])

        cache = jax.tree_util.tree_map_with_path(pick, state["cache"])
        return state | {"cache": cache}

    return Decoder(prefill, step, repeat, reorder)


def _last_only(module: Any, tokens: Array) -> Params:
    """The argument that asks for logits of the last position alone, where the module takes it."""
    if tokens.shape[1] == 1:
        return {}
    parameters = inspect.signature(module.__call__).parameters.values()
    if not any(p.name == "logits_positions" or p.kind is p.VAR_KEYWORD for p in parameters):
        return {}
    return {"logits_positions": jnp.full((len(tokens), 1), tokens.shape[1] - 1)}


class _Stream:
    """Where the tokens of one call go; known to the compiled program by number."""

    _open: dict[int, "_Stream"] = {}  # noqa: RUF012
    _numbers = itertools.count(1)

    def __init__(self, target: Any, beams: int):
        self.number = next(self._numbers) if target is not None else 0
        self.target = target
        self.receive: Any = None
        self.error: BaseException | None = None
        if target is None:
            return
        if beams > 1:
            raise ValueError(
                f"beam search has no token to stream before its end; got a streamer with "
                f"num_beams={beams}: leave one of them out"
            )
        self.object = hasattr(target, "put") and hasattr(target, "end")
        self.receive = target.put if self.object else target
        if not (self.object or callable(target)):
            raise ValueError(
                "streamer must be a function of the new tokens, or have put and end; got "
                f"{type(target).__name__}"
            )

    def open(self, prompts: Array) -> "_Stream":
        if self.target is not None and self.object:
            self.target.put(np.asarray(prompts))
        return self

    def __enter__(self) -> "_Stream":
        if self.target is not None:
            self._open[self.number] = self
        return self

    def wait(self, result: Array) -> None:
        """Returns when every token has been delivered; raises what the streamer raised."""
        if self.target is not None:
            if isinstance(result, Tracer):
                raise ValueError(
                    "a streamer has nothing to receive while a function is traced; got one inside "
                    "jax.jit (or pmap, vmap): call generate outside, which compiles by itself"
                )
            jax.block_until_ready(result)
            jax.effects_barrier()
            if self.error is not None:
                raise self.error
            if self.object:
                self.target.end()

    def __exit__(self, *_: Any) -> None:
        self._open.pop(self.number, None)


def _deliver(number: Array, tokens: Array) -> np.ndarray:
    """Hands tokens to their stream; True when it failed and the loop should stop."""
    stream = _Stream._open.get(int(number))
    if stream is None:
        return np.array(True)
    try:
        stream.receive(np.asarray(tokens))
    except BaseException as error:  # raised again where the caller is
        stream.error = error
    return np.array(stream.error is not None)
