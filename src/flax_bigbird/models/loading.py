"""Loads the configuration and the parameters of a model from a checkpoint."""

import copy
import dataclasses
import inspect
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from flax_bigbird import _transformers, checkpoint
from flax_bigbird._messages import on_one_line, pluralize
from flax_bigbird.checkpoint import CheckpointError, CheckpointWarning
from flax_bigbird.config import OWN_KEYS, SparsityConfig
from flax_bigbird.models.config_checks import check_config
from flax_bigbird.models.config_rules import find_invalid_key
from flax_bigbird.models.parameterized import ParameterizedModel, Params

# Keywords of HF-Flax that change nothing here: code of a repository is never run, interrupted
# downloads are always resumed, and auto classes and pipelines pass the names with an underscore.
_IGNORED_KEYWORDS = {
    "trust_remote_code",
    "resume_download",
    "from_pt",
    "proxies",
    "adapter_kwargs",
    "_commit_hash",
    "_from_auto",
    "_from_pipeline",
}

# Fields of a linen module that are not options of `from_pretrained`.
_RESERVED_FIELDS = {"parent", "name", "config", "dtype", "gradient_checkpointing"}

_PARAMETER_DTYPES = (jnp.float32, jnp.float16, jnp.bfloat16, jnp.float64)

# Heads that have the same name and shape, but another meaning.
_CONFUSABLE = {"BigBirdForMultipleChoice", "BigBirdForTokenClassification"}


def resolve_config(
    cls: type[ParameterizedModel],
    source: checkpoint.Source,
    config: Any,
    overrides: dict[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """Returns the configuration of a checkpoint, and the module fields among the overrides.

    Args:
      cls: The class of the model.
      source: The checkpoint.
      config: A configuration, a dict or a path, which replaces that of the checkpoint; or None.
      overrides: Configuration keys, which are set, and fields of the module.

    Raises:
      CheckpointError: If the configuration is missing, broken, or that of another architecture.
      TypeError: If `config` is none of these.
      ValueError: If an override is neither a configuration key nor a field of the module.
    """
    is_file = config is None
    config = _load_config(cls.config_class, source, config)
    if is_file and not overrides:  # which may correct it; the model checks it in any case
        _check_file(config, source)
    module_class: Any = cls.module_class
    fields = {field.name for field in dataclasses.fields(module_class)} - _RESERVED_FIELDS
    module_kwargs: dict[str, Any] = {}
    own_keys = (*OWN_KEYS, SparsityConfig.IMPLEMENTATION_KEY)
    if overrides.get("proxies"):
        _warn(
            "proxies= is not used: the client of the Hub reads the environment variables "
            "HTTPS_PROXY and HTTP_PROXY instead; set them"
        )
    for key, value in overrides.items():
        if key in _IGNORED_KEYWORDS:
            continue
        if key in own_keys or not callable(getattr(config, key, len)):
            setattr(config, key, value)
        elif key in fields:
            module_kwargs[key] = value
        else:
            raise ValueError(
                f"a keyword must be a configuration key or a field of {module_class.__name__} "
                f"({', '.join(sorted(fields)) or 'it has none of its own'}); got {key}={value!r}: "
                "check the spelling, or put it into the configuration"
            )
    return config, module_kwargs


def load_config(source: checkpoint.Source) -> Any:
    """Returns the `BigBirdConfig` of a checkpoint.

    Raises:
      CheckpointError: If it is missing, broken, or that of another architecture, or if a key has an
        invalid value; the message names the file and the key.
    """
    config = _load_config(_transformers.bigbird_config_class(), source, None)
    _check_file(config, source)
    return config


def _check_file(config: Any, source: checkpoint.Source) -> None:
    """Checks values that depend on each other, and names the file if they are invalid."""
    try:
        check_config(config)
    except ValueError as error:
        raise CheckpointError(f"config.json of {source}: {error}") from error


def _load_config(config_class: Any, source: checkpoint.Source, config: Any) -> Any:
    if isinstance(config, _transformers.bigbird_config_class()):
        return copy.deepcopy(config)
    if isinstance(config, dict):
        return _create_config(config_class, config, "config")
    elif config is None:
        return _load_config_file(config_class, source)
    elif isinstance(config, str | os.PathLike):
        path = Path(config)
        is_file = path.suffix == ".json"
        folder = os.fspath(path.parent if is_file else config)
        local = dataclasses.replace(source, name=folder, subfolder="")
        return _load_config_file(config_class, local, path.name if is_file else "config.json")
    raise TypeError(
        "config must be a transformers.BigBirdConfig, a dict, or the path or Hub id of one; "
        f"got {type(config).__name__}"
    )


def _load_config_file(
    config_class: Any, source: checkpoint.Source, name: str = "config.json"
) -> Any:
    content = _load_json(source, name)
    if content is None:
        raise CheckpointError(
            f"a checkpoint is a folder or Hub repository with config.json and weights "
            f"({', '.join(checkpoint.WEIGHT_FILES)}); no {name} in {source}{source.hint}: check "
            "the path, or pass config="
        )
    return _create_config(config_class, content, f"{name} of {source}")


def _create_config(config_class: Any, content: dict[str, Any], where: str) -> Any:
    """Returns a configuration with the content of a file, which is checked."""
    model_type = content.get("model_type", config_class.model_type)
    if isinstance(model_type, str) and model_type != config_class.model_type:
        raise CheckpointError(
            f"these classes load models of type {config_class.model_type!r}; {where} says "
            f"{model_type!r}: load it with the classes of its own type"
        )
    invalid = find_invalid_key(content, config_class)
    if invalid is not None:
        raise CheckpointError(f"{where}: {invalid}: correct it, or download it again")
    try:
        return config_class.from_dict(copy.deepcopy(content))
    except Exception as error:  # `transformers` has no common exception for invalid values
        raise CheckpointError(
            f"{where} must be a configuration of {config_class.model_type!r}; it is not "
            f"({on_one_line(error)}): correct it, or download it again"
        ) from error


def _load_json(source: checkpoint.Source, name: str) -> dict[str, Any] | None:
    path = source.get(name)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not JSON ({on_one_line(error)}): download it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} must hold a JSON object; it holds {type(content).__name__}: download it again"
        )
    return content


