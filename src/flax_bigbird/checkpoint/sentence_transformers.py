"""The files of sentence-transformers beside a checkpoint: pooling, dense layers and prompts.

A folder of sentence-transformers is a checkpoint with a list of modules, `modules.json`. The first
of them is the checkpoint itself, the second says how its tokens become one vector, and those after
it change the vector.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_bigbird.checkpoint.atomic import atomic_write_text
from flax_bigbird.checkpoint.embedding_layers import (
    ACTIVATIONS,
    DEFAULT_ACTIVATION,
    Dense,
    Normalize,
)
from flax_bigbird.checkpoint.errors import CheckpointError
from flax_bigbird.checkpoint.hub import Source
from flax_bigbird.checkpoint.loading import load_arrays

MODULES_FILE = "modules.json"
CONFIG_FILE = "config_sentence_transformers.json"
TRANSFORMER_FILE = "sentence_bert_config.json"

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_PACKAGE = "sentence_transformers.models"  # the path of its classes that every version knows
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

# How folders written before version 6 name the modes of pooling.
_FORMER_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class _Module(NamedTuple):
    """An entry of `modules.json`: the name of its class, and the folder of its files."""

    kind: str
    path: str


@dataclasses.dataclass(frozen=True)
class EmbeddingModules:
    """How the vectors of a checkpoint's tokens become the vector of a text.

    Attributes:
      pooling_mode: The mode of pooling, under the names of sentence-transformers.
      include_prompt: Whether the tokens of a prompt count as tokens of the text.
      layers: What is applied after pooling, in order.
      prompts: The texts that may be put before a text, by name.
      default_prompt_name: The name of the prompt that is used unless another is given.
      similarity_fn_name: How vectors are compared: cosine, dot, euclidean or manhattan.
      max_seq_length: The maximum number of tokens of a text.
      truncate_dim: The number of dimensions of a vector that are kept.
      transformer_path: The subfolder of the checkpoint.
    """

    pooling_mode: str = "mean"
    include_prompt: bool = True
    layers: tuple[Dense | Normalize, ...] = ()
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str = "cosine"
    max_seq_length: int | None = None
    truncate_dim: int | None = None
    transformer_path: str = ""

    @property
    def document_prompt_name(self) -> str | None:
        """The name of the prompt of documents: the first of its usual names that there is."""
        return next((name for name in _DOCUMENT_PROMPTS if name in self.prompts), None)

    def dimension(self, hidden_size: int) -> int:
        """Returns the number of dimensions of a vector that is not truncated."""
        sizes = [len(layer.weight) for layer in self.layers if isinstance(layer, Dense)]
        return sizes[-1] if sizes else hidden_size


def has_embedding_modules(source: Source) -> bool:
    """Returns whether a folder is one of sentence-transformers; its weights are not read.

    Raises:
      CheckpointError: if its list of modules is broken, or begins with others.
    """
    return _list_modules(source) is not None


def load_embedding_modules(source: Source) -> EmbeddingModules | None:
    """Loads the modules of a folder of sentence-transformers; None if it is none.

    Raises:
      CheckpointError: if a file is broken, or a module is of a kind that cannot be computed.
    """
    modules = _list_modules(source)
    if modules is None:
        return None
    transformer, pooling, *others = modules
    layers = tuple(_load_layer(source, module) for module in others)
    config = load_mapping(source, CONFIG_FILE)
    limits = load_mapping(source, _join(transformer.path, TRANSFORMER_FILE))
    return EmbeddingModules(
        **_load_pooling(source, pooling.path),
        layers=layers,
        prompts=config.get("prompts") or {},
        default_prompt_name=config.get("default_prompt_name"),
        similarity_fn_name=config.get("similarity_fn_name") or "cosine",
        max_seq_length=limits.get("max_seq_length"),
        truncate_dim=config.get("truncate_dim"),
        transformer_path=transformer.path,
    )


def save_embedding_modules(folder: Path, modules: EmbeddingModules, hidden_size: int) -> None:
    """Writes the files of sentence-transformers beside a checkpoint that is in `folder`.

    `modules.json`, which makes the folder one of sentence-transformers, is written last.

    Args:
      folder: The folder.
      modules: The modules.
      hidden_size: The number of dimensions of the checkpoint's tokens.
    """
    former = {name: mode == modules.pooling_mode for name, mode in _FORMER_MODES.items()}
    files: dict[str, Any] = {
        "1_Pooling/config.json": {
            "word_embedding_dimension": hidden_size,
            **former,
            "include_prompt": modules.include_prompt,
        }
    }
    entries = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    for index, layer in enumerate(modules.layers, 2):
        kind = type(layer).__name__
        path = f"{index}_{kind}"
        entries.append((str(index), path, kind))
        (folder / path).mkdir(exist_ok=True)
        if isinstance(layer, Dense):
            files[f"{path}/config.json"] = _dense_config(layer)
            _save_dense(folder / path / _WEIGHT_FILES[0], layer)
    if modules.max_seq_length is not None:
        files[TRANSFORMER_FILE] = {"max_seq_length": modules.max_seq_length, "do_lower_case": False}
    files[CONFIG_FILE] = {
        "prompts": dict(modules.prompts),
        "default_prompt_name": modules.default_prompt_name,
        "similarity_fn_name": modules.similarity_fn_name,
    } | ({} if modules.truncate_dim is None else {"truncate_dim": modules.truncate_dim})
    files[MODULES_FILE] = [
        {"idx": int(name), "name": name, "path": path, "type": f"{_PACKAGE}.{kind}"}
        for name, path, kind in entries
    ]
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        atomic_write_text(folder / name, json.dumps(content, indent=2, ensure_ascii=False))


def remove_embedding_modules(folder: Path) -> None:
    """Removes what `save_embedding_modules` wrote, so that the checkpoint is no embedding model."""
    for name in (MODULES_FILE, CONFIG_FILE, TRANSFORMER_FILE):
        (folder / name).unlink(missing_ok=True)
    for kind in ("Pooling", Dense.__name__, Normalize.__name__):
        for path in folder.glob(f"[0-9]*_{kind}"):
            shutil.rmtree(path)


def _list_modules(source: Source) -> list[_Module] | None:
    """Returns the modules of a folder of sentence-transformers, in order; None if it is none."""
    modules = load_json(source, MODULES_FILE)
    if modules is None:
        return None
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise CheckpointError(f"{source}: {MODULES_FILE} must be a list of modules: restore it")
    listed = [
        _Module(str(module.get("type", "")).rpartition(".")[2], str(module.get("path", "")))
        for module in modules
    ]
    kinds = [module.kind for module in listed]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise CheckpointError(
            f"{MODULES_FILE} must start with the modules Transformer and Pooling; {source} has "
            f"{', '.join(kinds) or 'none'}: only models of one encoder can be loaded"
        )
    return listed


def _load_pooling(source: Source, path: str) -> dict[str, Any]:
    config = load_mapping(source, _join(path, "config.json"))
    mode = config.get("pooling_mode")
    if mode is None:
        given = [name for key, name in _FORMER_MODES.items() if config.get(key)]
        mode = given[0] if len(given) == 1 else given or "mean"
    if not isinstance(mode, str):
        raise CheckpointError(
            f"a model must have one mode of pooling; {source} concatenates "
            f"{', '.join(map(str, mode))}: use a model that has one"
        )
    return {"pooling_mode": mode, "include_prompt": bool(config.get("include_prompt", True))}


def _load_layer(source: Source, module: _Module) -> Dense | Normalize:
    kind, path = module
    if kind == "Normalize":
        return Normalize()
    if kind != "Dense":
        raise CheckpointError(
            f"the modules after pooling must be Dense or Normalize; {source} has {kind!r}: it can "
            "only be used with sentence-transformers"
        )
    config = load_mapping(source, _join(path, "config.json"))
    activation = config.get("activation_function", DEFAULT_ACTIVATION)
    if activation not in ACTIVATIONS:
        raise CheckpointError(
            f"the activation of a Dense module must be one of {', '.join(ACTIVATIONS)}; {source} "
            f"has {activation!r}: it can only be used with sentence-transformers"
        )
    files = (source.get(_join(path, name)) for name in _WEIGHT_FILES)
    file = next((file for file in files if file is not None), None)
    arrays = {} if file is None else load_arrays(file)
    if "linear.weight" not in arrays:
        raise CheckpointError(
            f"a Dense module must have weights; {source} has none in {path}: restore the folder"
        )
    residual = arrays.get("residual.weight")
    return Dense(
        np.asarray(arrays["linear.weight"], np.float32),
        None if "linear.bias" not in arrays else np.asarray(arrays["linear.bias"], np.float32),
        activation,
        bool(config.get("use_residual")) if residual is None else np.asarray(residual, np.float32),
    )


def _dense_config(layer: Dense) -> dict[str, Any]:
    out_features, in_features = layer.weight.shape
    config = {
        "in_features": in_features,
        "out_features": out_features,
        "bias": layer.bias is not None,
        "activation_function": layer.activation,
    }
    has_residual = isinstance(layer.residual, np.ndarray) or layer.residual
    return config | ({"use_residual": True} if has_residual else {})


def _save_dense(path: Path, layer: Dense) -> None:
    from safetensors.numpy import save_file

    arrays = {"linear.weight": layer.weight, "linear.bias": layer.bias}
    if isinstance(layer.residual, np.ndarray):
        arrays["residual.weight"] = layer.residual
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items() if v is not None}, path)


def load_json(source: Source, name: str) -> Any:
    """Returns the content of a file of a source, or None if there is no such file."""
    path = source.get(name)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} must be JSON; it is damaged: restore it") from error


def load_mapping(source: Source, name: str) -> dict[str, Any]:
    """Returns the object in a file of a source, which is empty if there is no such file."""
    content = load_json(source, name)
    if content is not None and not isinstance(content, dict):
        raise CheckpointError(f"{name} of {source} must be a JSON object: restore it")
    return content or {}


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
