"""`generate`: checks the arguments, compiles the decoding program or reuses it, and runs it.

A program holds prefill and loop, and is compiled once for its options and shapes. The lengths of
prompts and continuations are rounded up to whole blocks, so that calls of similar lengths share a
program.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

from flax_bigbird.config import SparsityConfig
from flax_bigbird.generation import beam_search, sampling
from flax_bigbird.generation.decoder import Prompt
from flax_bigbird.generation.decoding_options import (
    DecodingOptions,
    compile_options,
    resolve_max_new_tokens,
)
from flax_bigbird.generation.generation_config import merge_options
from flax_bigbird.generation.streaming import TokenStream, emit_tokens
from flax_bigbird.models import argument_checks as checks
from flax_bigbird.models.inputs import check_encoder_inputs
from flax_bigbird.models.module_decoder import module_decoder
from flax_bigbird.models.outputs import FlaxBeamSearchOutput, FlaxGenerationOutput
from flax_bigbird.models.parameterized import ParamsLike
from flax_bigbird.models.pretrained import PretrainedModel
from flax_bigbird.models.programs import model_program
from flax_bigbird.nn.decoding import leading_padding, shift

Processors = tuple[Callable[..., Array], ...]


@dataclasses.dataclass(frozen=True)
class GenerationRequest:
    """The arguments of `FlaxBigBirdPreTrainedModel.generate`, which documents them."""

    input_ids: Any
    attention_mask: Any
    encoder_hidden_states: Any
    encoder_attention_mask: Any
    params: ParamsLike | None
    key: Any
    logits_processor: Any
    streamer: Any
    trace: bool


def generate(
    model: PretrainedModel, request: GenerationRequest, config: Any, options: dict[str, Any]
) -> FlaxGenerationOutput | FlaxBeamSearchOutput:
    """Generates text; `FlaxBigBirdPreTrainedModel.generate` documents the arguments.

    Args:
      model: The model.
      request: The arguments that are not options.
      config: The `GenerationConfig` of the call, or None.
      options: The options that are passed by name.
    """
    _check_model(model)
    values = merge_options(options, config, model.generation_config)
    arguments, length, num_prompt_tokens = _check_inputs(model, request)
    ids = arguments["ids"]
    processors = _as_functions(request.logits_processor)
    stream = TokenStream(request.streamer, values["num_beams"])
    max_new_tokens = resolve_max_new_tokens(
        values, length, num_prompt_tokens, model.config.max_position_embeddings
    )
    block = _rounding(model.sparsity, length, max_new_tokens, exact=bool(processors))
    static, scalars = compile_options(
        values,
        prompt_length=length,
        max_new_tokens=max_new_tokens,
        max_slots=-(-max_new_tokens // block) * block,
        vocab_size=model.config.vocab_size,
    )
    arguments |= _pad_to_block(ids, arguments["mask"], block) | {
        "max_new_tokens": np.int32(max_new_tokens),
        "scalars": {name: np.float32(x) for name, x in scalars.items()},
        "stream_id": np.int32(stream.id),
    }
    program = _program(model, static, processors, streaming=request.streamer is not None)
    params = model.params if request.params is None else request.params
    with stream.start(ids):
        if request.trace:
            continuations, scores = program(params, arguments)
        else:
            with jax.disable_jit():
                continuations, scores = program(params, arguments)
        stream.wait(continuations)
    prompts = jnp.repeat(ids, static.num_return_sequences, axis=0)
    sequences = jnp.concatenate([prompts, continuations[:, :max_new_tokens]], axis=1)
    if static.num_beams > 1:
        return FlaxBeamSearchOutput(sequences, scores)
    return FlaxGenerationOutput(sequences)


def _check_model(model: PretrainedModel) -> None:
    if not model.can_generate():
        raise TypeError(
            f"{type(model).__name__} does not generate text: load the checkpoint with "
            "FlaxBigBirdForCausalLM and is_decoder=True"
        )
    if not model.sparsity.causal:
        raise ValueError(
            "generate needs a causal model; got config.is_decoder=False: load it with "
            "is_decoder=True"
        )


def _check_inputs(
    model: PretrainedModel, request: GenerationRequest
) -> tuple[dict[str, Any], int, int]:
    """Checks the array arguments.

    Returns:
      The arrays by name; the length of the prompts; the number of real tokens of the longest one.
    """
    ids = checks.token_ids(
        "input_ids",
        request.input_ids,
        ndim=2,
        num_ids=model.config.vocab_size,
        limit_name="vocab_size",
    )
    batch, length = ids.shape
    num_prompt_tokens, mask = length, None
    if request.attention_mask is not None:
        attention_mask = checks.array("attention_mask", request.attention_mask)
        num_prompt_tokens = _max_prompt_tokens(attention_mask, ids.shape)
        mask = checks.key_mask("attention_mask", attention_mask, ids.shape)
    states, encoder_mask = check_encoder_inputs(
        model, request.encoder_hidden_states, request.encoder_attention_mask, batch
    )
    key = checks.random_key("prng_key", request.key)
    arrays: dict[str, Any] = {
        "ids": ids,
        "mask": mask,
        "key": jax.random.PRNGKey(0) if key is None else key,
    }
    if states is not None:
        arrays |= {"encoder_hidden_states": states, "encoder_attention_mask": encoder_mask}
    return arrays, length, num_prompt_tokens


def _max_prompt_tokens(mask: Any, shape: tuple[int, ...]) -> int:
    """Returns the number of real tokens of the longest prompt.

    A mask that cannot be read counts as all ones.
    """
    if isinstance(mask, Tracer) or mask.shape != shape:
        return shape[1]
    num_tokens = (np.asarray(mask) != 0).sum(1)
    if not num_tokens.all():
        raise ValueError(
            "every prompt must have at least one real token; row "
            f"{int(np.argmin(num_tokens))} of attention_mask has none: start it with a token, such "
            "as the tokenizer's bos"
        )
    return int(num_tokens.max())


def _as_functions(processors: Any) -> Processors:
    """Returns the caller's logits processors as a tuple."""
    if processors is None:
        return ()
    functions: tuple[Any, ...] = (processors,) if callable(processors) else tuple(processors)
    for function in functions:
        if not callable(function):
            raise ValueError(
                "logits_processor must be functions (tokens, scores, length) -> scores; got "
                f"{function!r}: pass one, or a list of them"
            )
    return functions


