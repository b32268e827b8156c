"""Tests that saves are atomic and replace earlier saves, whatever interrupts them."""

import errno
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from checkpoint_trees import FORMATS, assert_trees_equal, example_tree, load_tree, save_tree

from flax_bigbird import checkpoint
from flax_bigbird.checkpoint import CheckpointError, saving
from flax_bigbird.checkpoint.sharding import parse_size


def save(folder, value, form="safe", **documents):
    return save_tree(folder, example_tree(value), form, **documents)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("old", "new"), itertools.product(FORMATS, FORMATS))
def test_save_replaces_earlier_save_of_any_format(tmp_path, old, new):
    save(tmp_path, 1, old)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not ours to remove")
    files = save(tmp_path, 2, new)
    assert_trees_equal(load_tree(tmp_path), example_tree(2))
    assert set(content(tmp_path)) == {*files, "pytorch_model.bin"}


@pytest.mark.parametrize("form", FORMATS)
def test_save_after_many_earlier_saves(tmp_path, form):
    for value, earlier in enumerate([*FORMATS, *reversed(FORMATS), form, form, form]):
        files = save(tmp_path, value, earlier)
        assert_trees_equal(load_tree(tmp_path), example_tree(value))
        assert set(content(tmp_path)) == set(files)


def test_shards_are_named_as_transformers_names_them(tmp_path):
    files = save(tmp_path, 1, "safe-sharded")
    count = len(files) - 1
    shards = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    assert count > 1
    assert files == [*shards, "model.safetensors.index.json"]
    index = json.loads((tmp_path / files[-1]).read_text())
    assert set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in example_tree().values())


def test_shards_never_overwrite_shards_of_the_old_index(tmp_path):
    first = save(tmp_path, 1, "safe-sharded")
    second = save(tmp_path, 2, "safe-sharded")
    assert set(first) & set(second) == {"model.safetensors.index.json"}
    assert second[0].startswith("model-2-00001-of-")
    assert save(tmp_path, 3, "safe-sharded") == first


