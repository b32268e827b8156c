"""Small parameter trees for the checkpoint tests, and their loading and comparison."""

from typing import Any

import numpy as np

from flax_bigbird import checkpoint

SHARD_SIZE = 500  # bytes; splits `example_tree()` and every tiny model into several shards
FORMATS = ("safe", "safe-sharded", "msgpack", "msgpack-sharded")

Tree = dict[tuple[str, ...], np.ndarray]


def example_tree(value: float = 0.0) -> Tree:
    """Returns a flat tree in which every array starts at `value`."""
    shapes = {
        ("bert", "embeddings", "word_embeddings", "embedding"): (40, 16),
        ("bert", "encoder", "layer", "0", "output", "dense", "kernel"): (24, 16),
        ("bert", "encoder", "layer", "0", "output", "dense", "bias"): (16,),
        ("bert", "encoder", "layer", "0", "output", "LayerNorm", "scale"): (16,),
        ("cls", "kernel"): (16, 5),
        ("temperature",): (),
    }
    return {
        path: np.asarray(value + np.arange(np.prod(shape)).reshape(shape) / 1000, np.float32)
        for path, shape in shapes.items()
    }


def save_tree(folder: Any, tree: Any, form: str = "safe", **documents: str) -> list[str]:
    """Saves a tree in one of `FORMATS`, and returns the names of the files."""
    return checkpoint.save_checkpoint(
        folder,
        tree,
        documents,
        max_shard_size=SHARD_SIZE if form.endswith("-sharded") else "10GB",
        safe_serialization=form.startswith("safe"),
    )


def load_tree(folder: Any, expected: Any = None) -> Tree:
    """Returns the weights that are loaded from a folder."""
    source = checkpoint.Source(str(folder))
    return checkpoint.load_weights(source, expected or example_tree())[0]


def assert_trees_equal(actual: Any, desired: Any) -> None:
    """Asserts that two flat trees have the same paths, dtypes and bits."""
    assert set(actual) == set(desired)
    for path, leaf in desired.items():
        np.testing.assert_array_equal(actual[path], leaf, err_msg=str(path), strict=True)
