"""Tests names, revisions, the cache and uploads of the Hub; nothing is downloaded."""

import shutil
import types
from typing import Any, ClassVar

import huggingface_hub
import pytest
from checkpoint_models import random_model, save_random_model, tiny_config
from checkpoint_trees import SHARD_SIZE, assert_trees_equal
from flax.traverse_util import flatten_dict
from huggingface_hub import errors

import flax_bigbird as fb
from flax_bigbird.checkpoint import CheckpointError
from flax_bigbird.models import saving

OLD, NEW = "a" * 40, "b" * 40


def add_to_cache(cache, revision, commit, model, subfolder=""):
    """Copies a folder into a cache, in the layout of the Hub's client."""
    repo = cache / "models--owner--bird"
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / revision).write_text(commit)
    shutil.copytree(model, repo / "snapshots" / commit / subfolder)


def load(name="owner/bird", **kwargs):
    return flatten_dict(fb.FlaxBigBirdModel.from_pretrained(name, _do_init=False, **kwargs)[1])


@pytest.mark.parametrize("options", [{}, {"max_shard_size": SHARD_SIZE}])
def test_cached_repository_is_loaded_at_any_revision(tmp_path, options):
    first = save_random_model(fb.FlaxBigBirdModel, tmp_path / "1", seed=1, options=options)
    second = save_random_model(fb.FlaxBigBirdModel, tmp_path / "2", seed=2, options=options)
    add_to_cache(tmp_path / "cache", "main", OLD, tmp_path / "1")
    add_to_cache(tmp_path / "cache", "v2", NEW, tmp_path / "2", subfolder="deep")
    where = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    assert_trees_equal(load(**where), first)
    assert_trees_equal(load(**where, revision="v2", subfolder="deep"), second)
    assert_trees_equal(load(**where, revision=NEW, subfolder="deep"), second)


def test_subfolder_of_local_folder_is_loaded(tmp_path):
    params = save_random_model(fb.FlaxBigBirdModel, tmp_path / "deep")
    assert_trees_equal(load(str(tmp_path), subfolder="deep"), params)


def test_error_offline_with_empty_cache(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json in 'owner/bird'.*offline") as error:
        load(cache_dir=tmp_path)
    assert "model.safetensors, flax_model.msgpack" in str(error.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "/no", "./no", "no such folder", "a/b/c"])
def test_error_for_missing_folder(name, monkeypatch):
    """The Hub is not asked, and no error of its client is shown."""
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    with pytest.raises(CheckpointError, match="there is no folder of that name: check") as error:
        load(name)
    assert repr(name) in str(error.value)
    assert error.value.__cause__ is error.value.__context__ is None


