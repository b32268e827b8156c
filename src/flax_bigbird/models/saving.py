"""Writes a model into a folder, and uploads it to the Hugging Face Hub."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

from flax.core import unfreeze
from flax.traverse_util import flatten_dict

from flax_bigbird import checkpoint
from flax_bigbird._messages import pluralize
from flax_bigbird.checkpoint import atomic_write_text
from flax_bigbird.checkpoint.errors import warn_about_checkpoint
from flax_bigbird.config import SparsityConfig
from flax_bigbird.models.parameterized import ParameterizedModel, mismatched_params

_HUB_KEYWORDS = {"commit_message", "commit_description", "private", "revision", "create_pr"}
_MAX_LISTED = 12  # parameters in an error message


@dataclasses.dataclass(frozen=True)
class Weights:
    """Which parameters to write, and how; `save_pretrained` documents the fields."""

    params: Any
    max_shard_size: int | str
    safe_serialization: bool


@dataclasses.dataclass(frozen=True)
class HubOptions:
    """The access token of the Hub, and the keywords that are passed on to it."""

    token: str | bool | None
    keywords: dict[str, Any]

    @classmethod
    def parse(cls, token: str | bool | None, keywords: dict[str, Any]) -> "HubOptions":
        """Checks the keywords.

        Raises:
          TypeError: If a keyword is unknown.
        """
        token = resolve_token(token, keywords)
        unknown = sorted(set(keywords) - _HUB_KEYWORDS)
        if unknown:
            raise TypeError(
                f"unknown keywords {', '.join(unknown)}: those passed on to the Hub are "
                f"{', '.join(sorted(_HUB_KEYWORDS))}"
            )
        return cls(token, keywords)


def resolve_token(token: str | bool | None, keywords: dict[str, Any]) -> str | bool | None:
    """Returns the token; removes the `use_auth_token` of older programs from the keywords."""
    older = keywords.pop("use_auth_token", None)
    return older if token is None else token


def save(
    model: ParameterizedModel, folder: Path, weights: Weights, generation_config: Any
) -> list[str]:
    """Writes the configurations and the weights; returns the names of the files.

    Raises:
      ValueError: If the parameters are not those of the model; nothing is written then.

    Warns:
      CheckpointWarning: If some of the model's parameters are not among them, which the files then
        lack.
    """
    params = model.params if weights.params is None else weights.params
    flat: dict[Any, Any] = flatten_dict(unfreeze(params))
    _check_params(model, params, flat)
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__.removeprefix("Flax")]
    vars(config).pop(SparsityConfig.IMPLEMENTATION_KEY, None)
    text_files = {"config.json": config.to_json_string()}
    if generation_config is not None:
        text_files = {"generation_config.json": generation_config.to_json_string()} | text_files
    return checkpoint.save_checkpoint(
        folder,
        flat,
        text_files,
        max_shard_size=weights.max_shard_size,
        safe_serialization=weights.safe_serialization,
    )


def _check_params(model: ParameterizedModel, params: Any, flat: dict[Any, Any]) -> None:
    """Raises `ValueError` for parameters of another model, and warns about a part of them."""
    missing = sorted(model.required_params - set(flat))
    wrong = mismatched_params(model, params)
    if len(wrong) > len(missing) or len(missing) == len(model.required_params):
        more = f", and {len(wrong) - _MAX_LISTED} more" if len(wrong) > _MAX_LISTED else ""
        raise ValueError(
            f"params must be those of the model to be saved; {', '.join(wrong[:_MAX_LISTED])}"
            f"{more}. Pass parameters of one replica (flax.jax_utils.unreplicate)"
        )
    if missing:
        warn_about_checkpoint(
            f"params lack {pluralize(len(missing), 'parameter')} of {type(model).__name__}, and so "
            f"does what is saved: {checkpoint.format_paths(missing)}. from_pretrained will "
            "initialize them anew; fill them in with model.init_weights, or pass the whole tree"
        )


def save_model_card(folder: Path, repo_id: str, tags: list[str], token: Any) -> str:
    """Writes the repository's model card, or a new one, with further tags.

    Returns:
      The name of the file.
    """
    from huggingface_hub import ModelCard, ModelCardData, errors

    try:
        card = ModelCard.load(repo_id, token=token)
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):  # the Hub was not reached
            raise
        new = ModelCardData(library_name="flax-bigbird", tags=[])
        title = repo_id.rsplit("/", 1)[-1]
        card = ModelCard(f"---\n{new.to_yaml()}\n---\n\n# {title}\n")
    data: Any = card.data
    data.tags = list(dict.fromkeys([*(data.tags or []), *tags]))
    atomic_write_text(folder / "README.md", str(card))
    return "README.md"


def upload(
    folder: Path, files: list[str], repo_id: str, hub: HubOptions, tags: list[str] | None = None
) -> Any:
    """Uploads the files in one commit, which also deletes the weights of an earlier save.

    Args:
      folder: The folder that holds the files. With tags, a model card is written to it.
      files: The names of the files.
      repo_id: The repository, which is created if necessary.
      hub: The options of the Hub.
      tags: Tags that are added to the model card.

    Returns:
      The Hub's description of the commit.
    """
    import huggingface_hub

    keywords = dict(hub.keywords)
    private, message = keywords.pop("private", None), keywords.pop("commit_message", None)
    api = huggingface_hub.HfApi(token=hub.token)
    repo = api.create_repo(repo_id, private=private, exist_ok=True)
    revision = keywords.get("revision")
    if revision and not revision.startswith("refs/"):
        api.create_branch(repo.repo_id, branch=revision, exist_ok=True)
    if tags:
        files = [*files, save_model_card(folder, repo.repo_id, tags, hub.token)]
    return api.upload_folder(
        repo_id=repo.repo_id,
        folder_path=folder,
        allow_patterns=files,
        delete_patterns=checkpoint.weight_file_patterns(),
        commit_message=message or "Upload BigBird model",
        **keywords,
    )
