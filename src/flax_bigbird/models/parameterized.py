"""`ParameterizedModel`: a configuration, its linen module and the module's parameters."""

import copy
import functools
from typing import Any, ClassVar, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict, unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from flax_bigbird import _transformers
from flax_bigbird.config import SparsityConfig
from flax_bigbird.models.config_checks import check_config

Params = dict[str, Any]
ParamsLike = dict[str, Any] | FrozenDict
_Model = TypeVar("_Model", bound="ParameterizedModel")


class _ConfigClass:
    """Imports `transformers.BigBirdConfig` when it is first accessed."""

    def __get__(self, instance: Any, owner: type) -> type:
        return _transformers.bigbird_config_class()


class ParameterizedModel:
    """A configuration, its linen module and the module's parameters.

    `FlaxBigBirdPreTrainedModel` documents the arguments of the constructor. A subclass sets the
    class attributes that describe its module.

    Attributes:
      module_class: The class of the linen module.
      input_rank: The number of axes of input_ids.
      takes_encoder_states: Whether the module has cross-attention inputs and a key-value cache.
      has_language_head: Whether the module computes logits over the vocabulary.
      takes_packed_rows: Whether every output belongs to one token, so that several examples may be
        packed into a row.
    """

    config_class = _ConfigClass()
    base_model_prefix: ClassVar[str] = "bert"
    framework: ClassVar[str] = "flax"
    main_input_name: ClassVar[str] = "input_ids"
    module_class: ClassVar[type[nn.Module] | None] = None
    input_rank: ClassVar[int] = 2
    takes_encoder_states: ClassVar[bool] = False
    has_language_head: ClassVar[bool] = False
    takes_packed_rows: ClassVar[bool] = False

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
        self._config = self._copy_config(config)
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
        self.input_shape = self._initial_shape(input_shape)
        self._is_initialized = _do_init
        self._params: Params | None = None
        init = functools.partial(self._random_params, shape=self.input_shape)
        self._params_shape_tree = jax.eval_shape(init, self.key)
        if _do_init:
            self._params = jax.jit(init)(self.key)

    def _copy_config(self, config: Any) -> Any:
        """Returns the model's own copy of the caller's configuration."""
        return copy.deepcopy(config)

    def _initial_shape(self, input_shape: tuple[int, ...] | None) -> tuple[int, ...]:
        if input_shape is None:
            sparse = self.sparsity.attention_type == "block_sparse"
            length = 12 * self.sparsity.block_size if sparse else 1
            input_shape = (1,) * (self.input_rank - 1) + (length,)
        if len(input_shape) != self.input_rank:
            raise ValueError(
                f"input_shape must have {self.input_rank} axes, as the input_ids of "
                f"{type(self).__name__}; got {tuple(input_shape)}"
            )
        return tuple(input_shape)

    @property
    def config(self) -> Any:
        """The model's own `BigBirdConfig`."""
        return self._config

    @property
    def sparsity(self) -> SparsityConfig:
        """The configuration of attention, which follows from `config`."""
        return SparsityConfig.from_hf(self._config)

    @property
    def module(self) -> nn.Module:
        """The linen module."""
        return self._module

    def _with_module(self: _Model, config: Any = None, **changes: Any) -> _Model:
        """Returns a model that shares the parameters, with other fields of the module."""
        model = copy.copy(self)
        model._config = self._config if config is None else config
        model._module = self._module.clone(config=model._config, **changes)
        return model

    def enable_gradient_checkpointing(self, *, keep_attention: bool = False) -> None:
        """Recomputes each layer in the backward pass, which saves memory.

        A training step then takes about a third more time.

        Args:
          keep_attention: Whether to save the results of attention instead of recomputing them,
            which takes the memory of one hidden state per layer.
        """
        self._module = self._module.clone(
            gradient_checkpointing="attention" if keep_attention else True
        )

    @property
    def params(self) -> Params:
        """The parameters, a nested dict. The setter refuses a tree that lacks parameters."""
        if self._params is None:
            raise ValueError(
                "this model holds no parameters (it was created with _do_init=False): pass params= "
                "to the call, or initialize them with model.init_weights(key, model.input_shape)"
            )
        return self._params

    @params.setter
    def params(self, params: ParamsLike) -> None:
        if not self._is_initialized:
            raise ValueError(
                "params cannot be set on a model created with _do_init=False: keep them outside "
                "and pass params= to every call"
            )
        tree = unfreeze(params)
        missing = self.required_params - set(flatten_dict(tree))
        if missing:
            names = ", ".join(sorted("/".join(path) for path in missing))
            raise ValueError(
                f"params must hold every parameter of the model; missing: {names}. Fill them with "
                "model.init_weights(key, model.input_shape, params)"
            )
        self._params = tree

    def _adopt_params(self, params: ParamsLike) -> None:
        """Sets the parameters of a model that was created without them."""
        self._is_initialized = True
        self.params = params

    @property
    def required_params(self) -> set[tuple[str, ...]]:
        """The path of every parameter."""
        return set(flatten_dict(self._params_shape_tree))

    @property
    def params_shape_tree(self) -> Params:
        """The `jax.ShapeDtypeStruct` of every parameter."""
        return self._params_shape_tree

    def init_weights(
        self,
        rng: Array,
        input_shape: tuple[int, ...],
        params: ParamsLike | None = None,
    ) -> Params:
        """Returns random parameters.

        Args:
          rng: A random key.
          input_shape: The shape of the input that the parameters are initialized with.
          params: Existing parameters, which are kept; only missing ones are initialized.
        """
        fresh = jax.jit(functools.partial(self._random_params, shape=tuple(input_shape)))(rng)
        if params is None:
            return fresh
        return unflatten_dict(flatten_dict(fresh) | flatten_dict(unfreeze(params)))

    def _random_params(self, rng: Array, shape: tuple[int, ...]) -> Params:
        names = ("params", "dropout", "indices")
        keys: dict[str, Any] = dict(zip(names, jax.random.split(rng, 3), strict=True))
        # All positions are 0, because the position table may be shorter than the input.
        ids = jnp.zeros(shape, jnp.int32)
        kwargs: dict[str, Any] = {
            "attention_mask": jnp.ones(shape, bool),
            "token_type_ids": ids,
            "position_ids": ids,
            "head_mask": None,
        }
        if self.config.add_cross_attention and self.takes_encoder_states:
            states = (*shape, self.config.hidden_size)
            kwargs["encoder_hidden_states"] = jnp.zeros(states, self.dtype)
            kwargs["encoder_attention_mask"] = jnp.ones(shape, bool)
        variables = self.module.init(keys, ids, **kwargs, return_dict=False)
        return unfreeze(variables["params"])

    def to_bf16(self, params: ParamsLike, mask: Any = None) -> Any:
        """Returns the floating-point parameters as bfloat16, where the tree `mask` is True."""
        return _cast(params, jnp.bfloat16, mask)

    def to_fp16(self, params: ParamsLike, mask: Any = None) -> Any:
        """Returns the floating-point parameters as float16, where the tree `mask` is True."""
        return _cast(params, jnp.float16, mask)

    def to_fp32(self, params: ParamsLike, mask: Any = None) -> Any:
        """Returns the floating-point parameters as float32, where the tree `mask` is True."""
        return _cast(params, jnp.float32, mask)


def _cast(params: ParamsLike, dtype: Any, mask: Any) -> Any:
    def cast(leaf: Any, selected: bool = True) -> Any:
        return leaf.astype(dtype) if selected and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, params) if mask is None else jax.tree.map(cast, params, mask)


def mismatched_params(model: ParameterizedModel, params: ParamsLike) -> list[str]:
    """Returns a description of every parameter that is missing or has another shape."""
    given: dict[Any, Any] = flatten_dict(unfreeze(params))
    expected: dict[Any, Any] = flatten_dict(model.params_shape_tree)
    return [
        f"{'/'.join(path)} has shape {jnp.shape(given[path])}, not {tuple(leaf.shape)}"
        if path in given
        else f"{'/'.join(path)} is missing"
        for path, leaf in expected.items()
        if path not in given or jnp.shape(given[path]) != tuple(leaf.shape)
    ]
