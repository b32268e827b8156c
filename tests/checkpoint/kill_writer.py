"""Saves over a checkpoint and is killed before every step that touches the disk, one by one.

    python kill_writer.py FOLDER OLD_FORM:NEW_FORM ...

Forms: `safe`, `safe-sharded`, `msgpack`, `msgpack-sharded`. Each save runs in a process of its own;
then the folder is read back. Prints, per pair and step, which save's weights were found, `old` or
`new`, and which save's document, `1` or `2`; after the last step of a pair, `finished`.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
from checkpoint_tools import SHARDED, leaves, read

from flax_bigbird import checkpoint

STEPS = ("open", "fsync", "replace", "unlink", "rmdir", "chmod")


def save(folder, value, form):
    size = SHARDED if form.endswith("-sharded") else "10GB"
    safe = form.startswith("safe")
    documents = {"config.json": f"{value}"}
    checkpoint.save_checkpoint(
        folder, leaves(value), documents, max_shard_size=size, safe_serialization=safe
    )


def die_before(step):
    """Counts calls of `os` that change files; kills this process before the given one."""
    count = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


def found(folder):
    tree = read(folder)
    for word, value in (("old", 1), ("new", 2)):
        if all(np.array_equal(tree[path], leaf) for path, leaf in leaves(value).items()):
            return word
    return "MIXED"


def main(folder, old, new):
    before = folder.with_name(f"before-{old}-{new}")
    save(before, 1, old)
    for step in range(1, 1000):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        child = os.fork()
        if child == 0:
            die_before(step)
            save(folder, 2, new)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(f"{old}:{new}", found(folder), (folder / "config.json").read_text(), flush=True)
        if not os.WIFSIGNALED(status):
            print(f"{old}:{new}", "failed" if status else "finished", flush=True)
            return


if __name__ == "__main__":
    os.fsync = lambda handle: None  # a killed process loses nothing that the system has
    for pair in sys.argv[2:]:
        main(Path(sys.argv[1]), *pair.split(":"))
