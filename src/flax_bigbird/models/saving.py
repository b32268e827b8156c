"""Writes a model into a folder, and uploads it to the Hugging Face Hub."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

from flax.core import unfreeze
from flax.traverse_util import flatten_dict

from flax_bigbird import checkpoint
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
    """
    params = model.params if weights.params is None else weights.params
    if wrong := mismatched_params(model, params):
        more = f", and {len(wrong) - _MAX_LISTED} more" if len(wrong) > _MAX_LISTED else ""
        raise ValueError(
            f"params must be those of the model to be saved; {', '.join(wrong[:_MAX_LISTED])}"
            f"{more}. Pass the whole tree, of one replica (flax.jax_utils.unreplicate)"
        )
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__.removeprefix("Flax")]
    vars(config).pop(SparsityConfig.IMPLEMENTATION_KEY, None)
    text_files = {"config.json": config.to_json_string()}
    if generation_config is not None:
        text_files = {"generation_config.json": generation_config.to_json_string()} | text_files
    return checkpoint.save_checkpoint(
        folder,
        flatten_dict(unfreeze(params)),
        text_files,
        max_shard_size=weights.max_shard_size,
        safe_serialization=weights.safe_serialization,
    )


def upload(folder: Path, files: list[str], repo_id: str, hub: HubOptions) -> Any:
    """Uploads the files in one commit, which also deletes the weights of an earlier save.

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
    return api.upload_folder(
        repo_id=repo.repo_id,
        folder_path=folder,
        allow_patterns=files,
        delete_patterns=checkpoint.weight_file_patterns(),
        commit_message=message or "Upload BigBird model",
        **keywords,
    )
