"""Loads embedders, from any checkpoint and from folders of sentence-transformers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax_bigbird.checkpoint.sentence_transformers import (
    EmbeddingModules,
    load_embedding_modules,
)
from flax_bigbird.data.errors import OptionError
from flax_bigbird.data.tokenization import load_tokenizer
from flax_bigbird.inference.devices import InferenceDevices
from flax_bigbird.inference.embedder import Embedder
from flax_bigbird.inference.options import embed_options
from flax_bigbird.inference.predictor import MAX_ROWS_PER_CHUNK, Predictor, check_max_length
from flax_bigbird.inference.resolve import resolve_name, resolve_options
from flax_bigbird.pretrained import DEFAULT_MODEL
from flax_bigbird.tasks.embedding import Embedding
from flax_bigbird.tasks.loading import load_config, load_files_beside, load_model
from flax_bigbird.tasks.retrieval_options import EmbeddingOptions


def load_embedder(
    model: str | Path = DEFAULT_MODEL,
    *,
    devices: Sequence[Any] | None = None,
    **options: Any,
) -> Embedder:
    """Loads a model with its tokenizer, ready to return vectors of texts.

        embedder = load_embedder("run", normalize_embeddings=True)
        embedder.encode(["The jury finds ...", "The bill passed ..."])  # float32, [2, D]

    Args:
      model: A directory, the name of a shipped model, or a Hub id: any BigBird checkpoint, or a
        folder of sentence-transformers with one.
      devices: Devices of JAX, which share the work as the option `mesh` says. By default, they
        are all devices of this process.
      options: The options of `bigbird embed`, such as `max_length` or `pooling_mode`. Options that
        are left out are those of the folder of sentence-transformers, then those of the training
        run that the directory holds, if it holds one.

    Raises:
      OptionError: if the checkpoint or its tokenizer cannot be loaded, if an option is unknown,
        invalid or belongs to another task, or if the mesh does not fit the devices or the model.
    """
    name, resolved, tokenizer, config, modules = resolve_embedding(model, options)
    shared = InferenceDevices.resolve(resolved.mesh, devices, config)
    loaded = load_model(name, Embedding.model_class, dtype=resolved.dtype, **Embedding.model_fields)
    task = Embedding(resolved, tokenizer, loaded.config, modules)
    return Embedder(Predictor(task, loaded, name, shared).with_task(task, MAX_ROWS_PER_CHUNK))


def resolve_embedding(
    model: str | Path, options: Mapping[str, Any]
) -> tuple[str, EmbeddingOptions, Any, Any, EmbeddingModules | None]:
    """Returns everything that `load_embedder` follows from, without loading the parameters.

    The arguments are those of `load_embedder`.

    Returns:
      The name of the checkpoint, the options, the tokenizer, the configuration, and what a folder
      of sentence-transformers says about pooling, layers and prompts.

    Raises:
      OptionError: as `load_embedder` does, unless the parameters are the reason.
    """
    name = resolve_name(model)
    modules = load_files_beside(load_embedding_modules, name)
    if modules is not None and modules.transformer_path:
        name = str(Path(name) / modules.transformer_path)
        if not Path(name).is_dir():
            raise OptionError(
                f"a folder of sentence-transformers must have its checkpoint at the top; {model} "
                f"has it in {modules.transformer_path}: download it and name the folder"
            )
    config = load_config(name)
    tokenizer = load_tokenizer(name)
    resolved = embed_options(**resolve_options("embedding", "embed", name, options))
    if modules is not None and "max_length" not in options:
        limits = (modules.max_seq_length, tokenizer.model_max_length)
        length = min(config.max_position_embeddings, *filter(None, limits))
        resolved = resolved.replace(
            max_length=length, tokens_per_batch=max(resolved.tokens_per_batch, length)
        )
    check_max_length(resolved.max_length, config)
    return name, resolved, tokenizer, config, modules
