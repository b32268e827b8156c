"""Loads the parameters of a model from a checkpoint."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from flax_bigbird import checkpoint
from flax_bigbird._messages import pluralize
from flax_bigbird.checkpoint import CheckpointError
from flax_bigbird.checkpoint.errors import warn_about_checkpoint
from flax_bigbird.models.parameterized import ParameterizedModel, Params

_PARAMETER_DTYPES = (jnp.float32, jnp.float16, jnp.bfloat16, jnp.float64)

# Heads that have the same name and shape, but another meaning.
_CONFUSABLE = {"BigBirdForMultipleChoice", "BigBirdForTokenClassification"}


def load_params(
    model: ParameterizedModel,
    source: checkpoint.Source,
    ignore_mismatched_sizes: bool,
    *,
    initialize: bool,
) -> Params:
    """Loads the parameters of a checkpoint that the model has.

    Args:
      model: The model.
      source: The checkpoint.
      ignore_mismatched_sizes: Whether to skip parameters whose shape differs.
      initialize: Whether the caller initializes what is missing; only the warning depends on it.

    Raises:
      CheckpointError: If the checkpoint has none of the model's parameters, or if some of them are
        not floating-point numbers.
      ValueError: If shapes differ.

    Warns:
      CheckpointWarning: If parameters are missing, or if the checkpoint has others.
    """
    matched = match_checkpoint(model, source, ignore_mismatched_sizes, initialize=initialize)
    return jax.tree.map(jnp.asarray, unflatten_dict(matched.params))


def match_checkpoint(
    model: ParameterizedModel,
    source: checkpoint.Source,
    ignore_mismatched_sizes: bool,
    *,
    initialize: bool,
    shapes_only: bool = False,
) -> checkpoint.MatchedParams:
    """Returns the parameters of a checkpoint that the model has; see `load_params`."""
    expected: dict[Any, Any] = flatten_dict(model.params_shape_tree)
    flat, file = checkpoint.load_weights(
        source, expected, model.base_model_prefix, shapes_only=shapes_only
    )
    matched = checkpoint.match_params(flat, expected)
    name = type(model).__name__
    shapes = [
        f"{'/'.join(path)}: {theirs} in the file, {ours} in the model"
        for path, (theirs, ours) in matched.mismatched.items()
    ]
    if shapes and not ignore_mismatched_sizes:
        raise ValueError(
            f"the parameters of {file} must have the shapes of {name}'s; {len(shapes)} do not:\n  "
            + "\n  ".join(shapes)
            + "\nUse the configuration that the checkpoint was made with, or pass "
            "ignore_mismatched_sizes=True to initialize them anew"
        )
    if not matched.params:
        raise CheckpointError(
            f"{file} has none of the {pluralize(len(expected), 'parameter')} of {name}; it has "
            f"{checkpoint.format_paths(matched.unexpected) or 'none at all'}: check that it is a "
            "checkpoint of a BigBird model"
        )
    _check_dtypes(matched.params, file)
    _warn_about_differences(name, file, matched, shapes, initialize=initialize)
    _warn_about_another_task(model)
    return matched


def _check_dtypes(params: checkpoint.Flat, file: Path) -> None:
    """Raises `CheckpointError` unless all parameters have one of `_PARAMETER_DTYPES`."""
    wrong = [
        f"{'/'.join(path)} is {leaf.dtype}"
        for path, leaf in params.items()
        if leaf.dtype not in _PARAMETER_DTYPES
    ]
    if wrong:
        raise CheckpointError(
            f"parameters must be float32, float16, bfloat16 or float64; in {file}, {len(wrong)} "
            f"are not: {', '.join(wrong[:8])}: download it again, or convert them"
        )


def _warn_about_differences(
    name: str,
    file: Path,
    matched: checkpoint.MatchedParams,
    shapes: list[str],
    *,
    initialize: bool,
) -> None:
    """Warns about parameters that only the model or only the file has."""
    missing = [checkpoint.format_paths(matched.missing)] if matched.missing else []
    missing += [f"of another shape: {'; '.join(shapes)}"] if shapes else []
    if missing:
        origin = f"of {name} that {file} does not have"
        one, many = "is missing from params", "are missing from params"
        if initialize:
            one, many = "was initialized anew: train it", "were initialized anew: train them"
        one, many = f"parameter {origin} {one}", f"parameters {origin} {many}"
        number = len(matched.missing) + len(shapes)
        warn_about_checkpoint(
            f"{pluralize(number, one, many)}: {'; '.join(missing)}",
            new_parameters=[*matched.missing, *matched.mismatched],
        )
    if matched.unexpected:
        origin = f"of {file} that {name} does not have"
        one, many = f"parameter {origin} was not read", f"parameters {origin} were not read"
        paths = checkpoint.format_paths(matched.unexpected)
        warn_about_checkpoint(
            f"{pluralize(len(matched.unexpected), one, many)}: {paths}",
            unread_parameters=matched.unexpected,
        )


def _warn_about_another_task(model: ParameterizedModel) -> None:
    """Warns about a head that fits by name and shape, but was trained for another task."""
    theirs = {a.removeprefix("Flax") for a in model.config.architectures or ()} & _CONFUSABLE
    ours = {cls.__name__.removeprefix("Flax") for cls in type(model).__mro__} & _CONFUSABLE
    if theirs and ours and theirs != ours:
        warn_about_checkpoint(
            f"the checkpoint's classifier is that of {theirs.pop()}, which has another meaning "
            f"than that of {type(model).__name__}: train it"
        )
