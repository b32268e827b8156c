"""`from_pretrained`, `save_pretrained` and `push_to_hub` of every task class."""

import copy
import dataclasses
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

from flax_bigbird import _hf, checkpoint
from flax_bigbird.checkpoint import CheckpointError, writing

# Configuration keys of ours, which a config.json of another origin lacks.
OWN_CONFIG_KEYS = ("random_attention", "random_attention_seed", "padding_invariant")


class CheckpointWarning(UserWarning):
    """Leaves that a checkpoint lacks, or has and the model does not."""


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
        revision: str | None = None,
        subfolder: str = "",
        _do_init: bool = True,
        input_shape: tuple[int, ...] | None = None,
        seed: int = 0,
        gradient_checkpointing: bool = False,
        from_pt: bool = False,
        **overrides: Any,
    ) -> Any:
        """Loads a model from a folder or a Hub id, in whichever format its weights are.

        Args:
          pretrained_model_name_or_path: a folder written by any of flax-bigbird, `transformers`
            (PyTorch) or `transformers` 4 (Flax), or a Hub id.
          dtype: of the computation; parameters keep the file's.
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
            token=token,
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
        **hub_options: Any,
    ) -> None:
        """Writes `config.json` and the weights; a crash on the way leaves the old files whole.

        Args:
          save_directory: made if need be; a model saved there before is replaced.
          params: default the model's own.
          push_to_hub: also upload it, to `hub_options["repo_id"]` or the folder's name.
          max_shard_size: bytes, or text such as "5GB"; larger weights are split into files.
          safe_serialization: `model.safetensors` with PyTorch's names, which `transformers` opens
            too; False writes `flax_model.msgpack`.

        Raises:
          CheckpointError: the folder is a file, or cannot be written.
          ValueError: `params` lacks leaves of the model; nothing is written.
        """
        model: Any = self
        flat = flatten_dict(unfreeze(model.params if params is None else params))
        missing = sorted(model.required_params - set(flat))
        if missing:
            raise ValueError(
                "params must hold every leaf of the model to be saved; missing: "
                f"{checkpoint.listing(missing)}"
            )
        folder = writing.prepare_folder(save_directory)
        config = copy.deepcopy(model.config)
        config.architectures = [type(self).__name__.removeprefix("Flax")]
        generation_config = model.generation_config
        with writing.staged(folder) as stage:
            files = writing.stage_weights(
                stage, flat, max_shard_size=max_shard_size, safe_serialization=safe_serialization
            )
            if generation_config is not None:
                text = generation_config.to_json_string()
                stage("generation_config.json", lambda path: path.write_text(text, "utf-8"))
            stage("config.json", lambda path: path.write_text(config.to_json_string(), "utf-8"))
        writing.remove_stale(folder, files)
        if push_to_hub:
            repo_id = hub_options.pop("repo_id", folder.resolve().name)
            _upload(folder, repo_id, token=token, **hub_options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        params: Any = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        max_shard_size: int | str = "10GB",
        safe_serialization: bool = True,
    ) -> Any:
        """Saves the model and uploads it to the Hub repository, which is made if need be."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(
                folder,
                params=params,
                max_shard_size=max_shard_size,
                safe_serialization=safe_serialization,
            )
            return _upload(
                Path(folder),
                repo_id,
                token=token,
                commit_message=commit_message,
                private=private,
                revision=revision,
            )


def _upload(
    folder: Path,
    repo_id: str,
    *,
    token: str | bool | None = None,
    commit_message: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> Any:
    import huggingface_hub

    api = huggingface_hub.HfApi(token=token)
    repo = api.create_repo(repo_id, private=private, exist_ok=True)
    return api.upload_folder(
        repo_id=repo.repo_id,
        folder_path=folder,
        revision=revision,
        commit_message=commit_message or "Upload BigBird model",
    )


def _configure(
    cls: type, source: checkpoint.Source, config: Any, overrides: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The configuration with the overrides that are its keys, and the other overrides."""
    config_class = _hf.bigbird_config_class()
    if isinstance(config, config_class):
        config = copy.deepcopy(config)
    elif isinstance(config, dict):
        config = config_class.from_dict(config)
    elif config is None:
        config = config_class.from_dict(_read_config(source))
    else:
        path = Path(os.fspath(config))
        folder = path.parent if path.suffix == ".json" else path
        local = dataclasses.replace(source, name=str(folder), subfolder="")
        name = path.name if path.suffix == ".json" else "config.json"
        config = config_class.from_dict(_read_config(local, name))
    module_class: Any = cls.module_class  # type: ignore[attr-defined]
    fields = {f.name for f in dataclasses.fields(module_class)} - {"parent", "name", "config"}
    rest: dict[str, Any] = {}
    for key, value in overrides.items():
        if hasattr(config, key) or key in OWN_CONFIG_KEYS:
            setattr(config, key, value)
        elif key in fields:
            rest[key] = value
        else:
            raise ValueError(
                f"{key}={value!r} is neither a configuration key nor a field of "
                f"{module_class.__name__} (its fields: {', '.join(sorted(fields))})"
            )
    return config, rest


def _read_config(source: checkpoint.Source, name: str = "config.json") -> dict[str, Any]:
    content = _read_json(source, name)
    if content is None:
        raise CheckpointError(
            f"no {name} in {source.name!r}: a checkpoint is a folder (or Hub repository) with "
            "config.json and weights (a Hub id is looked up in the cache alone when offline)"
        )
    kind = content.get("model_type", "big_bird")
    if kind != "big_bird":
        raise CheckpointError(
            f"{source.name!r} holds a model of type {kind!r}; these classes read 'big_bird'"
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
    return _hf.generation_config_class().from_dict(content)


def _load(
    model: Any, source: checkpoint.Source, ignore_mismatched_sizes: bool, *, filling: bool
) -> dict[str, Any]:
    """The leaves of the checkpoint that the model has; warns of and raises for the rest."""
    expected = flatten_dict(model.params_shape_tree)
    flat, file = checkpoint.read_weights(source, expected)
    fit = checkpoint.fit(flat, expected, model.base_model_prefix)
    name = type(model).__name__
    if fit.mismatched and not ignore_mismatched_sizes:
        lines = "\n".join(
            f"  {'/'.join(path)}: {theirs} in the file, {ours} in the model"
            for path, (theirs, ours) in sorted(fit.mismatched.items())
        )
        raise ValueError(
            f"the shapes of {len(fit.mismatched)} leaves of {file} differ from {name}'s:\n{lines}\n"
            "Use the configuration the checkpoint was made with, or pass "
            "ignore_mismatched_sizes=True to initialise them anew"
        )
    if not fit.params:
        raise CheckpointError(
            f"{file} has none of the {len(expected)} leaves of {name}; it has "
            f"{checkpoint.listing(fit.unexpected) or 'none at all'}: is it a BigBird's?"
        )
    absent = sorted([*fit.missing, *fit.mismatched])
    if absent:
        fate = "were initialised anew: train them" if filling else "are missing from params"
        warnings.warn(
            f"{len(absent)} leaves of {name} that {file} does not have (or has in another shape) "
            f"{fate}: {checkpoint.listing(absent)}",
            CheckpointWarning,
            stacklevel=4,
        )
    if fit.unexpected:
        warnings.warn(
            f"{len(fit.unexpected)} leaves of {file} that {name} does not have were not read: "
            f"{checkpoint.listing(fit.unexpected)}",
            CheckpointWarning,
            stacklevel=4,
        )
    return unflatten_dict({path: jnp.asarray(leaf) for path, leaf in fit.params.items()})