def load_generation_config(source: checkpoint.Source) -> Any:
    """Returns the `GenerationConfig` of a checkpoint, or None if it has none."""
    content = _load_json(source, "generation_config.json")
    if content is None:
        return None
    try:
        return _transformers.generation_config_class().from_dict(content)
    except Exception as error:  # see `_create_config`
        raise CheckpointError(
            f"generation_config.json of {source} must be one of `transformers`; it is not "
            f"({on_one_line(error)}): correct it, or remove it"
        ) from error


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
        _warn(
            f"{pluralize(number, one, many)}: {'; '.join(missing)}",
            new_parameters=[*matched.missing, *matched.mismatched],
        )
    if matched.unexpected:
        origin = f"of {file} that {name} does not have"
        one, many = f"parameter {origin} was not read", f"parameters {origin} were not read"
        paths = checkpoint.format_paths(matched.unexpected)
        _warn(
            f"{pluralize(len(matched.unexpected), one, many)}: {paths}",
            unread_parameters=matched.unexpected,
        )


def _warn_about_another_task(model: ParameterizedModel) -> None:
    """Warns about a head that fits by name and shape, but was trained for another task."""
    theirs = {a.removeprefix("Flax") for a in model.config.architectures or ()} & _CONFUSABLE
    ours = {cls.__name__.removeprefix("Flax") for cls in type(model).__mro__} & _CONFUSABLE
    if theirs and ours and theirs != ours:
        _warn(
            f"the checkpoint's classifier is that of {theirs.pop()}, which has another meaning "
            f"than that of {type(model).__name__}: train it"
        )


def _warn(message: str, **parameters: Iterable[tuple[str, ...]]) -> None:
    """Gives a warning that points to the caller of `from_pretrained`.

    Args:
      message: The message.
      **parameters: The attributes of the `CheckpointWarning`.
    """
    # Runtime type checkers wrap functions, which adds frames in between.
    skipped = {"flax_bigbird", "jaxtyping", "beartype"}
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in skipped:
        frame, level = frame.f_back, level + 1
    warnings.warn(CheckpointWarning(message, **parameters), stacklevel=level)
