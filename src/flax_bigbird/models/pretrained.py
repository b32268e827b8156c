"""`PretrainedModel`: loads a model from a folder or the Hugging Face Hub, and saves it there."""

import os
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from flax_bigbird import _transformers, checkpoint
from flax_bigbird.models import config_loading, loading, saving
from flax_bigbird.models.parameterized import ParameterizedModel, Params


class PretrainedModel(ParameterizedModel):
    """Adds loading and saving to a `ParameterizedModel`."""

    _generation_config: Any = None
    _auto_class: ClassVar[str | None] = None

    @classmethod
    def can_generate(cls) -> bool:
        """Returns whether the model generates text."""
        return False

    @classmethod
    def load_flax_weights(cls, resolved_archive_file: str | os.PathLike[str]) -> Params:
        """Returns the parameters in one weight file, under the names that the file has.

        Args:
          resolved_archive_file: A `flax_model.msgpack`, or any other file that `from_pretrained`
            reads.

        Raises:
          CheckpointError: If the file is missing or broken.
        """
        return unflatten_dict(checkpoint.load_file(Path(resolved_archive_file).expanduser()))

    @classmethod
    def load_flax_sharded_weights(cls, shard_files: Iterable[str | os.PathLike[str]]) -> Params:
        """Returns the parameters in all shards of a checkpoint; see `load_flax_weights`."""
        flat: dict[Any, Any] = {}
        for file in shard_files:
            flat |= checkpoint.load_file(Path(file).expanduser())
        return unflatten_dict(flat)

    @classmethod
    def register_for_auto_class(cls, auto_class: str | type = "FlaxAutoModel") -> None:
        """Does nothing but warn, as `transformers` 5 has no Flax auto classes.

        Args:
          auto_class: An auto class, or its name.
        """
        cls._auto_class = auto_class if isinstance(auto_class, str) else auto_class.__name__
        warnings.warn(
            f"transformers 5 has no {cls._auto_class}: registering {cls.__name__} for it changes "
            "neither what is saved nor what is loaded",
            UserWarning,
            stacklevel=2,
        )

    @property
    def generation_config(self) -> Any:
        """The `transformers.GenerationConfig` of a model that generates text, otherwise None."""
        if self._generation_config is None and self.can_generate():
            cls = _transformers.generation_config_class()
            self._generation_config = cls.from_model_config(self.config)
        return self._generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        self._generation_config = value

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
        """Loads a model from a folder or the Hub, in whichever format its weights are.

        Args:
          pretrained_model_name_or_path: A folder that flax-bigbird, `transformers` (PyTorch) or
            `transformers` 4 (Flax) has written, or a Hub id.
          dtype: The dtype of the computation. Parameters keep the dtype of the file (float64 needs
            `jax_enable_x64`).
          model_args: Further positional arguments of the constructor.
          config: A `BigBirdConfig`, a dict, or the path of one, instead of the folder's own.
          cache_dir: The folder in which downloads are cached.
          ignore_mismatched_sizes: Whether to initialize parameters whose shape differs, instead of
            raising an error.
          force_download: Whether to download files that are already cached.
          local_files_only: Whether to use only cached files.
          token: The access token of the Hub.
          revision: The branch, tag or commit of the Hub repository.
          subfolder: The folder inside the repository.
          _do_init: If False, returns `(model, params)` and initializes nothing. Parameters that the
            file lacks are named in a warning and missing from `params`.
          input_shape: See the constructor.
          seed: The seed of parameters that the file lacks.
          gradient_checkpointing: See the constructor.
          from_pt: Accepted for compatibility and never needed: the files show their format.
          overrides: Configuration keys (`num_labels=3`), or fields of the task's linen module.

        Returns:
          The model, or `(model, params)` if `_do_init` is False.

        Raises:
          CheckpointError: If files are missing, broken, or those of another architecture.
          ValueError: If shapes differ (all of them are listed), or a keyword is unknown.

        Warns:
          CheckpointWarning: Once for parameters that were initialized, and once for parameters in
            the file that the model does not have.
        """
        del from_pt
        source = checkpoint.Source(
            os.fspath(pretrained_model_name_or_path),
            revision=revision,
            subfolder=subfolder,
            token=saving.resolve_token(token, overrides),
            cache_dir=None if cache_dir is None else os.fspath(cache_dir),
            force_download=force_download,
            local_files_only=local_files_only,
        )
        config, module_kwargs = config_loading.resolve_config(cls, source, config, overrides)
        if input_shape is not None:
            module_kwargs["input_shape"] = input_shape
        task: Any = cls  # subclasses may have other constructors
        model = task(
            config,
            *model_args,
            seed=seed,
            dtype=dtype,
            _do_init=False,
            gradient_checkpointing=gradient_checkpointing,
            **module_kwargs,
        )
        params = loading.load_params(model, source, ignore_mismatched_sizes, initialize=_do_init)
        if model.can_generate():
            stored = config_loading.load_generation_config(source)
            model.generation_config = stored or model.generation_config
        if not _do_init:
            return model, params
        if model.required_params - set(flatten_dict(params)):
            params = model.init_weights(model.key, model.input_shape, params)
        model._adopt_params(params)
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
        """Writes `config.json` and the weights; if interrupted, the old weights stay intact.

        Args:
          save_directory: The folder, which is created if necessary. A model that was saved there
            before is replaced.
          params: The parameters. The default is the model's own. A part of them is saved as it is,
            with a warning; `from_pretrained` then initializes the others.
          push_to_hub: Whether to upload the model as well, to `repo_id` or to a repository with the
            name of the folder.
          max_shard_size: The maximum size of a file, in bytes or as text such as "5GB" or "5GiB".
            Larger weights are split into several files.
          token: The access token of the Hub.
          safe_serialization: If True, writes `model.safetensors` with PyTorch's names, which
            `transformers` opens too; if False, writes `flax_model.msgpack`.
          repo_id: The Hub repository.
          hub_options: Further options of `push_to_hub`. If `is_main_process=False` is among them,
            nothing is written, as for the other processes of PyTorch's `save_pretrained`.

        Raises:
          CheckpointError: If the folder is a file, or cannot be written.
          ValueError: If `params` are not those of the model; nothing is written then.

        Warns:
          CheckpointWarning: If `params` lack some of the model's parameters.
        """
        is_main_process = hub_options.pop("is_main_process", True)
        hub = saving.HubOptions.parse(token, hub_options)
        if not is_main_process:
            return
        folder = Path(save_directory).expanduser()
        weights = saving.Weights(params, max_shard_size, safe_serialization)
        files = saving.save(self, folder, weights, self.generation_config)
        if push_to_hub:
            saving.upload(folder, files, repo_id or folder.resolve().name, hub)

    def push_to_hub(
        self,
        repo_id: str,
        use_temp_dir: bool | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        max_shard_size: int | str = "10GB",
        create_pr: bool = False,
        safe_serialization: bool = True,
        revision: str | None = None,
        commit_description: str | None = None,
        tags: list[str] | None = None,
        *,
        params: Any = None,
        **hub_options: Any,
    ) -> Any:
        """Saves the model and uploads it to a Hub repository, which is created if necessary.

        Args:
          repo_id: The Hub repository.
          use_temp_dir: Ignored: a temporary folder is always used.
          commit_message: The first line of the commit's message.
          private: Whether a new repository is private.
          token: The access token of the Hub.
          max_shard_size: See `save_pretrained`.
          create_pr: Whether to open a pull request instead of committing.
          safe_serialization: See `save_pretrained`.
          revision: The branch, which is created if necessary.
          commit_description: The rest of the commit's message.
          tags: Tags that are added to the model card of the repository, or to a new one.
          params: The parameters. The default is the model's own.
          hub_options: `use_auth_token`, the former name of `token`.

        Returns:
          The Hub's description of the commit.
        """
        del use_temp_dir
        given = {
            "commit_message": commit_message,
            "private": private,
            "create_pr": create_pr or None,
            "revision": revision,
            "commit_description": commit_description,
        }
        hub_options |= {name: value for name, value in given.items() if value is not None}
        hub = saving.HubOptions.parse(token, hub_options)
        weights = saving.Weights(params, max_shard_size, safe_serialization)
        with tempfile.TemporaryDirectory() as name:
            files = saving.save(self, Path(name), weights, self.generation_config)
            return saving.upload(Path(name), files, repo_id, hub, tags)
