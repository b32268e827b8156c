"""`FlaxBigBirdPreTrainedModel`: the base class of all task classes.

Its interface is that of the Flax classes which `transformers` 5 removed: construct a model with a
configuration, call it with token ids, and pass `params=` explicitly inside `jit`, `grad` or a mesh.
"""

import copy
from typing import Any, TypeVar

from flax_bigbird.config import SparsityConfig
from flax_bigbird.models import cache as kv_cache
from flax_bigbird.models import text_generation
from flax_bigbird.models.apply import RunOptions, apply_module
from flax_bigbird.models.argument_checks import check_length
from flax_bigbird.models.config_checks import check_config
from flax_bigbird.models.inputs import CallArguments, check_inputs
from flax_bigbird.models.parameterized import Params, ParamsLike
from flax_bigbird.models.pretrained import PretrainedModel

_Model = TypeVar("_Model", bound="FlaxBigBirdPreTrainedModel")


class FlaxBigBirdPreTrainedModel(PretrainedModel):
    """The configuration, module and parameters of one task; the base of all task classes.

    Args:
      config: A `transformers.BigBirdConfig`. The model keeps a copy.
      input_shape: The shape that parameters are initialized with. The default is `(1, 12 W)` for
        sparse attention and `(1, 1)` for full attention.
      seed: The seed of the parameters.
      dtype: The dtype of the computation. Parameters are float32, or what a checkpoint holds.
      _do_init: Whether to initialize parameters. If False, pass `params=` to every call.
      gradient_checkpointing: Whether to recompute each layer in the backward pass; "attention"
        recomputes all of it except attention, for a little memory.
      module_kwargs: Further fields of the task's linen module.

    Raises:
      TypeError: If `config` is not a `BigBirdConfig`.
      ValueError: If no model can be built with one of the values.
    """

    @classmethod
    def _from_config(cls: type[_Model], config: Any, **kwargs: Any) -> _Model:
        return cls(config, **kwargs)

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        params: ParamsLike | None = None,
        dropout_rng: Any = None,
        indices_rng: Any = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        past_key_values: Any = None,
        *,
        logits_positions: Any = None,
        global_attention_mask: Any = None,
        segment_ids: Any = None,
    ) -> Any:
        """Runs the model.

        Args:
          input_ids: Integers, `[B, T]`; `[B, C, T]` for multiple choice. These and other ids may
            be floats, if they are whole numbers.
          attention_mask: 1 at real tokens and 0 at padding, in the shape of input_ids. With a
            cache, `[B, max_length]` over its slots. The default is all ones.
          token_type_ids: In the shape of input_ids, or `[1, T]` or `[T]` for all examples. The
            default is all zeros.
          position_ids: In the shape of input_ids, or `[1, T]` or `[T]` for all examples. The
            default is 0..T-1, counted from the next slot of the cache.
          head_mask: `[heads]` or `[layers, heads]`; 1 keeps a head, 0 masks it.
          encoder_hidden_states: `[B, S, D]`, for models with `config.add_cross_attention`.
          encoder_attention_mask: `[B, S]`. The default is all ones.
          params: The parameters. The default is the model's own.
          dropout_rng: A random key, which training with dropout needs.
          indices_rng: A random key that redraws the random blocks in the step, if `train` is True.
          train: Whether to use dropout and the training pattern.
          output_attentions: Whether to return attention probabilities, `[B, N, T, T]` per layer.
          output_hidden_states: Whether to return the hidden states of every layer.
          return_dict: Whether to return the output dataclass, or a tuple.
          past_key_values: A cache from `init_cache` or from an earlier output.
          logits_positions: `[B, P]`, for models with a language-model head: the only positions
            whose logits are computed, `[B, P, V]`. Training on masked tokens then pays only for
            the masked positions in the vocabulary matmul.
          global_attention_mask: 1 at tokens of an encoder that attend to all tokens and that all
            tokens attend to, in the shape of input_ids. The whole block of such a token becomes
            global, at most `config.max_user_global_blocks` (8) blocks per example. It changes
            nothing where attention is full.
          segment_ids: `[B, T]`, which packs several examples into a row: the positive id of the
            example that each token belongs to, 0 at padding. Each example starts at a multiple of
            `config.block_size`, attends only to itself, and has the outputs that it has alone. An
            encoder takes packed examples of up to 5 + 2R blocks, which attend in full. By default,
            position ids start at 0 in every example. Only models with one output per token take
            segment ids.

        Returns:
          The output dataclass of the task, or its `to_tuple()` if `return_dict` is False.

        Raises:
          ValueError: If shapes, dtypes, ranges or options do not fit. Ranges are checked for host
            arrays only: those on a device cannot be read without a stall.
        """
        inputs = check_inputs(
            self,
            CallArguments(
                input_ids=input_ids,
                attention_mask=attention_mask,
                token_type_ids=token_type_ids,
                position_ids=position_ids,
                head_mask=head_mask,
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                logits_positions=logits_positions,
                global_attention_mask=global_attention_mask,
                segment_ids=segment_ids,
                past_key_values=past_key_values,
            ),
        )
        options = RunOptions(
            params=params,
            dropout_rng=dropout_rng,
            indices_rng=indices_rng,
            train=train,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
            past_key_values=past_key_values,
        )
        return apply_module(self, inputs, options)

    def with_attention_implementation(self: _Model, implementation: str | None) -> _Model:
        """Returns a model that computes attention with one implementation.

        The new model shares the parameters with this one. The implementation is not saved with the
        model. It can also be passed to `from_pretrained(..., attention_implementation=...)`, or set
        as `config.attention_implementation` before a model is built.

        Args:
          implementation: A name from `flax_bigbird.attention.available_implementations()` or
            `available_full_implementations()`, or None for the fastest that accepts a call. If
            block-sparse or full attention has no implementation of that name, the fastest is used
            for it; "reference" stands for "xla" in full attention. Steps with a key-value cache,
            and calls that return or drop attention probabilities, do not depend on it.

        Raises:
          ValueError: If the name is unknown.
        """
        config = copy.deepcopy(self.config)
        setattr(config, SparsityConfig.IMPLEMENTATION_KEY, implementation)
        check_config(config)
        return self._with_module(config)

    def init_cache(self, batch_size: int, max_length: int) -> Params:
        """Returns an empty key-value cache for `max_length` positions.

        Pass it to a call as `past_key_values`.

        Raises:
          ValueError: If the model is not a decoder, or has fewer positions.
        """
        if not self.sparsity.causal:
            raise ValueError(
                "a key-value cache needs a causal model: set config.is_decoder=True "
                "(got is_decoder=False)"
            )
        if batch_size < 1 or max_length < 1:
            raise ValueError(
                f"batch_size and max_length must be at least 1; got {batch_size} and {max_length}"
            )
        check_length(self.config, max_length)
        variables = {"params": self.params_shape_tree}
        return kv_cache.init_cache(self.module, variables, batch_size, max_length)

    def generate(
        self,
        input_ids: Any,
        generation_config: Any = None,
        prng_key: Any = None,
        trace: bool = True,
        params: ParamsLike | None = None,
        logits_processor: Any = None,
        *,
        attention_mask: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        streamer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Continues prompts by greedy search, sampling or beam search.

        Args:
          input_ids: The prompts, `[B, T]`, with padding on either side.
          generation_config: A `transformers.GenerationConfig`. The model's own configuration sets
            what it leaves unset.
          prng_key: The random key of sampling. The default is `PRNGKey(0)`.
          trace: If False, the loop runs step by step outside the compiler, for debugging.
          params: The parameters. The default is the model's own.
          logits_processor: A function `(tokens [B, S], scores [B, V], length) -> scores`, or a list
            of them. They are traced, and called after the processors that the options select.
          attention_mask: 1 at real tokens, `[B, T]`. The default is all ones.
          encoder_hidden_states: `[B, S, D]`, for models with `config.add_cross_attention`.
          encoder_attention_mask: `[B, S]`. The default is all ones.
          streamer: A function that is called with the new tokens `[B]` of each step as a NumPy
            array; or an object with `put`, which also receives the prompts first, and `end`.
          kwargs: Options of `GenerationConfig`, which take precedence over the configurations.

        Returns:
          An output with `sequences`, `[B * num_return_sequences, T + max_new_tokens]`: the prompts
          as they were passed, their continuations, and `pad_token_id` after an end token. With beam
          search also `scores`: the length-normalized log probability of each sequence.

        Raises:
          TypeError: If the class has no next-token head.
          ValueError: If options or inputs do not fit; it is raised before any work is done.
        """
        request = text_generation.GenerationRequest(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            params=params,
            key=prng_key,
            logits_processor=logits_processor,
            streamer=streamer,
            trace=trace,
        )
        return text_generation.generate(self, request, generation_config, kwargs)
