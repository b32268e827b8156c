"""`from_pretrained`, `save_pretrained` and `push_to_hub` of every task class."""

import copy
import dataclasses
import inspect
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

from flax_bigbird import _transformers, checkpoint
from flax_bigbird.checkpoint import CheckpointError
from flax_bigbird.checkpoint import CheckpointWarning as CheckpointWarning
from flax_bigbird.config import SparsityConfig

# Keywords of HF-Flax that change nothing here: no code of a repository is ever run, and interrupted
# downloads always resume.
_WITHOUT_EFFECT = {"trust_remote_code", "resume_download", "from_pt"}

# Heads of one name and one shape that mean different things.
_CONFUSABLE = {"BigBirdForMultipleChoice", "BigBirdForTokenClassification"}


class PretrainedIO:
    """Reading and writing checkpoints; mixed into `FlaxBigBirdPreTrainedModel`."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        dtype: Any = jnp.float32,
        *model_args: Any,
        config: Any = None,
        cache_dir: str | os.PathLike[str] | None = None,
        ignore_mismatched_sizes: bool = False,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str | None = "main",
        subfolder: str = "",
        _do_init: bool = True,
        input_shape: tuple[int, ...] | None = None,
        seed: int = 0,
        gradient_checkpointing: bool | str = False,
        from_pt: bool = False,
        **overrides: Any,
    ) -> Any:
        """Loads a model from a folder or a Hub id, in whichever format its weights are.

        Args:
          pretrained_model_name_or_path: a folder written by any of flax-bigbird, `transformers`
            (PyTorch) or `transformers` 4 (Flax), or a Hub id.
          dtype: of the computation; parameters keep the file's (float64 needs `jax_enable_x64`).
          config: a `BigBirdConfig`, a dict, or the path of one, in the place of the folder's own.
          ignore_mismatched_sizes: initialise leaves whose shape differs, where else it is an error.
          _do_init: False returns `(model, params)` and makes no parameters: leaves that the file
            lacks are named in a warning, and missing from `params`.
          from_pt: accepted, and never needed: the format is read off the files.
          overrides: configuration keys (`num_labels=3`), or fields of the task's linen module.

        Returns:
          The model, or `(model, params)` with `_do_init=False`.

        Raises:
          CheckpointError: the files are missing, broken, or of another architecture.
          ValueError: shapes differ (all of them are listed), or an unknown keyword.

        Warns:
          CheckpointWarning: once for leaves that were initialised, once for leaves left unread.
        """
        del from_pt
        source = checkpoint.Source(
            os.fspath(pretrained_model_name_or_path),
            revision=revision,
            subfolder=subfolder,
            token=_token(token, overrides),
            cache_dir=None if cache_dir is None else os.fspath(cache_dir),
            force_download=force_download,
            local_files_only=local_files_only,
        )
        config, module_kwargs = _configure(cls, source, config, overrides)
        if input_shape is not None:
            module_kwargs["input_shape"] = input_shape
        task: Any = cls
        model = task(
            config,
            *model_args,
            seed=seed,
            dtype=dtype,
            _do_init=False,
            gradient_checkpointing=gradient_checkpointing,
            **module_kwargs,
        )
        params = _load(model, source, ignore_mismatched_sizes, filling=_do_init)
        if model.can_generate():
            model.generation_config = _generation_config(source) or model.generation_config
        if not _do_init:
            return model, params
        model._is_initialized = True
        if model.required_params - set(flatten_dict(params)):
            params = model.init_weights(model.key, model.input_shape, params)
        model.params = params
        return model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        params: Any = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "10GB",
        token: str | bool | None = None,
        safe_serialization: bool = True,
        *,
        repo_id: str | None = None,
        **hub_options: Any,
    ) -> None:
        """Writes `config.json` and the weights; a crash on the way leaves the old weights whole.

        Args:
          save_directory: made if need be; a model saved there before is replaced.
          params: default the model's own.
          push_to_hub: also upload it, to `repo_id` or a repository of the folder's name; further
            options are those of `push_to_hub`.
          max_shard_size: bytes, or text such as "5GB"; larger weights are split into files.
          safe_serialization: `model.safetensors` with PyTorch's names, which `transformers` opens
            too; False writes `flax_model.msgpack`.

        Raises:
          CheckpointError: the folder is a file, or cannot be written.
          ValueError: `params` are not the model's; nothing is written.
        """
        token = _token(token, hub_options)
        _check_hub_options(hub_options)
        folder = Path(save_directory).expanduser()
        files = self._save(folder, params, max_shard_size, safe_serialization)
        if push_to_hub:
            name = repo_id or folder.resolve().name
            _upload(folder, files, name, token=token, **hub_options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        params: Any = None,
        max_shard_size: int | str = "10GB",
        token: str | bool | None = None,
        safe_serialization: bool = True,
        **hub_options: Any,
    ) -> Any:
        """Saves the model and uploads it to the Hub repository, which is made if need be.

        Args:
          hub_options: `commit_message`, `commit_description`, `private`, `revision`, `create_pr`.

        Returns:
          What the Hub says of the commit.
        """
        token = _token(token, hub_options)
        hub_options.pop("use_temp_dir", None)  # always
        _check_hub_options(hub_options)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = self._save(folder, params, max_shard_size, safe_serialization)
            return _upload(folder, files, repo_id, token=token, **hub_options)

    def _save(
        self, folder: Path, params: Any, max_shard_size: int | str, safe_serialization: bool
    ) -> list[str]:
        """Saves into a folder; the names of the files."""
        model: Any = self
        flat = flatten_dict(unfreeze(model.params if params is None else params))
        _check_params(model, flat)
        config = copy.deepcopy(model.config)
        config.architectures = [type(self).__name__.removeprefix("Flax")]
        documents = {"config.json": config.to_json_string()}
        if model.generation_config is not None:
            generation = model.generation_config.to_json_string()
            documents = {"generation_config.json": generation} | documents
        return checkpoint.save_checkpoint(
            folder,
            flat,
            documents,
            max_shard_size=max_shard_size,
            safe_serialization=safe_serialization,
        )


def _check_params(model: Any, flat: dict[Any, Any]) -> None:
    """Raises for leaves that are missing or of another shape than the model's, all at once."""
    expected: dict[Any, Any] = flatten_dict(model.params_shape_tree)
    wrong = [
        f"{'/'.join(path)} is missing"
        if path not in flat
        else f"{'/'.join(path)} has shape {jnp.shape(flat[path])}, not {tuple(leaf.shape)}"
        for path, leaf in expected.items()
        if path not in flat or jnp.shape(flat[path]) != tuple(leaf.shape)
    ]
    if wrong:
        more = f", and {len(wrong) - 12} more" if len(wrong) > 12 else ""
        raise ValueError(
            f"params must be those of the model to be saved; {', '.join(wrong[:12])}{more}. Pass "
            "the whole tree, of one replica (flax.jax_utils.unreplicate)"
        )


