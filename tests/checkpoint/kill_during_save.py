"""Saves over a checkpoint and is killed before every operation that touches the disk, one by one.

    python kill_during_save.py FOLDER OLD_FORMAT:NEW_FORMAT ...

The formats are those of `checkpoint_trees.FORMATS`. Each save runs in a process of its own, and the
folder is loaded afterwards. For every pair and operation, the script prints which save the weights
come from, `old` or `new`, and which save the document comes from, `1` or `2`. After the last
operation of a pair it prints `finished`.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
from checkpoint_trees import FORMATS, example_tree, load_tree, save_tree

OPERATIONS = ("open", "fsync", "replace", "unlink", "rmdir", "chmod")


def save(folder, value, form):
    save_tree(folder, example_tree(value), form, **{"config.json": f"{value}"})


def kill_before(operation):
    """Makes the process kill itself before its n-th call of `os` that changes files."""
    count = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))


def which_save(folder):
    """Returns which save the weights in the folder come from."""
    tree = load_tree(folder)
    for word, value in (("old", 1), ("new", 2)):
        if all(np.array_equal(tree[path], leaf) for path, leaf in example_tree(value).items()):
            return word
    return "MIXED"


def main(folder, old, new):
    before = folder.with_name(f"before-{old}-{new}")
    save(before, 1, old)
    for operation in range(1, 1000):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        child = os.fork()
        if child == 0:
            kill_before(operation)
            save(folder, 2, new)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        document = (folder / "config.json").read_text()
        print(f"{old}:{new}", which_save(folder), document, flush=True)
        if not os.WIFSIGNALED(status):
            print(f"{old}:{new}", "failed" if status else "finished", flush=True)
            return


if __name__ == "__main__":
    os.fsync = lambda handle: None  # a killed process loses nothing that the system has
    target = Path(sys.argv[1])
    for form in FORMATS:  # imports what saving and loading need, once and not in every process
        save(target, 0, form)
        load_tree(target)
    for pair in sys.argv[2:]:
        main(target, *pair.split(":"))
