"""Divides the parameters of a checkpoint over files of a limited size, and names the files."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_UNITS = {"K": 1, "M": 2, "G": 3, "T": 4}


class WeightFiles(NamedTuple):
    """The files that weights are saved to.

    `entry_file` is the file that `loading` looks for, `files` holds the content of every weight
    file by name, and `shard_index` is the content of the entry file if the weights are sharded.
    """

    entry_file: str
    files: dict[str, dict[Any, np.ndarray]]
    shard_index: dict[str, Any] | None


def plan_weight_files(
    folder: Path, tensors: dict[Any, np.ndarray], max_shard_size: int | str, safe: bool
) -> WeightFiles:
    """Returns the files to which tensors are saved.

    Args:
      folder: The folder, in which shards get names that no file has yet.
      tensors: The tensors by name, or by path.
      max_shard_size: See `parse_size`.
      safe: Whether the files are those of safetensors, and otherwise of msgpack.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    stem, suffix = ("model", ".safetensors") if safe else ("flax_model", ".msgpack")
    keys = {key if isinstance(key, str) else "/".join(key): key for key in tensors}
    split = split_state_dict_into_shards_factory(
        {name: tensors[key] for name, key in keys.items()},
        get_storage_size=lambda leaf: leaf.nbytes,
        filename_pattern=f"{stem}{{suffix}}{suffix}",
        max_shard_size=parse_size(max_shard_size),
    )
    rename = _unused_names(folder, list(split.filename_to_tensors)) if split.is_sharded else str
    files = {
        rename(file): {keys[name]: tensors[keys[name]] for name in members}
        for file, members in split.filename_to_tensors.items()
    }
    if not split.is_sharded:
        return WeightFiles(stem + suffix, files, None)
    weight_map = {name: rename(file) for name, file in split.tensor_to_filename.items()}
    index = {"metadata": split.metadata, "weight_map": weight_map}
    return WeightFiles(f"{stem}{suffix}.index.json", files, index)


def parse_size(size: int | str) -> int:
    """Returns a number of bytes, from a number or from text such as "5GB", "5GiB" or "5Gb".

    Raises:
      ValueError: if it is neither, or not positive.
    """
    num_bytes = 0
    if isinstance(size, int) and not isinstance(size, bool):
        num_bytes = size
    elif isinstance(size, str):
        text = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(i?)(b)\s*", size, re.IGNORECASE)
        if text is not None:
            number, prefix, binary, unit = text.groups()
            num_bytes = int(float(number) * (1024 if binary else 1000) ** _UNITS[prefix.upper()])
            if unit == "b" and not binary:
                num_bytes //= 8
    if num_bytes <= 0:
        raise ValueError(
            "max_shard_size must be a positive number of bytes or text such as '5GB', '5GiB' or "
            f"'200MB'; got {size!r}: correct it"
        )
    return num_bytes


def _unused_names(folder: Path, shards: list[str]) -> Callable[[str], str]:
    """Returns a function that renames shards so that no file in the folder has their names."""
    generation = 1
    while True:
        tag = "" if generation == 1 else f"-{generation}"

        def rename(file: str, tag: str = tag) -> str:
            return re.sub(r"^(flax_model|model)", rf"\g<1>{tag}", file)

        if not any((folder / rename(file)).exists() for file in shards):
            return rename
        generation += 1