def _token(token: str | bool | None, options: dict[str, Any]) -> str | bool | None:
    """The token, or what an older program passes as `use_auth_token`."""
    older = options.pop("use_auth_token", None)
    return older if token is None else token


def _check_hub_options(options: dict[str, Any]) -> None:
    known = {"commit_message", "commit_description", "private", "revision", "create_pr"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(
            f"unknown keywords {', '.join(unknown)}: those passed on to the Hub are "
            f"{', '.join(sorted(known))}"
        )


def _upload(
    folder: Path,
    files: list[str],
    repo_id: str,
    *,
    token: str | bool | None,
    private: bool | None = None,
    commit_message: str | None = None,
    **options: Any,
) -> Any:
    """One commit: the files, and no weights of an earlier save."""
    import huggingface_hub

    api = huggingface_hub.HfApi(token=token)
    repo = api.create_repo(repo_id, private=private, exist_ok=True)
    if options.get("revision") and not options["revision"].startswith("refs/"):
        api.create_branch(repo.repo_id, branch=options["revision"], exist_ok=True)
    return api.upload_folder(
        repo_id=repo.repo_id,
        folder_path=folder,
        allow_patterns=files,
        delete_patterns=checkpoint.weight_file_patterns(),
        commit_message=commit_message or "Upload BigBird model",
        **options,
    )


def _configure(
    cls: Any, source: checkpoint.Source, config: Any, overrides: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The configuration with the overrides that are its keys, and the other overrides."""
    config_class = cls.config_class
    if isinstance(config, _transformers.bigbird_config_class()):
        config = copy.deepcopy(config)
    elif isinstance(config, dict):
        config = config_class.from_dict(copy.deepcopy(_big_bird(config_class, config, "config")))
    elif config is None:
        config = config_class.from_dict(_read_config(config_class, source))
    elif isinstance(config, str | os.PathLike):
        path = Path(config)
        is_file = path.suffix == ".json"
        local = dataclasses.replace(
            source, name=os.fspath(path.parent if is_file else config), subfolder=""
        )
        name = path.name if is_file else "config.json"
        config = config_class.from_dict(_read_config(config_class, local, name))
    else:
        raise TypeError(
            "config must be a transformers.BigBirdConfig, a dict, or the path or Hub id of one; "
            f"got {type(config).__name__}"
        )
    taken = {"parent", "name", "config", "dtype", "gradient_checkpointing"}
    taken |= {"prefill"}  # of single calls
    fields = {field.name for field in dataclasses.fields(cls.module_class)} - taken
    rest: dict[str, Any] = {}
    for key, value in overrides.items():
        if key in SparsityConfig.KEYS or not callable(getattr(config, key, len)):
            setattr(config, key, value)
        elif key in fields:
            rest[key] = value
        elif key not in _WITHOUT_EFFECT:
            raise ValueError(
                f"a keyword must be a configuration key or a field of {cls.module_class.__name__} "
                f"({', '.join(sorted(fields)) or 'it has none of its own'}); got {key}={value!r}: "
                "check the spelling, or put it into the configuration"
            )
    return config, rest


def _read_config(
    config_class: Any, source: checkpoint.Source, name: str = "config.json"
) -> dict[str, Any]:
    content = _read_json(source, name)
    if content is None:
        raise CheckpointError(
            f"a checkpoint is a folder or Hub repository with config.json and weights "
            f"({', '.join(checkpoint.WEIGHT_FILES)}); no {name} in {source}{source.hint}: check "
            "the path, or pass config="
        )
    return _big_bird(config_class, content, f"{name} of {source}")


def _big_bird(config_class: Any, content: dict[str, Any], what: str) -> dict[str, Any]:
    kind = content.get("model_type", config_class.model_type)
    if kind != config_class.model_type:
        raise CheckpointError(
            f"these classes read models of type {config_class.model_type!r}; {what} says "
            f"{kind!r}: load it with the classes of its own type"
        )
    return content


def _read_json(source: checkpoint.Source, name: str) -> dict[str, Any] | None:
    path = source.get(name)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}): download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object; it holds {type(content).__name__}")
    return content


def _generation_config(source: checkpoint.Source) -> Any:
    content = _read_json(source, "generation_config.json")
    if content is None:
        return None
    return _transformers.generation_config_class().from_dict(content)


def _load(
    model: Any, source: checkpoint.Source, ignore_mismatched_sizes: bool, *, filling: bool
) -> dict[str, Any]:
    """The leaves of the checkpoint that the model has; warns of and raises for the rest."""
    expected = flatten_dict(model.params_shape_tree)
    flat, file = checkpoint.load_weights(source, expected, model.base_model_prefix)
    fit = checkpoint.match_params(flat, expected)
    name = type(model).__name__
    shapes = [
        f"{'/'.join(path)}: {theirs} in the file, {ours} in the model"
        for path, (theirs, ours) in fit.mismatched.items()
    ]
    if shapes and not ignore_mismatched_sizes:
        raise ValueError(
            f"the leaves of {file} must have the shapes of {name}'s; {len(shapes)} have not:\n  "
            + "\n  ".join(shapes)
            + "\nUse the configuration the checkpoint was made with, or pass "
            "ignore_mismatched_sizes=True to initialise them anew"
        )
    if not fit.params:
        raise CheckpointError(
            f"{file} has none of the {len(expected)} leaves of {name}; it has "
            f"{checkpoint.format_paths(fit.unexpected) or 'none at all'}: is it a BigBird's?"
        )
    fate = "were initialised anew: train them" if filling else "are missing from params"
    absent = [checkpoint.format_paths(fit.missing)] if fit.missing else []
    absent += [f"of another shape: {'; '.join(shapes)}"] if shapes else []
    if absent:
        _warn(
            f"{len(fit.missing) + len(shapes)} leaves of {name} that {file} does not have {fate}: "
            + "; ".join(absent)
        )
    if fit.unexpected:
        _warn(
            f"{len(fit.unexpected)} leaves of {file} that {name} does not have were not read: "
            + checkpoint.format_paths(fit.unexpected)
        )
    _warn_of_another_task(model)
    return jax.tree.map(jnp.asarray, unflatten_dict(fit.params))


def _warn_of_another_task(model: Any) -> None:
    """Warns of a head that fits by name and shape, and was trained for something else."""
    theirs = {a.removeprefix("Flax") for a in model.config.architectures or ()} & _CONFUSABLE
    ours = {cls.__name__.removeprefix("Flax") for cls in type(model).__mro__} & _CONFUSABLE
    if theirs and ours and theirs != ours:
        _warn(
            f"the checkpoint's classifier is that of {theirs.pop()}, which means something else "
            f"than that of {type(model).__name__}: train it"
        )


def _warn(message: str) -> None:
    """Warns the caller of `from_pretrained`."""
    level, frame = 2, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, CheckpointWarning, stacklevel=level - 1)
