"""The Hub: names, revisions, a cache without a network, uploads. Nothing is downloaded."""

import shutil
import types

import huggingface_hub
import pytest
from checkpoint_tools import SHARDED, config, random_params, same, saved
from flax.traverse_util import flatten_dict
from huggingface_hub import errors

import flax_bigbird as fb
from flax_bigbird.checkpoint import CheckpointError

OLD, NEW = "a" * 40, "b" * 40


def cached(cache, revision, commit, model, subfolder=""):
    """Puts a folder into a cache as the Hub's client lays it out."""
    repo = cache / "models--owner--bird"
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / revision).write_text(commit)
    shutil.copytree(model, repo / "snapshots" / commit / subfolder)


def load(name="owner/bird", **kwargs):
    return flatten_dict(fb.FlaxBigBirdModel.from_pretrained(name, _do_init=False, **kwargs)[1])


@pytest.mark.parametrize("options", [{}, {"max_shard_size": SHARDED}])
def test_a_repository_in_the_cache(tmp_path, options):
    first = saved(fb.FlaxBigBirdModel, tmp_path / "1", seed=1, options=options)
    second = saved(fb.FlaxBigBirdModel, tmp_path / "2", seed=2, options=options)
    cached(tmp_path / "cache", "main", OLD, tmp_path / "1")
    cached(tmp_path / "cache", "v2", NEW, tmp_path / "2", subfolder="deep")
    where = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    same(load(**where), first)
    same(load(**where, revision="v2", subfolder="deep"), second)
    same(load(**where, revision=NEW, subfolder="deep"), second)


def test_a_local_subfolder(tmp_path):
    params = saved(fb.FlaxBigBirdModel, tmp_path / "deep")
    same(load(str(tmp_path), subfolder="deep"), params)


def test_nothing_in_the_cache(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"no config\.json in 'owner/bird'.*offline"
    ) as caught:
        load(cache_dir=tmp_path)
    assert "model.safetensors, flax_model.msgpack" in str(caught.value)


@pytest.mark.parametrize("name", ["./no/such/folder", "no such folder", "a/b/c"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(CheckpointError, match=r"neither a folder .*looked for config\.json"):
        load(name)


def test_a_folder_without_a_config(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json in .*pass config="):
        load(str(tmp_path))


def test_a_file_in_the_place_of_the_folder(tmp_path):
    saved(fb.FlaxBigBirdModel, tmp_path)
    with pytest.raises(CheckpointError, match="is a file: pass the folder"):
        load(str(tmp_path / "model.safetensors"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with one repository of two commits; the branch moves on after the first file."""
    calls = []
    for seed, commit in ((1, OLD), (2, NEW)):
        saved(fb.FlaxBigBirdModel, tmp_path / "snapshots" / commit, seed=seed)

    def download(repo_id, filename, revision=None, **options):
        calls.append({"file": filename, "revision": revision} | options)
        commit = {"main": NEW if len(calls) > 1 else OLD}.get(revision, revision)
        path = tmp_path / "snapshots" / commit / filename
        if not path.exists():
            raise errors.EntryNotFoundError(f"404: {filename}")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return calls


def test_all_files_are_of_one_commit(hub, tmp_path):
    params = load(token="secret", force_download=True)
    same(params, load(str(tmp_path / "snapshots" / OLD)))
    assert [call["file"] for call in hub] == ["config.json", "model.safetensors"]
    assert [call["revision"] for call in hub] == ["main", OLD]
    assert {call["token"] for call in hub} == {"secret"}
    assert all(call["force_download"] for call in hub)


def test_use_auth_token_is_the_token(hub):
    load(use_auth_token="old")
    assert hub[0]["token"] == "old"


def response():
    return types.SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError, "no repository 'owner/bird' at revision 'main'"),
        (errors.RevisionNotFoundError, "no repository 'owner/bird' at revision 'main'"),
        (errors.GatedRepoError, "no right to read it"),
        (errors.HfHubHTTPError, r"config\.json of 'owner/bird' could not be fetched"),
        (ConnectionError, "could not be fetched from the Hub: down"),
    ],
)
def test_what_the_hub_may_answer(monkeypatch, error, message):
    def fail(*args, **kwargs):
        hub_error = issubclass(error, errors.HfHubHTTPError)
        raise error("down", response=response()) if hub_error else error("down")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=message):
        load()


class Api:
    """Records what is uploaded."""

    def __init__(self, token=None):
        Api.calls = [("token", token)]

    def create_repo(self, repo_id, **kwargs):
        Api.calls.append(("create_repo", repo_id, kwargs))
        return types.SimpleNamespace(repo_id=f"owner/{repo_id}")

    def create_branch(self, repo_id, **kwargs):
        Api.calls.append(("create_branch", repo_id, kwargs))

    def upload_folder(self, folder_path, **kwargs):
        there = sorted(path.name for path in folder_path.iterdir())
        Api.calls.append(("upload_folder", there, kwargs))
        return "the commit"


def test_push_to_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model, params = random_params(fb.FlaxBigBirdModel, config())
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


def test_saving_pushes_what_it_wrote_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model, params = random_params(fb.FlaxBigBirdModel, config())
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / "diary.txt").write_text("private")
    model.save_pretrained(tmp_path / "bird", params=params, push_to_hub=True)
    _, repo, (_, files, options) = Api.calls
    assert repo[1] == "bird"
    assert "diary.txt" in files
    assert sorted(options["allow_patterns"]) == ["config.json", "model.safetensors"]


def test_an_unknown_option_is_told_before_the_save(tmp_path):
    model, params = random_params(fb.FlaxBigBirdModel, config())
    with pytest.raises(TypeError, match="unknown keywords priv"):
        model.push_to_hub("bird", params=params, priv=True)
