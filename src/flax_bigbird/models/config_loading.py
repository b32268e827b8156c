"""Loads configurations from a checkpoint: of the model, and of generation."""

import copy
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from flax_bigbird import _transformers, checkpoint
from flax_bigbird._messages import on_one_line
from flax_bigbird.checkpoint import CheckpointError
from flax_bigbird.checkpoint.errors import warn_about_checkpoint
from flax_bigbird.config import OWN_KEYS, SparsityConfig
from flax_bigbird.models.config_checks import check_config
from flax_bigbird.models.config_rules import find_invalid_key
from flax_bigbird.models.parameterized import ParameterizedModel

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
        warn_about_checkpoint(
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


def load_config(source: checkpoint.Source, remedy: str = "check the path") -> Any:
    """Returns the `BigBirdConfig` of a checkpoint.

    Args:
      source: The checkpoint.
      remedy: What the message about a missing file advises.

    Raises:
      CheckpointError: If it is missing, broken, or that of another architecture, or if a key has an
        invalid value; the message names the file and the key.
    """
    config_class = _transformers.bigbird_config_class()
    config = _load_config_file(config_class, source, remedy=remedy)
    _check_file(config, source)
    return config


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
    config_class: Any,
    source: checkpoint.Source,
    name: str = "config.json",
    remedy: str = "check the path, or pass config=",
) -> Any:
    content = _load_json(source, name)
    if content is None:
        raise CheckpointError(
            f"a checkpoint is a folder or Hub repository with config.json and weights "
            f"({', '.join(checkpoint.WEIGHT_FILES)}); no {name} in {source}{source.hint}: "
            f"{remedy}"
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
