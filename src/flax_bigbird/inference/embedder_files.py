"""Saves embedders as folders of sentence-transformers."""

import dataclasses
from pathlib import Path
from typing import Any

from flax_bigbird.checkpoint.embedding_layers import Normalize
from flax_bigbird.checkpoint.sentence_transformers import save_embedding_modules
from flax_bigbird.data.errors import OptionError
from flax_bigbird.tasks.embedding import Embedding


def save_embedder(folder: Path, model: Any, task: Embedding) -> None:
    """Saves a model with its tokenizer, pooling, prompts, layers, normalization and truncation.

    Args:
      folder: The folder, which is created if necessary.
      model: The model.
      task: The task, with the options of the embedder.

    Raises:
      CheckpointError: if the folder is a file, or cannot be written.
      OptionError: if a folder of sentence-transformers cannot hold the options.
    """
    options, modules = task.options, task.modules
    layers = modules.layers
    if options.normalize_embeddings and (not layers or not isinstance(layers[-1], Normalize)):
        if task.truncate_dim is not None:
            raise OptionError(
                "a folder of sentence-transformers truncates vectors after their length is 1; "
                f"got normalize_embeddings with truncate_dim={task.truncate_dim}: leave one "
                "of them out, and give it to encode"
            )
        layers = (*layers, Normalize())
    modules = dataclasses.replace(
        modules,
        pooling_mode=task.pooling_mode,
        layers=layers,
        max_seq_length=options.length,
        truncate_dim=task.truncate_dim,
        transformer_path="",
    )
    tokenizer: Any = task.tokenizer
    model.save_pretrained(folder)
    previous_length = tokenizer.model_max_length
    tokenizer.model_max_length = options.length
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.model_max_length = previous_length
    save_embedding_modules(folder, modules, task.config.hidden_size)