def _rounding(sparsity: SparsityConfig, length: int, max_new_tokens: int, *, exact: bool) -> int:
    """Returns the number of tokens that prompts and continuations are rounded up to multiples of.

    Args:
      sparsity: The configuration of attention.
      length: The length of the prompts, in tokens.
      max_new_tokens: The number of tokens to generate.
      exact: Whether to round nothing, as for custom processors, which receive lengths and slots.
    """
    block = sparsity.block_size
    slots = sum(-(-count // block) * block for count in (length, max_new_tokens))
    total = length + max_new_tokens
    # Rounding must not turn a cache that attends in full into one that does not.
    changes = sparsity.uses_full_attention(total) != sparsity.uses_full_attention(slots)
    return 1 if exact or changes else block


def _pad_to_block(ids: Int[Array, "B T"], mask: Array | None, block: int) -> dict[str, Any]:
    """Pads prompts on the left to a multiple of the block size."""
    padding = -ids.shape[1] % block
    if mask is None and padding:
        mask = jnp.ones(ids.shape, bool)
    if mask is not None:
        mask = jnp.pad(mask, ((0, 0), (padding, 0)))
    return {"ids": jnp.pad(ids, ((0, 0), (padding, 0))), "mask": mask}


def _program(
    model: PretrainedModel, options: DecodingOptions, processors: Processors, *, streaming: bool
) -> Callable[..., Any]:
    """Returns the compiled function for these options, which a model reuses."""
    decode = functools.partial(_decode, model.module, options, processors, streaming=streaming)
    key = ("generate", options, processors, streaming)
    return model_program(model, key, lambda: jax.jit(decode))


def _decode(
    module: nn.Module,
    options: DecodingOptions,
    processors: Processors,
    params: ParamsLike,
    arguments: dict[str, Any],
    *,
    streaming: bool,
) -> tuple[Array, Array | None]:
    """Runs prefill and loop; this is the function that is traced."""
    ids, mask = arguments["ids"], arguments["mask"]
    if mask is not None:  # moves padding from the right to the left
        right_padding = leading_padding(mask[:, ::-1])
        ids, mask = shift(ids, -right_padding), shift(mask, -right_padding)
    first_slot = jnp.zeros(len(ids), jnp.int32) if mask is None else leading_padding(mask)
    prompt = Prompt(ids, first_slot, arguments["max_new_tokens"])
    encoder = {name: arguments[name] for name in arguments if name.startswith("encoder_")}
    decoder = module_decoder(module, params, ids, mask, options.max_slots, **encoder)
    scalars = arguments["scalars"]
    if options.num_beams > 1:
        return beam_search.generate(decoder, prompt, options, scalars, processors)
    emit = functools.partial(emit_tokens, arguments["stream_id"]) if streaming else None
    key = arguments["key"]
    return sampling.generate(decoder, prompt, options, scalars, key, processors, emit), None
