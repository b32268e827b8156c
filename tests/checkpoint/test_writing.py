"""Saves are whole or have not happened; what was there before never wins or mixes in."""

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
from checkpoint_tools import SHARDED, leaves, read, same

from flax_bigbird import checkpoint
from flax_bigbird.checkpoint import CheckpointError, saving

FORMS = ("safe", "safe-sharded", "msgpack", "msgpack-sharded")


def save(folder, value, form="safe", **documents):
    size = SHARDED if form.endswith("-sharded") else "10GB"
    safe = form.startswith("safe")
    return checkpoint.save_checkpoint(
        folder, leaves(value), documents, max_shard_size=size, safe_serialization=safe
    )


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("old", "new"), itertools.product(FORMS, FORMS))
def test_a_save_replaces_any_other(tmp_path, old, new):
    save(tmp_path, 1, old)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not ours to remove")
    files = save(tmp_path, 2, new)
    same(read(tmp_path), leaves(2))
    assert set(content(tmp_path)) == {*files, "pytorch_model.bin"}


@pytest.mark.parametrize("form", FORMS)
def test_a_save_after_many(tmp_path, form):
    for value, earlier in enumerate([*FORMS, *reversed(FORMS), form, form, form]):
        files = save(tmp_path, value, earlier)
        same(read(tmp_path), leaves(value))
        assert set(content(tmp_path)) == set(files)


def test_shards_have_the_names_that_transformers_gives(tmp_path):
    files = save(tmp_path, 1, "safe-sharded")
    count = len(files) - 1
    shards = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    assert count > 1
    assert files == [*shards, "model.safetensors.index.json"]
    index = json.loads((tmp_path / files[-1]).read_text())
    assert set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in leaves().values())


def test_shards_never_overwrite_those_of_the_old_index(tmp_path):
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
    """Lines of `kill_writer.py` by pair: one process for all, because importing takes longest."""
    script = Path(__file__).parent / "kill_writer.py"
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
def test_killed_at_any_step_the_old_or_the_new_is_whole(killed, pair):
    *steps, last = killed[pair]
    assert last == ["finished"]
    found, documents = zip(*steps, strict=True)
    turn = found.index("new")
    assert turn > 5
    assert found == ("old",) * turn + ("new",) * (len(found) - turn)
    assert list(documents) == sorted(documents)
    assert documents[-1] == "2"
    assert steps.count(["old", "2"]) == 1  # the two steps are neighbours


def test_killed_while_the_weights_are_written(tmp_path):
    """The kill comes inside the writer of a file too large to be written at once."""
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
    same(read(tmp_path), leaves(1))
    assert list(tmp_path.glob(".saving-*"))


def test_what_a_killed_save_left_is_removed_in_time(tmp_path):
    fresh, dead = tmp_path / ".saving-fresh", tmp_path / ".saving-dead"
    for folder in (fresh, dead):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    long_ago = time.time() - 10**5
    for path in (dead / "model.safetensors", dead):
        os.utime(path, (long_ago, long_ago))
    save(tmp_path, 1)
    assert fresh.exists()
    assert not dead.exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_failed_write_changes_nothing(tmp_path, monkeypatch, form, step):
    save(tmp_path, 1, "safe-sharded", **{"config.json": "1"})
    before = content(tmp_path)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "replace":
        real = os.replace
        heads = tuple(saving._HEADS)
        monkeypatch.setattr(
            os, "replace", lambda a, b: full() if str(b).endswith(heads) else real(a, b)
        )
    else:
        monkeypatch.setattr(safetensors.numpy, "save_file", full)
        monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match=r"No space left.*weights that were there are whole"):
        save(tmp_path, 2, form, **{"config.json": "1"})
    assert content(tmp_path) == before


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    save(tmp_path, 1)
    before = content(tmp_path)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.numpy, "save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    assert content(tmp_path) == before


def test_a_file_as_target(tmp_path):
    path = tmp_path / "model"
    path.write_text("mine")
    for target in (path, path / "below"):
        with pytest.raises(CheckpointError, match="is saved to a writable folder"):
            save(target, 1)
    assert path.read_text() == "mine"


def test_a_read_only_target_fails_before_any_work(tmp_path, monkeypatch):
    save(tmp_path, 1)
    before = content(tmp_path)

    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", read_only)  # root may write anywhere: the system says no
    monkeypatch.setattr(saving, "_plan", lambda *_: pytest.fail("work was done"))
    with pytest.raises(CheckpointError, match=r"cannot be written to .Read-only file system"):
        save(tmp_path, 2)
    assert content(tmp_path) == before


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"folders in the place of files .model\.safetensors"):
        save(tmp_path, 1)


@pytest.mark.parametrize("size", ["big", "5 apples", 0, -1, None, "5"])
def test_a_bad_shard_size(tmp_path, size):
    with pytest.raises(ValueError, match="max_shard_size must be a number of bytes or text"):
        checkpoint.save_checkpoint(tmp_path / "new", leaves(), {}, max_shard_size=size)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("leaf", ["text", None, object()])
def test_a_leaf_that_is_no_array(tmp_path, leaf):
    with pytest.raises(ValueError, match="must be an array of numbers; cls/x is"):
        checkpoint.save_checkpoint(tmp_path / "new", {("cls", "x"): leaf}, {})
    assert not (tmp_path / "new").exists()


def test_jax_arrays_and_views_are_written(tmp_path):
    tree = {("x", "bias"): jnp.arange(3.0), ("y", "bias"): np.arange(6.0)[::2]}
    checkpoint.save_checkpoint(tmp_path, tree, {})
    same(read(tmp_path, tree), {path: np.asarray(leaf) for path, leaf in tree.items()})


@pytest.mark.parametrize("form", FORMS)
def test_files_have_the_mode_of_the_process(tmp_path, form):
    before = os.umask(0o027)
    try:
        files = save(tmp_path, 1, form, **{"config.json": "{}"})
    finally:
        os.umask(before)
    assert {(tmp_path / file).stat().st_mode & 0o777 for file in files} == {0o640}
