"""Loads the models of a server, each for its task, and compiles their programs."""

import concurrent.futures
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from flax_bigbird.data.errors import OptionError
from flax_bigbird.inference.embedder_loading import load_embedder
from flax_bigbird.inference.predictor import Predictor, load_predictor
from flax_bigbird.inference.resolve import resolve_name, task_of_files
from flax_bigbird.server.attention_maps import AttentionPrograms
from flax_bigbird.server.generation import GREEDY, Generator, sampling_options
from flax_bigbird.server.programs import ModelPrograms
from flax_bigbird.server.served_model import EXAMPLES, ServedModel
from flax_bigbird.server.settings import ServerSettings
from flax_bigbird.tasks.loading import load_config, load_saved_options
from flax_bigbird.tasks.registry import task_for_config

logger = logging.getLogger("flax_bigbird.server")

SERVED_TASKS = (*EXAMPLES, "causal-lm")
# Feed-forward layers process 1,024 tokens at a time on a CPU; larger batches need more programs.
CPU_BATCH_TOKENS, ACCELERATOR_BATCH_TOKENS = 1024, 16384
CPU_SLICE_TOKENS = 512


class ModelSource(NamedTuple):
    """A model to serve.

    Attributes:
      task_name: The task that it is served for.
      checkpoint: Its directory, shipped name or Hub id.
      name: The name that requests call it.
    """

    task_name: str
    checkpoint: str
    name: str


def resolve_models(names: list[str]) -> list[ModelSource]:
    """Returns where models are and what they are served for, from their configurations.

    Args:
      names: For each model, a directory, a shipped name or a Hub id, with `TASK=` before it for
        another task than its own.

    Raises:
      OptionError: if a model does not exist or cannot be served, or if two have the same name and
        task.
    """
    sources: list[ModelSource] = []
    for given in names:
        task_name, model = _split_task(given)
        checkpoint = resolve_name(model)
        is_directory = Path(checkpoint).is_dir()
        name = os.path.basename(os.path.abspath(checkpoint)) if is_directory else checkpoint
        source = ModelSource(_resolve_task(task_name, checkpoint), checkpoint, name)
        if any((s.name, s.task_name) == (source.name, source.task_name) for s in sources):
            raise OptionError(
                f"models of one task must have different names; two are called {name!r}: rename "
                "the directory of one"
            )
        sources.append(source)
    return sources


def load_models(sources: list[ModelSource], settings: ServerSettings) -> list[ServedModel]:
    """Loads models.

    Args:
      sources: The models.
      settings: The options of the server.

    Raises:
      OptionError: if a model cannot be loaded.
    """
    models: list[ServedModel] = []
    for source in sources:
        models.append(_load_model(source, settings))
        logger.info("loaded %s for %s", source.name, source.task_name)
    return models


def compile_programs(models: list[ServedModel], on_progress: Callable[[int, int], None]) -> None:
    """Compiles the programs of all models.

    Args:
      models: The models.
      on_progress: Called with the number of programs that are compiled, and that of all.
    """
    work = [call for model in models for call in _compilations(model)]
    workers = min(4, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(workers, "compiler") as pool:
        futures = [pool.submit(call) for call in work]
        try:
            for count, future in enumerate(concurrent.futures.as_completed(futures), 1):
                future.result()
                on_progress(count, len(work))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def batch_tokens(settings: ServerSettings) -> int:
    """Returns the maximum number of tokens of a batch."""
    on_cpu = jax.default_backend() == "cpu"
    default = CPU_BATCH_TOKENS if on_cpu else ACCELERATOR_BATCH_TOKENS
    return settings.max_batch_tokens or default


def slice_tokens(settings: ServerSettings) -> int | None:
    """Returns the number of tokens after whose work a batch lets others pass; None for never."""
    default = CPU_SLICE_TOKENS if jax.default_backend() == "cpu" else None
    return settings.slice_tokens or default


def _compilations(model: ServedModel) -> list[Callable[[], None]]:
    """Returns functions that compile the programs of a model, the longest first."""
    if model.generator is not None:
        return [
            functools.partial(model.generator.compile, length, sampling)
            for length in reversed(model.generator.lengths)
            for sampling in (GREEDY, sampling_options(None, None))
        ]
    assert model.programs is not None
    buckets = reversed(model.programs.buckets())
    return [functools.partial(model.programs.compile, *bucket) for bucket in buckets]


def _load_model(source: ModelSource, settings: ServerSettings) -> ServedModel:
    task_name, name = source.task_name, source.name
    predictor = _load_predictor(task_name, source.checkpoint, settings)
    task = predictor.task
    if task_name == "sequence-classification":
        # Long documents are read as a whole, unless a request asks for a truncated one.
        task.options = task.options.replace(whole_documents=True, text_pair_column=None)
    limit = settings.max_input_tokens
    if task_name == "causal-lm":
        generator = Generator(name, predictor)
        return ServedModel(name, predictor, task, None, limit, generator)
    mask = task.tokenizer.mask_token
    row = {key: text.replace("{mask}", mask) for key, text in EXAMPLES[task_name].items()}
    (example,) = task.encode(row)
    programs = ModelPrograms(
        name, task, predictor.model, example, batch_tokens(settings), slice_tokens(settings)
    )
    attention = AttentionPrograms(name, task, predictor.model, slice_tokens(settings))
    return ServedModel(name, predictor, task, programs, limit, attention=attention)


def _split_task(given: str) -> tuple[str, str]:
    """Returns the task, or "" if there is none, and the model of `TASK=MODEL` or `MODEL`.

    Raises:
      OptionError: if the task is not served.
    """
    task, sign, model = given.partition("=")
    if not sign or Path(given).expanduser().is_dir():
        return "", given
    if task not in SERVED_TASKS:
        raise OptionError(
            f"the task before = must be one of {', '.join(SERVED_TASKS)}; got {task!r}: choose one "
            "of them"
        )
    return task, model


def _load_predictor(task: str, model: str, settings: ServerSettings) -> Predictor:
    """Loads a model with the options under which its requests become rows."""
    options = settings.model_options() | {"devices": jax.local_devices()[:1]}
    if task == "embedding":
        return load_embedder(model, **options).predictor
    columns = EXAMPLES.get(task, {"text": ""})
    options |= {f"{column}_column": column for column in columns}
    length = settings.max_length or load_config(model).max_position_embeddings
    if task == "token-classification":
        options["aggregation"] = "simple"
    if task == "causal-lm":
        options["max_new_tokens"] = min(settings.max_new_tokens, length // 2)
    return load_predictor(model, task=task, **options)


def _resolve_task(given: str, name: str) -> str:
    """Returns the task that a checkpoint is served for.

    Args:
      given: The task that the user named, or "".
      name: The checkpoint.

    Raises:
      OptionError: if there is no such checkpoint, if its task is not served, or if the files beside
        it cannot be used.
    """
    config = load_config(name)
    task = given or load_saved_options(name).get("task") or task_of_files(name)
    if task is None:
        architectures = {x.removeprefix("Flax") for x in config.architectures or ()}
        is_encoder = "BigBirdModel" in architectures
        task = "embedding" if is_encoder else task_for_config(config, name)
    if task not in SERVED_TASKS:
        raise OptionError(
            f"the task of a served model must be one of {', '.join(SERVED_TASKS)}; that of {name} "
            f"is {task}: name another one, as in embedding={name}"
        )
    return task
