"""What a run starts from: a tokenizer, and a model that is loaded or new."""

import contextlib
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax_bigbird
from flax_bigbird._transformers import bigbird_config_class
from flax_bigbird.checkpoint import CheckpointError, CheckpointWarning
from flax_bigbird.config import SparsityConfig
from flax_bigbird.pretrained import local_path
from flax_bigbird.tasks.loading import read_config
from flax_bigbird.tasks.text import load_tokenizer
from flax_bigbird.train import vocabulary
from flax_bigbird.train.objectives import Objective
from flax_bigbird.train.options import OptionError, TrainOptions

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


NEW_TABLE = 4096  # positions of a new model


def with_length(options: TrainOptions) -> TrainOptions:
    """The options with the `max_length` that they ask for or leave to the model.

    Raises:
      OptionError: the model's configuration cannot be read.
    """
    if options.max_length:
        return options
    table = options.model_config.get("max_position_embeddings")
    if table is None and options.start:
        config = read_config(options.start)
        table = config.max_position_embeddings
    return options.with_length(table or NEW_TABLE)


def find_tokenizer(
    options: TrainOptions, objective: Objective, rows: "Dataset", folder: Path
) -> "PreTrainedTokenizerBase":
    """The run's tokenizer, kept in `folder`: an earlier start's, the one named, or a new one.

    Raises:
      OptionError: it cannot be loaded, or the texts are too few for `vocabulary_size`.
    """
    if folder.exists():
        return load_tokenizer(str(folder))
    named = options.tokenizer or options.start
    if named:
        tokenizer = load_tokenizer(named)
        with _whole(folder) as partial:
            tokenizer.save_pretrained(partial)
            model_file = Path(local_path(named)) / "spiece.model"
            if model_file.is_file():
                shutil.copy2(model_file, partial)
        return tokenizer
    try:
        made = vocabulary.train_vocabulary(
            objective.texts(rows), options.vocabulary_size, or_fewer=True
        )
    except ValueError as error:
        raise OptionError(f"vocabulary_size: {error}") from error
    with _whole(folder) as partial:
        vocabulary.save_vocabulary(made, partial, options.length)
    return load_tokenizer(str(folder))


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to fill, which then takes the name of `folder`: what has the name is whole."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    yield partial
    partial.rename(folder)


def find_model(
    options: TrainOptions, objective: Objective, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[Any, list[str]]:
    """The model to train, and what is to be said about it.

    Its position table is tiled up to `max_position_embeddings` of `model_config`.

    Raises:
      OptionError: the model cannot be loaded, does not hold `max_length` tokens, or does not know
        all of the tokenizer's pieces.
    """
    model_class = getattr(flax_bigbird, objective.model_class)
    settings = {
        "random_attention": options.random_attention,
        "padding_invariant": True,
        "is_decoder": False,  # a causal model goes on as an encoder, which reads both sides
        **options.model_config,
        **objective.config_keys(),
    }
    recompute: bool | str = options.gradient_checkpointing
    if recompute and options.keep_attention:
        recompute = "attention"
    fields = {"dtype": options.dtype, "gradient_checkpointing": recompute}
    if options.start is None:
        try:
            model = model_class(
                _new_config(options, settings, tokenizer), seed=options.seed, **fields
            )
        except (ValueError, TypeError) as error:
            raise OptionError(f"model_config must describe a BigBird: {error}") from error
        notes = [f"A new model of {_size(model):,} parameters."]
    else:
        model, notes = _loaded(options, settings, model_class, fields)
    table = model.config.max_position_embeddings
    if options.length > table:
        raise OptionError(
            f"max_length must be at most the model's position table, {table}; got "
            f"{options.length}: lower it, or lengthen the table with "
            f"model_config max_position_embeddings={options.length}"
        )
    if len(tokenizer) > model.config.vocab_size:
        raise OptionError(
            f"the tokenizer must have at most the model's {model.config.vocab_size} pieces; it has "
            f"{len(tokenizer)}: use the one that belongs to the model"
        )
    return model, notes


def _new_config(
    options: TrainOptions, settings: dict[str, Any], tokenizer: "PreTrainedTokenizerBase"
) -> Any:
    ids = {
        f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id")
        for kind in ("pad", "sep", "bos", "eos")
        if getattr(tokenizer, f"{kind}_token_id") is not None
    }
    base = {
        # A whole number of 8: matmuls with a vocabulary of odd size are slower on accelerators.
        "vocab_size": -(-len(tokenizer) // 8) * 8,
        "max_position_embeddings": options.length,
    }
    known = bigbird_config_class()().to_dict().keys() | set(SparsityConfig.KEYS)
    for key in options.model_config:
        if key not in known:
            raise OptionError(
                f"model_config must hold keys of BigBirdConfig; got {key!r}: they are "
                f"{', '.join(sorted(known - _general_keys()))}"
            )
    return bigbird_config_class()(**{**base, **ids, **settings})


def _general_keys() -> set[str]:
    """Keys that every configuration of `transformers` has."""
    from transformers import PretrainedConfig

    return set(PretrainedConfig().to_dict())


def _loaded(
    options: TrainOptions, settings: dict[str, Any], model_class: Any, fields: dict[str, Any]
) -> tuple[Any, list[str]]:
    wanted = settings.pop("max_position_embeddings", None)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CheckpointWarning)
            model = model_class.from_pretrained(
                options.start, seed=options.seed, ignore_mismatched_sizes=True, **fields, **settings
            )
    except (CheckpointError, OSError, ValueError) as error:
        raise OptionError(
            f"model must be a BigBird checkpoint; {options.start}: {error}"
        ) from error
    model.params = model.to_fp32(model.params)  # small updates would be lost in a shorter dtype
    notes = [f"A model of {_size(model):,} parameters from {options.start}."]
    notes += [str(w.message) for w in caught if w.category is CheckpointWarning]
    if wanted and wanted != model.config.max_position_embeddings:
        before = model.config.max_position_embeddings
        model = flax_bigbird.resize_position_embeddings(model, wanted)
        done = "tiled" if wanted > before else "cut"
        notes.append(f"Its position table is {done} from {before:,} to {wanted:,}.")
    return model, notes


def _size(model: Any) -> int:
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(model.params))