def test_error_for_folder_without_config(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json in .*pass config="):
        load(str(tmp_path))


def test_error_for_file_instead_of_folder(tmp_path):
    save_random_model(fb.FlaxBigBirdModel, tmp_path)
    with pytest.raises(CheckpointError, match="is a file: pass the folder"):
        load(str(tmp_path / "model.safetensors"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Fakes a repository of two commits, whose branch moves after the first download."""
    calls = []
    for seed, commit in ((1, OLD), (2, NEW)):
        save_random_model(fb.FlaxBigBirdModel, tmp_path / "snapshots" / commit, seed=seed)

    def download(repo_id, filename, revision="main", **options):
        calls.append({"file": filename, "revision": revision} | options)
        commit = {"main": NEW if len(calls) > 1 else OLD}.get(revision, revision)
        path = tmp_path / "snapshots" / commit / filename
        if not path.exists():
            raise errors.EntryNotFoundError(f"404: {filename}")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return calls


def test_all_files_come_from_one_commit(hub, tmp_path):
    params = load(token="secret", force_download=True)
    assert_trees_equal(params, load(str(tmp_path / "snapshots" / OLD)))
    assert [call["file"] for call in hub] == ["config.json", "model.safetensors"]
    assert [call["revision"] for call in hub] == ["main", OLD]
    assert {call["token"] for call in hub} == {"secret"}
    assert all(call["force_download"] for call in hub)


def test_use_auth_token_is_passed_as_token(hub):
    load(use_auth_token="old")
    assert hub[0]["token"] == "old"


def response():
    return types.SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError, "no repository 'owner/bird' at revision 'main'"),
        (errors.RevisionNotFoundError, "no repository 'owner/bird' at revision 'main'"),
        (errors.GatedRepoError, "you may not read it"),
        (errors.HfHubHTTPError, r"config\.json of 'owner/bird' could not be downloaded"),
        (ConnectionError, "could not be downloaded from the Hub: down"),
    ],
)
def test_errors_of_the_hub_are_explained(monkeypatch, error, message):
    def fail(*args, **kwargs):
        hub_error = issubclass(error, errors.HfHubHTTPError)
        raise error("down", response=response()) if hub_error else error("down")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=message):
        load()


class Api:
    """Records the calls that create and upload."""

    calls: ClassVar[list[tuple[Any, ...]]]

    def __init__(self, token=None):
        Api.calls = [("token", token)]

    def create_repo(self, repo_id, **kwargs):
        Api.calls.append(("create_repo", repo_id, kwargs))
        return types.SimpleNamespace(repo_id=f"owner/{repo_id}")

    def create_branch(self, repo_id, **kwargs):
        Api.calls.append(("create_branch", repo_id, kwargs))

    def upload_folder(self, folder_path, **kwargs):
        files = sorted(path.name for path in folder_path.iterdir())
        Api.calls.append(("upload_folder", files, kwargs))
        return "the commit"


def test_push_to_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model, params = random_model(fb.FlaxBigBirdModel, tiny_config())
    answer = model.push_to_hub(
        "bird", params=params, token="secret", private=True, revision="v2", create_pr=False
    )
    assert answer == "the commit"
    token, repo, branch, (_, files, options) = Api.calls
    assert token == ("token", "secret")
    assert repo == ("create_repo", "bird", {"private": True, "exist_ok": True})
    assert branch == ("create_branch", "owner/bird", {"branch": "v2", "exist_ok": True})
    assert files == ["config.json", "model.safetensors"]
    assert options["repo_id"] == "owner/bird"
    assert options["revision"] == "v2"
    assert "flax_model.msgpack" in options["delete_patterns"]


def tags_of(card: str) -> Any:
    data: Any = huggingface_hub.ModelCard(card).data
    return data.tags


def test_positional_options_and_tags_of_push_to_hub(monkeypatch):
    """Options in the order of `transformers`; tags go into the repository's model card."""
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)

    def load(repo_id, token):
        assert (repo_id, token) == ("owner/bird", "secret")
        return huggingface_hub.ModelCard("---\ntags:\n- birds\n---\n\n# Bird\n")

    cards = []

    def save(folder, repo_id, tags, token):
        name = save_card(folder, repo_id, tags, token)
        cards.append((folder / name).read_text())
        return name

    save_card = saving.save_model_card
    monkeypatch.setattr(huggingface_hub.ModelCard, "load", load)
    monkeypatch.setattr(saving, "save_model_card", save)
    model, params = random_model(fb.FlaxBigBirdModel, tiny_config())
    model.push_to_hub(
        *("bird", True, "new", True, "secret", "5GiB", True, False, "v2", "why", ["long"]),
        params=params,
    )
    _, repo, _, (_, files, options) = Api.calls
    assert repo == ("create_repo", "bird", {"private": True, "exist_ok": True})
    assert files == ["README.md", "config.json", "flax_model.msgpack"]
    assert sorted(options["allow_patterns"]) == files
    given = ("commit_message", "create_pr", "revision", "commit_description")
    assert [options[name] for name in given] == ["new", True, "v2", "why"]
    assert tags_of(cards[0]) == ["birds", "long"]
    assert "# Bird" in cards[0]


def test_tags_of_a_repository_without_a_model_card(tmp_path, monkeypatch):
    def load(repo_id, token):
        not_found: Any = response()
        raise errors.RemoteEntryNotFoundError("none", response=not_found)

    monkeypatch.setattr(huggingface_hub.ModelCard, "load", load)
    assert saving.save_model_card(tmp_path, "owner/bird", ["a", "a", "b"], None) == "README.md"
    text = (tmp_path / "README.md").read_text()
    assert tags_of(text) == ["a", "b"]
    assert "# bird" in text


def test_save_pretrained_pushes_only_what_it_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model, params = random_model(fb.FlaxBigBirdModel, tiny_config())
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / "diary.txt").write_text("private")
    model.save_pretrained(tmp_path / "bird", params=params, push_to_hub=True)
    _, repo, (_, files, options) = Api.calls
    assert repo[1] == "bird"
    assert "diary.txt" in files
    assert sorted(options["allow_patterns"]) == ["config.json", "model.safetensors"]


def test_unknown_hub_option_is_an_error_before_saving(tmp_path):
    model, params = random_model(fb.FlaxBigBirdModel, tiny_config())
    with pytest.raises(TypeError, match="unknown keywords priv"):
        model.push_to_hub("bird", params=params, priv=True)
