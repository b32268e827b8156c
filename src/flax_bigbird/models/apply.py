"""Runs a model's linen module on checked inputs."""

import dataclasses
import inspect
from typing import Any

import flax.linen as nn
from flax.core import unfreeze
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError
from jaxtyping import Array

from flax_bigbird.models import argument_checks as checks
from flax_bigbird.models import cache as kv_cache
from flax_bigbird.models.inputs import ModelInputs
from flax_bigbird.models.parameterized import ParameterizedModel, ParamsLike, mismatched_params


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The arguments of a model's call other than the input arrays.

    `FlaxBigBirdPreTrainedModel.__call__` documents them. Options that are None have the values
    that the configuration sets.
    """

    params: ParamsLike | None = None
    dropout_rng: Any = None
    indices_rng: Any = None
    train: bool = False
    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    return_dict: bool | None = None
    past_key_values: Any = None


def apply_module(model: ParameterizedModel, inputs: ModelInputs, options: RunOptions) -> Any:
    """Runs the module of the model.

    Returns:
      The output dataclass of the task, or a tuple if `return_dict` is False. With a key-value
      cache, it holds the updated cache.

    Raises:
      ValueError: If a random key is missing or malformed, or if the parameters are not those of
        the model.
    """
    config, module, cache = model.config, model.module, options.past_key_values
    return_dict = _option(options.return_dict, getattr(config, "return_dict", True))
    kwargs: dict[str, Any] = inputs.to_kwargs() | {
        "deterministic": not options.train,
        "output_attentions": _option(options.output_attentions, config.output_attentions),
        "output_hidden_states": _option(options.output_hidden_states, config.output_hidden_states),
        "return_dict": return_dict if cache is None else True,
    }
    if cache is None:
        return _apply(model, options, **kwargs)
    if inputs.input_ids.shape[-1] > 1 and kv_cache.is_known_empty(cache):
        kwargs |= prefill_argument(module)
    result = _apply(model, options, **kwargs, mutable=["cache"])
    output: Any = result[0]
    output = output.replace(past_key_values=unfreeze(result[1]["cache"]))
    return output if return_dict else output.to_tuple()


def compute_loss(
    model: ParameterizedModel, inputs: ModelInputs, options: RunOptions, **targets: Array | None
) -> Array:
    """Calls the `loss` of the model's module.

    Args:
      model: The model.
      inputs: The checked inputs.
      options: The other arguments of the call.
      **targets: The checked labels, by name.

    Raises:
      ValueError: As in `apply_module`.
    """
    return _apply(
        model,
        options,
        **targets,
        **inputs.to_kwargs(),
        deterministic=not options.train,
        method="loss",
    )


def _apply(model: ParameterizedModel, options: RunOptions, **kwargs: Any) -> Any:
    """Applies the module with the parameters, the cache and the random keys of a call."""
    rngs = _random_keys(model.config, options)
    params = model.params if options.params is None else options.params
    variables: dict[str, Any] = {"params": params}
    if options.past_key_values is not None:
        variables["cache"] = options.past_key_values
    try:
        return model.module.apply(variables, rngs=rngs, **kwargs)
    except (ScopeParamNotFoundError, ScopeParamShapeError) as error:
        raise ValueError(_describe_mismatch(model, params, error)) from error


def _option(value: bool | None, default: bool) -> bool:
    return bool(default) if value is None else value


def _random_keys(config: Any, options: RunOptions) -> dict[str, Array]:
    """Returns the random keys by the names of their streams."""
    rates = (
        config.hidden_dropout_prob,
        config.attention_probs_dropout_prob,
        config.classifier_dropout,
    )
    if options.train and options.dropout_rng is None and any(rates):
        raise ValueError(
            "train=True with dropout needs dropout_rng (a jax.random key); got None: pass "
            "one, or set the configuration's dropout rates to 0"
        )
    keys = {
        "dropout": checks.random_key("dropout_rng", options.dropout_rng),
        "indices": checks.random_key("indices_rng", options.indices_rng),
    }
    if options.past_key_values is not None and options.train and options.indices_rng is not None:
        raise ValueError(
            "indices_rng cannot redraw random blocks with past_key_values, which was computed with "
            "other blocks: leave one of them out"
        )
    return {name: key for name, key in keys.items() if key is not None}


def takes_keyword(module: nn.Module, name: str) -> bool:
    """Returns whether the module's `__call__` accepts a keyword argument of that name."""
    parameters = inspect.signature(module.__call__).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def prefill_argument(module: nn.Module) -> dict[str, bool]:
    """Returns the argument which says that the cache is empty, if the module takes it.

    A module of the user's own may lack it; its first call is then correct, but slower.
    """
    return {"prefill": True} if takes_keyword(module, "prefill") else {}


def _describe_mismatch(model: ParameterizedModel, params: ParamsLike, error: Exception) -> str:
    """Returns why `params` are not the parameters of the model."""
    wrong = mismatched_params(model, params)
    listed = "; ".join(wrong[:3]) or str(error)
    more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return (
        f"params must be those of a {type(model).__name__} of this configuration: "
        f"{listed}{more}. Pass the params of such a model, or fill in what is missing with "
        "model.init_weights"
    )
