"""Loads or trains the tokenizer that a run uses, and saves it in the run directory."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from flax_bigbird.checkpoint import atomic_directory, find_damage, write_checksums
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.tokenization import load_tokenizer
from flax_bigbird.data.types import Tokenizer
from flax_bigbird.data.vocabulary import prepare_vocabulary
from flax_bigbird.pretrained import local_path
from flax_bigbird.tasks.loading import load_config
from flax_bigbird.train.arguments import TrainingArguments


def setup_tokenizer(
    options: TrainingArguments,
    initial_model: str | None,
    texts: Iterable[str],
    directory: Path,
) -> Tokenizer:
    """Returns the tokenizer of a run, saved in `directory`.

    It is the one that an earlier process of the run saved, the one that the options or the initial
    model name, or a new one. Its `model_max_length` is the number of the model's position
    embeddings, not the `max_length` of the run: users may read longer texts than the run did.

    Args:
      options: The options of the run, with a `max_length`.
      initial_model: The model to start from; None for a new one.
      texts: The texts to train a new tokenizer on; they are read only if it is needed.
      directory: Where the tokenizer is saved.

    Raises:
      OptionError: if the tokenizer cannot be loaded, if that of the run is damaged, or if the texts
        are too few for `vocab_size`.
    """
    if directory.exists():
        damage = find_damage(directory)
        if damage is not None:
            raise OptionError(
                f"the tokenizer of the run must be as it was saved; {damage}: copy it again from a "
                "backup, or start again with overwrite_output_dir"
            )
        return load_tokenizer(str(directory))
    positions = options.config_overrides.get("max_position_embeddings")
    if positions is None:
        config = None if initial_model is None else load_config(initial_model)
        positions = options.length if config is None else config.max_position_embeddings
    name = options.tokenizer or initial_model
    if name is not None:
        tokenizer = load_tokenizer(name)
        tokenizer.model_max_length = positions
        with atomic_directory(directory) as partial:
            tokenizer.save_pretrained(partial)
            vocabulary_file = Path(local_path(name)) / "spiece.model"
            if vocabulary_file.is_file():
                shutil.copy2(vocabulary_file, partial)
            write_checksums(partial)
        return tokenizer
    try:
        save = prepare_vocabulary(options.vocabulary, texts, options.vocab_size)
    except DataError:  # of the texts
        raise
    except ValueError as error:
        raise OptionError(f"vocab_size: {error}") from error
    with atomic_directory(directory) as partial:
        save(partial, positions)
        write_checksums(partial)
    return load_tokenizer(str(directory))
