"""`FlaxBigBirdPreTrainedModel`: a linen module with its configuration and parameters.

The facade users of the removed Flax classes know: construct with a configuration, call with token
ids, pass `params=` explicitly inside `jit`, `grad` or a mesh.
"""

import copy
import functools
import warnings
from typing import Any, ClassVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import unfreeze
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from flax_bigbird import _transformers
from flax_bigbird.models import cache as key_value_cache
from flax_bigbird.models import extra_inputs, inputs
from flax_bigbird.models.configuration import check_config
from flax_bigbird.models.generating import GenerationMixin
from flax_bigbird.models.pretrained_io import PretrainedIO

Params = dict[str, Any]


class _ConfigClass:
    """Reads `transformers.BigBirdConfig` when it is first needed, not at import."""

    def __get__(self, instance: Any, owner: type) -> type:
        return _transformers.bigbird_config_class()


class FlaxBigBirdPreTrainedModel(GenerationMixin, PretrainedIO):
    """Configuration, module and parameters of one task; the base of all task classes.

    Args:
      config: a `transformers.BigBirdConfig`; the model keeps a copy.
      input_shape: the shape parameters are initialised with; default `(1, 12 W)` when sparse,
        `(1, 1)` when full.
      seed: of the parameters.
      dtype: of the computation; parameters are float32, or what a checkpoint holds.
      gradient_checkpointing: recompute each layer in the backward pass; "attention" recomputes all
        but attention itself, for a little memory.
      module_kwargs: further fields of the task's linen module.

    With `_do_init=False` no parameters are made: pass `params=` to every call.
    """

    config_class = _ConfigClass()
    base_model_prefix: ClassVar[str] = "bert"
    module_class: ClassVar[type[nn.Module] | None] = None
    framework: ClassVar[str] = "flax"
    input_rank: ClassVar[int] = 2  # axes of input_ids

    def __init__(
        self,
        config: Any,
        input_shape: tuple[int, ...] | None = None,
        seed: int = 0,
        dtype: Any = jnp.float32,
        _do_init: bool = True,
        gradient_checkpointing: bool | str = False,
        **module_kwargs: Any,
    ):
        check_config(config)
        if self.module_class is None:
            raise TypeError(f"{type(self).__name__} has no module_class: use a task class")
        self._config = self._own_config(config)
        self.dtype = jnp.dtype(dtype)
        if not jnp.issubdtype(self.dtype, jnp.floating):
            raise ValueError(
                f"dtype must be floating; got {self.dtype}: pass jnp.float32, jnp.bfloat16 or "
                "jnp.float16"
            )
        if gradient_checkpointing not in (False, True, "attention"):
            raise ValueError(
                "gradient_checkpointing must be False, True or 'attention'; got "
                f"{gradient_checkpointing!r}"
            )
        self.key = jax.random.PRNGKey(seed)
        self._module = self.module_class(
            config=self._config,
            dtype=self.dtype,
            gradient_checkpointing=gradient_checkpointing,
            **module_kwargs,
        )
        if input_shape is None:
            length = 12 * config.block_size if config.attention_type == "block_sparse" else 1
            input_shape = (1,) * (self.input_rank - 1) + (length,)
        if len(input_shape) != self.input_rank:
            raise ValueError(
                f"input_shape must have {self.input_rank} axes, as the input_ids of "
                f"{type(self).__name__}; got {tuple(input_shape)}"
            )
        self.input_shape = tuple(input_shape)
        self._generation_config: Any = None
        self._is_initialized = _do_init
        self._params: Params | None = None
        init = functools.partial(self._random_params, shape=self.input_shape)
        self._params_shape_tree = jax.eval_shape(init, self.key)
        if _do_init:
            self._params = jax.jit(init)(self.key)

    def _own_config(self, config: Any) -> Any:
        """The model's copy of the caller's configuration."""
        return copy.deepcopy(config)

    @classmethod
    def _from_config(cls, config: Any, **kwargs: Any) -> "FlaxBigBirdPreTrainedModel":
        return cls(config, **kwargs)

    @property
    def config(self) -> Any:
        """The model's own `BigBirdConfig`."""
        return self._config

    @property
    def module(self) -> nn.Module:
        """The linen module."""
        return self._module

    @property
    def params(self) -> Params:
        """The parameters, a nested dict. Setting refuses a tree with missing leaves."""
        if self._params is None:
            raise ValueError(
                "this model holds no parameters (it was made with _do_init=False): pass params= "
                "to the call, or make them with model.init_weights(key, model.input_shape)"
            )
        return self._params

    @params.setter
    def params(self, params: Params) -> None:
        if self._is_initialized is False:
            raise ValueError(
                "params cannot be set on a model made with _do_init=False: keep them outside "
                "and pass params= to every call"
            )
        tree = unfreeze(params)
        missing = self.required_params - set(flatten_dict(tree))
        if missing:
            names = ", ".join(sorted("/".join(path) for path in missing))
            raise ValueError(
                f"params must hold every leaf of the model; missing: {names}. Fill them with "
                "model.init_weights(key, model.input_shape, params)"
            )
        self._params = tree

    @property
    def required_params(self) -> set[tuple[str, ...]]:
        """The path of every leaf."""
        return set(flatten_dict(self._params_shape_tree))

    @property
    def params_shape_tree(self) -> Params:
        """`jax.ShapeDtypeStruct` of every leaf."""
        return self._params_shape_tree

    def init_weights(
        self, rng: Array, input_shape: tuple[int, ...], params: Params | None = None
    ) -> Params:
        """Random parameters; with `params`, that tree with its missing leaves filled in."""
        fresh = jax.jit(functools.partial(self._random_params, shape=tuple(input_shape)))(rng)
        if params is None:
            return fresh
        return unflatten_dict(flatten_dict(fresh) | flatten_dict(unfreeze(params)))

    def _random_params(self, rng: Array, shape: tuple[int, ...]) -> Params:
        names = ("params", "dropout", "indices")
        keys: dict[str, Any] = dict(zip(names, jax.random.split(rng, 3), strict=True))
        ids = jnp.zeros(shape, jnp.int32)  # position 0 too: the table may be shorter than `shape`
        kwargs: dict[str, Any] = {
            "attention_mask": jnp.ones(shape, bool),
            "token_type_ids": ids,
            "position_ids": ids,
            "head_mask": None,
        }
        if self.config.add_cross_attention and self.takes_encoder_states():
            states = (*shape, self.config.hidden_size)
            kwargs["encoder_hidden_states"] = jnp.zeros(states, self.dtype)
            kwargs["encoder_attention_mask"] = jnp.ones(shape, bool)
        variables = self.module.init(keys, ids, **kwargs, return_dict=False)
        return unfreeze(variables["params"])

    @classmethod
    def takes_encoder_states(cls) -> bool:
        """Whether the task's module has cross-attention inputs."""
        return False

    @classmethod
    def has_language_head(cls) -> bool:
        """Whether the task's module gives logits over the vocabulary."""
        return False

    @classmethod
    def takes_packed_rows(cls) -> bool:
        """Whether every token has its own output, so that documents may share a row."""
        return False

    def init_cache(self, batch_size: int, max_length: int) -> Params:
        """An empty key-value cache for `max_length` positions, to pass as `past_key_values`.

        Raises:
          ValueError: the configuration is no decoder, or its position table is shorter.
        """
        if not self.config.is_decoder:
            raise ValueError(
                "a key-value cache needs a causal model: set config.is_decoder=True "
                "(got is_decoder=False)"
            )
        if batch_size < 1 or max_length < 1:
            raise ValueError(
                f"batch_size and max_length must be at least 1; got {batch_size} and {max_length}"
            )
        inputs.check_length(self.config, max_length)
        ids = jnp.zeros((batch_size, max_length), jnp.int32)
        make = functools.partial(
            self.module.init,
            input_ids=ids,
            attention_mask=ids == 0,
            token_type_ids=ids,
            position_ids=ids,
            head_mask=None,
            init_cache=True,
        )
        shapes = jax.eval_shape(make, {"params": self.key})["cache"]
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), unfreeze(shapes))

    def enable_gradient_checkpointing(self, *, keep_attention: bool = False) -> None:
        """Recompute each layer in the backward pass: less memory, about a third more time.

        Args:
          keep_attention: but for what attention computed, which costs a state a layer.
        """
        self._module = self._module.clone(
            gradient_checkpointing="attention" if keep_attention else True
        )

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the task writes text."""
        return False

    @property
    def generation_config(self) -> Any:
        """`transformers.GenerationConfig` of a model that generates, else None."""
        if self._generation_config is None and self.can_generate():
            cls = _transformers.generation_config_class()
            self._generation_config = cls.from_model_config(self.config)
        return self._generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        self._generation_config = value

    def to_bf16(self, params: Params, mask: Any = None) -> Params:
        """Floating leaves as bfloat16, where the boolean tree `mask` is True (default: all)."""
        return _cast(params, jnp.bfloat16, mask)

    def to_fp16(self, params: Params, mask: Any = None) -> Params:
        """Floating leaves as float16, where the boolean tree `mask` is True (default: all)."""
        return _cast(params, jnp.float16, mask)

    def to_fp32(self, params: Params, mask: Any = None) -> Params:
        """Floating leaves as float32, where the boolean tree `mask` is True (default: all)."""
        return _cast(params, jnp.float32, mask)

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        params: Params | None = None,
        dropout_rng: Array | None = None,
        indices_rng: Array | None = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        past_key_values: Params | None = None,
        *,
        logits_positions: Any = None,
        global_attention_mask: Any = None,
        segment_ids: Any = None,
    ) -> Any:
        """Runs the model.

        Args:
          input_ids: [B, T] integers ([B, C, T] for multiple choice).
          attention_mask: the shape of input_ids, 1 at real tokens (default: all). With a cache,
            [B, max_length] over the cache's positions.
          token_type_ids: default all 0.
          position_ids: default 0..T-1, counted on from the cache's index.
          head_mask: [heads] or [layers, heads], 1 keeps a head.
          encoder_hidden_states: [B, S, D], with `config.add_cross_attention`.
          encoder_attention_mask: [B, S], default all ones.
          params: default the model's own.
          dropout_rng: needed to train with dropout.
          indices_rng: with `train`, redraws the random blocks inside the step.
          train: dropout, and the training pattern.
          past_key_values: a cache from `init_cache` or an earlier output.
          logits_positions: [B, P], for models with a language-model head: the logits are those of
            these positions alone, [B, P, V]. Training on masked tokens then costs the masked
            positions' share of the vocabulary matmul (see `flax_bigbird.nn.losses`).
          global_attention_mask: the shape of input_ids, 1 at tokens that every token is to read and
            that are to read every token (encoders). The block that holds such a token becomes
            global as a whole, at most `config.max_user_global_blocks` (8) a document. Changes
            nothing where attention is full anyway.
          segment_ids: [B, T], packs several documents into a row: the number of the document that
            a token belongs to, 0 at padding; a run of one number is a document. Each begins at a
            multiple of `config.block_size`, reads itself alone, and has the outputs it has alone;
            an encoder's has at most 5 + 2R blocks, what it reads in full. position_ids by default
            begin anew with every document. For models whose outputs are by token.

        Returns:
          The task's output dataclass, or its `to_tuple()` with `return_dict=False`.

        Raises:
          ValueError: shapes, dtypes, ranges or options that do not fit. Ranges are checked for
            host arrays only; on a device they cannot be read without a stall.
        """
        extra: dict[str, Any] = {}
        if segment_ids is not None:
            beside = (past_key_values, global_attention_mask, encoder_hidden_states)
            segments = extra_inputs.segments(self, segment_ids, np.shape(input_ids), *beside)
            if position_ids is None:
                position_ids = inputs.positions_of_segments(segments)
            extra["segment_ids"] = jnp.asarray(segments)
        arrays = self._arrays(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, past_key_values
        )
        if segment_ids is not None:
            arrays["attention_mask"] &= extra["segment_ids"] != 0
        if encoder_hidden_states is not None:
            batch = arrays["input_ids"].shape[0]
            extra |= extra_inputs.encoder_inputs(
                self, encoder_hidden_states, encoder_attention_mask, batch
            )
        elif encoder_attention_mask is not None:
            raise ValueError(
                "encoder_attention_mask needs encoder_hidden_states; got the mask alone: pass "
                "both, or neither"
            )
        if logits_positions is not None:
            if not self.has_language_head():
                raise ValueError(
                    f"logits_positions needs a model with a language-model head; got it for "
                    f"{type(self).__name__}: leave it out"
                )
            shape = arrays["input_ids"].shape
            extra["logits_positions"] = inputs.logits_positions(logits_positions, *shape)
        shape = arrays["input_ids"].shape
        extra |= extra_inputs.global_tokens(self, global_attention_mask, attention_mask, shape)
        return self._apply(
            arrays | extra,
            params,
            dropout_rng,
            indices_rng,
            train,
            output_attentions,
            output_hidden_states,
            return_dict,
            past_key_values,
        )

    def _arrays(
        self, input_ids, attention_mask, token_type_ids, position_ids, head_mask, cache=None
    ) -> dict[str, Any]:
        """The module's array inputs, checked and with their defaults."""
        config = self.config
        ids = inputs.token_ids(
            "input_ids",
            input_ids,
            ndim=self.input_rank,
            size=config.vocab_size,
            limit_name="vocab_size",
        )
        shape = ids.shape
        mask_shape = shape if cache is None else (shape[0], self._cache_length(cache, shape))
        if position_ids is None:
            inputs.check_length(config, shape[-1])
            start = 0 if cache is None else key_value_cache.index(cache)
            position_ids = jnp.broadcast_to(start + jnp.arange(shape[-1]), shape)
        tables = {
            "token_type_ids": (token_type_ids, config.type_vocab_size, "type_vocab_size"),
            "position_ids": (
                position_ids,
                config.max_position_embeddings,
                "max_position_embeddings",
            ),
        }
        arrays: dict[str, Any] = {"input_ids": ids}
        for name, (value, size, limit_name) in tables.items():
            if value is None:
                arrays[name] = jnp.zeros(shape, jnp.int32)
                continue
            inputs.same_shape(name, value, shape)
            arrays[name] = inputs.token_ids(
                name, value, ndim=len(shape), size=size, limit_name=limit_name
            )
        if attention_mask is None:
            arrays["attention_mask"] = jnp.ones(mask_shape, bool)
        else:
            arrays["attention_mask"] = inputs.key_mask("attention_mask", attention_mask, mask_shape)
        arrays["head_mask"] = inputs.head_mask(
            head_mask, config.num_hidden_layers, config.num_attention_heads
        )
        return arrays

    def _cache_length(self, cache: Params, shape: tuple[int, ...]) -> int:
        """The positions a cache has room for; raises where the model takes none."""
        if not (self.config.is_decoder and self.takes_encoder_states()):
            raise ValueError(
                "past_key_values needs a FlaxBigBirdModel or FlaxBigBirdForCausalLM with "
                f"config.is_decoder=True; got {type(self).__name__} with "
                f"is_decoder={self.config.is_decoder}: leave it out"
            )
        return key_value_cache.check(cache, shape[0], shape[-1])

    def _apply(
        self,
        arrays: dict[str, Any],
        params: Params | None,
        dropout_rng: Array | None,
        indices_rng: Array | None,
        train: bool,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
        return_dict: bool | None,
        cache: Params | None = None,
    ) -> Any:
        config = self.config
        if train and dropout_rng is None and self._drops_out():
            raise ValueError(
                "train=True with dropout needs dropout_rng (a jax.random key); got None: pass "
                "one, or set the configuration's dropout rates to 0"
            )
        rngs = {
            "dropout": inputs.random_key("dropout_rng", dropout_rng),
            "indices": inputs.random_key("indices_rng", indices_rng),
        }
        variables: dict[str, Any] = {"params": self.params if params is None else params}
        module: Any = self.module
        if cache is not None:
            variables["cache"] = cache
            if train and indices_rng is not None:
                raise ValueError(
                    "indices_rng cannot redraw random blocks with past_key_values, which other "
                    "blocks were read for: leave one of them out"
                )
            several = arrays["input_ids"].shape[-1] > 1
            if several and hasattr(module, "prefill") and key_value_cache.is_empty(cache):
                module = module.clone(prefill=True)
        try:
            result = module.apply(
                variables,
                **arrays,
                deterministic=not train,
                output_attentions=_default(output_attentions, config.output_attentions),
                output_hidden_states=_default(output_hidden_states, config.output_hidden_states),
                return_dict=True
                if cache is not None
                else _default(return_dict, _return_dict(config)),
                rngs={name: key for name, key in rngs.items() if key is not None},
                mutable=["cache"] if cache is not None else False,
            )
        except (ScopeParamNotFoundError, ScopeParamShapeError) as error:
            raise ValueError(self._misfit(variables["params"], error)) from error
        if cache is None:
            return result
        output, updated = result
        output = output.replace(past_key_values=unfreeze(updated["cache"]))
        return output if _default(return_dict, _return_dict(config)) else output.to_tuple()

    def _misfit(self, params: Params, error: Exception) -> str:
        """Why `params` are not this model's."""
        given, wanted = (
            cast(dict[tuple[str, ...], Any], flatten_dict(unfreeze(tree)))
            for tree in (params, self._params_shape_tree)
        )
        wrong = [
            f"{'/'.join(path)} is {jnp.shape(given[path])}, not {leaf.shape}"
            if path in given
            else f"{'/'.join(path)} is missing"
            for path, leaf in wanted.items()
            if path not in given or jnp.shape(given[path]) != leaf.shape
        ]
        listed = "; ".join(wrong[:3]) or str(error)
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return (
            f"params must be those of a {type(self).__name__} of this configuration: "
            f"{listed}{more}. Pass the params of such a model, or fill in what is missing with "
            "model.init_weights"
        )

    def _drops_out(self) -> bool:
        config = self.config
        rates = (config.hidden_dropout_prob, config.attention_probs_dropout_prob)
        return any(rates) or bool(config.classifier_dropout)


def warn_once(message: str) -> None:
    """A `UserWarning` the first time a message is given in this process."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, UserWarning, stacklevel=3)


_warned: set[str] = set()


def _default(value: bool | None, default: bool) -> bool:
    return bool(default) if value is None else value


def _return_dict(config: Any) -> bool:
    # transformers 5 moved `return_dict` to `use_return_dict` and back between releases.
    return bool(getattr(config, "return_dict", True))


def _cast(params: Params, dtype: Any, mask: Any) -> Params:
    def cast(leaf: Any, wanted: bool = True) -> Any:
        return leaf.astype(dtype) if wanted and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, params) if mask is None else jax.tree.map(cast, params, mask)