PAIRS = (
    "safe:safe",
    "safe:safe-sharded",
    "safe-sharded:safe-sharded",
    "safe-sharded:safe",
    "safe:msgpack",
    "safe-sharded:msgpack-sharded",
    "msgpack-sharded:safe-sharded",
)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The output of `kill_during_save.py` by pair; one process, because imports take longest."""
    script = Path(__file__).parent / "kill_during_save.py"
    path = os.pathsep.join(map(str, [script.parent, script.parent.parent, *sys.path]))
    done = subprocess.run(
        [sys.executable, script, tmp_path_factory.mktemp("killed") / "model", *PAIRS],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {pair: [rest for first, *rest in lines if first == pair] for pair in PAIRS}


@pytest.mark.parametrize("pair", PAIRS)
def test_old_or_new_weights_are_intact_after_kill_at_any_step(killed, pair):
    *steps, last = killed[pair]
    assert last == ["finished"]
    saves, documents = zip(*steps, strict=True)
    decisive = saves.index("new")
    assert decisive > 5
    assert saves == ("old",) * decisive + ("new",) * (len(saves) - decisive)
    assert list(documents) == sorted(documents)
    assert documents[-1] == "2"
    assert steps.count(["old", "2"]) == 1  # the two steps follow each other directly


def test_old_weights_are_intact_after_kill_during_write(tmp_path):
    """The process is killed inside the writer of a file that is too large to be written at once."""
    save(tmp_path, 1)
    code = (
        "import os, sys, threading, numpy as np\n"
        "from flax_bigbird import checkpoint\n"
        "def kill():\n"
        "    while not any(f for _, _, fs in os.walk(sys.argv[1]) for f in fs\n"
        "                  if f not in ('model.safetensors', 'mode')): pass\n"
        "    os.kill(os.getpid(), 9)\n"
        "threading.Thread(target=kill).start()\n"
        "tree = {('x',): np.zeros(2**27, np.float32)}\n"
        "checkpoint.save_checkpoint(sys.argv[1], tree, {}, safe_serialization=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert done.returncode == -9
    assert_trees_equal(load_tree(tmp_path), example_tree(1))
    assert list(tmp_path.glob(".saving-*"))


def test_abandoned_staging_directories_are_removed(tmp_path):
    recent, abandoned = tmp_path / ".saving-recent", tmp_path / ".saving-abandoned"
    for folder in (recent, abandoned):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    long_ago = time.time() - 10**5
    for path in (abandoned / "model.safetensors", abandoned):
        os.utime(path, (long_ago, long_ago))
    save(tmp_path, 1)
    assert recent.exists()
    assert not abandoned.exists()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("step", ["write", "replace"])
def test_failed_write_changes_nothing(tmp_path, monkeypatch, form, step):
    save(tmp_path, 1, "safe-sharded", **{"config.json": "1"})
    before = content(tmp_path)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "replace":
        real = os.replace
        entry_files = tuple(saving._ENTRY_FILES)
        monkeypatch.setattr(
            os, "replace", lambda a, b: full() if str(b).endswith(entry_files) else real(a, b)
        )
    else:
        monkeypatch.setattr(safetensors.numpy, "save_file", full)
        monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        CheckpointError, match=r"No space left.*the weights of an earlier checkpoint are intact"
    ):
        save(tmp_path, 2, form, **{"config.json": "1"})
    assert content(tmp_path) == before


def test_interrupted_write_leaves_no_files(tmp_path, monkeypatch):
    save(tmp_path, 1)
    before = content(tmp_path)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.numpy, "save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    assert content(tmp_path) == before


def test_error_for_file_as_target(tmp_path):
    path = tmp_path / "model"
    path.write_text("mine")
    for target in (path, path / "below"):
        with pytest.raises(CheckpointError, match="is saved to a writable folder"):
            save(target, 1)
    assert path.read_text() == "mine"


def test_read_only_target_is_an_error_before_any_work(tmp_path, monkeypatch):
    save(tmp_path, 1)
    before = content(tmp_path)

    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", read_only)  # root may write anywhere, so the error is faked
    monkeypatch.setattr(saving, "plan_weight_files", lambda *_: pytest.fail("work was done"))
    with pytest.raises(CheckpointError, match=r"cannot be written to .Read-only file system"):
        save(tmp_path, 2)
    assert content(tmp_path) == before


def test_error_for_folder_where_a_file_must_go(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"folders in the place of files .model\.safetensors"):
        save(tmp_path, 1)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("size", ["big", "5 apples", 0, -1, None, "5"])
def test_invalid_shard_size_is_an_error(tmp_path, size):
    with pytest.raises(
        ValueError, match="max_shard_size must be a positive number of bytes or text"
    ):
        checkpoint.save_checkpoint(tmp_path / "new", example_tree(), {}, max_shard_size=size)
    assert not list(tmp_path.rglob("*.safetensors"))


SIZES = {
    "5GiB": 5 * 2**30,
    "5GB": 5 * 10**9,
    "5Gb": 5 * 10**9 // 8,
    "10 gib": 10 * 2**30,
    "200mB": 200 * 10**6,
    "200mb": 25 * 10**6,
    "3MIB": 3 * 2**20,
    "20KB": 20_000,
    "1.5KiB": 1536,
    "2TB": 2 * 10**12,
    77: 77,
}


@pytest.mark.parametrize("size", SIZES)
def test_spellings_of_sizes(size):
    """Those of `transformers`, in which a lower-case b without an i counts bits."""
    assert parse_size(size) == SIZES[size]


@pytest.mark.parametrize("leaf", ["text", None, object()])
def test_leaf_that_is_no_array_is_an_error(tmp_path, leaf):
    with pytest.raises(ValueError, match="must be a numeric array; cls/x is"):
        checkpoint.save_checkpoint(tmp_path / "new", {("cls", "x"): leaf}, {})
    assert not (tmp_path / "new").exists()


def test_jax_arrays_and_strided_views_are_saved(tmp_path):
    tree = {("x", "bias"): jnp.arange(3.0), ("y", "bias"): np.arange(6.0)[::2]}
    checkpoint.save_checkpoint(tmp_path, tree, {})
    assert_trees_equal(
        load_tree(tmp_path, tree), {path: np.asarray(leaf) for path, leaf in tree.items()}
    )


@pytest.mark.parametrize("form", FORMATS)
def test_files_have_the_mode_of_the_umask(tmp_path, form):
    before = os.umask(0o027)
    try:
        files = save(tmp_path, 1, form, **{"config.json": "{}"})
    finally:
        os.umask(before)
    assert {(tmp_path / file).stat().st_mode & 0o777 for file in files} == {0o640}
