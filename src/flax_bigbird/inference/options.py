"""The options of `bigbird predict`, `evaluate` and `embed`; importing them does not import JAX."""

from typing import Any, cast

import pydantic

from flax_bigbird.data.errors import OptionError
from flax_bigbird.tasks.options import (
    DATA,
    DATA_FILES,
    MODEL,
    RUN,
    Command,
    Options,
    TaskOptions,
    command_options,
    option,
    option_fields,
)
from flax_bigbird.tasks.registry import get_options_class
from flax_bigbird.tasks.retrieval_options import EmbeddingOptions

ENGINES = ("local", "ray")


class EngineArguments(Options):
    """The options that say what answers the rows of files."""

    engine: str = option(
        "local",
        help="What answers the rows: this process (local), or the workers of a Ray cluster, which "
        "write a directory of Parquet files (ray, of the extra ray).",
        panel=RUN,
        choices=ENGINES,
    )
    address: str | None = option(
        None,
        help="The address of a Ray cluster, such as head:6379, or auto for that of this machine. "
        "By default, one is started on this machine.",
        panel=RUN,
    )
    concurrency: int | None = option(
        None,
        help="The number of workers on Ray. By default, there is one for each GPU, or for each "
        "node without GPUs.",
        panel=RUN,
        ge=1,
    )

    @pydantic.model_validator(mode="after")
    def _check_ray(self) -> "EngineArguments":
        for name in ("address", "concurrency"):
            value = getattr(self, name)
            if value is not None and self.engine != "ray":
                raise OptionError(
                    f"{name} belongs to the engine ray; got {value!r} for the engine local: add "
                    "engine ray, or leave it out"
                )
        return self


class ModelArguments(Options):
    """The options of an evaluation that neither depend on the task nor say where the data are."""

    config_overrides: dict[str, Any] = option(
        {},
        help="Changes to the configuration of the model, each as key=value.",
        panel=MODEL,
    )


class EvaluationArguments(ModelArguments):
    """The options of an evaluation that do not depend on the task."""

    files: list[str] = option(
        [],
        help=f"{DATA_FILES}, to evaluate on.",
        panel=DATA,
    )
    dataset: str | None = option(
        None,
        help="The id of a Hub dataset, or a directory that `datasets` loads, to evaluate on "
        "instead of files.",
        panel=DATA,
    )
    dataset_config: str | None = option(
        None, help="The name of the dataset's configuration.", panel=DATA
    )
    split: str = option("test", help="The split of the dataset to evaluate on.", panel=DATA)

    @pydantic.model_validator(mode="after")
    def _check_one_source(self) -> "EvaluationArguments":
        if bool(self.files) == bool(self.dataset):
            given = "both" if self.dataset else "neither"
            raise OptionError(f"the data must be files or a dataset; got {given}: give one")
        return self


def predict_options(task: str, **options: Any) -> TaskOptions:
    """Returns the options of a task for prediction.

    Args:
      task: The name of the task.
      options: The options that differ from their defaults.

    Raises:
      OptionError: if an option is unknown, invalid, or belongs to another task or command.
    """
    return cast(TaskOptions, command_options(task, "predict")(**options))


def embed_options(**options: Any) -> EmbeddingOptions:
    """Returns the options of embedding.

    Args:
      options: The options that differ from their defaults.

    Raises:
      OptionError: if an option is unknown, invalid, or belongs to another task or command.
    """
    return cast(EmbeddingOptions, command_options("embedding", "embed")(**options))


def evaluate_options(task: str, *, rows_are_given: bool = False, **options: Any) -> Any:
    """Returns the options of a task for evaluation, together with those of `EvaluationArguments`.

    Args:
      task: The name of the task.
      rows_are_given: Whether the rows are in memory, so that no option says where the data are.
      options: The options that differ from their defaults.

    Raises:
      OptionError: if an option is unknown, invalid, or belongs to another task or command.
    """
    arguments = ModelArguments if rows_are_given else EvaluationArguments
    return command_options(task, "evaluate", arguments)(**options)


def saved_option_names(task: str, command: Command) -> frozenset[str]:
    """Returns the options of a command whose defaults are the values of the training run.

    These are the options that training has too, except those that belong to the files and those
    that belong to the machine: no command uses the mesh of the run, whose devices this machine may
    lack, nor `tokens_per_batch`, the batch of all of its devices, on which answers do not depend.
    Prediction and embedding do not use the dtype of the run: they compute in float32 unless `dtype`
    is given.
    """
    options_class = get_options_class(task)
    names = set(option_fields(options_class, "train")) & set(option_fields(options_class, command))
    own = set() if command == "evaluate" else {"dtype"}
    return frozenset(names - {"separator", "file_format", "mesh", "tokens_per_batch"} - own)
