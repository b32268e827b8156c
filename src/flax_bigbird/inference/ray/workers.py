"""The classes whose instances hold a model in the actors of Ray, for `Dataset.map_batches`."""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from flax_bigbird.data.types import Row
from flax_bigbird.inference.bulk_embedding import vectors_and_places
from flax_bigbird.inference.embedder_loading import load_embedder
from flax_bigbird.inference.kept_values import json_value, without_clashes
from flax_bigbird.inference.parquet import table_of_rows, with_vectors
from flax_bigbird.inference.predictor import Predictor, load_predictor
from flax_bigbird.inference.rows import iterate_rows

if TYPE_CHECKING:
    import pyarrow


class RayPredictor:
    """Answers batches of rows in an actor of Ray, for `ray.data.Dataset.map_batches`.

        dataset.map_batches(
            RayPredictor, fn_constructor_args=["classifier"], concurrency=4, num_gpus=1
        )

    The answers are those of the predictor that `load_predictor` returns. `predict_dataset` chooses
    the other arguments of `map_batches`.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        task: str | None = None,
        keep: Sequence[str] | None = None,
        compilation_cache: str | None = None,
        **options: Any,
    ):
        """Loads the model.

        Args:
          model: A directory, the name of a shipped model, or a Hub id.
          task: The name of the task. By default, it is the task that the model was trained for.
          keep: The columns that the result repeats; by default all of them.
          compilation_cache: The directory in which JAX keeps compiled programs.
          **options: The options of `load_predictor`.
        """
        _prepare_process(compilation_cache)
        self.keep = keep
        self.predictor = self._load(model, task, options)

    def _load(self, model: str | Path, task: str | None, options: dict[str, Any]) -> Predictor:
        return load_predictor(model, task=task, **options)

    def __call__(self, batch: Any) -> "pyarrow.Table":
        """Returns the answers to a batch: a table, a data frame, or a dictionary of arrays."""
        return self.answer(_rows_of_batch(batch, self.predictor))

    def answer(self, rows: Sequence[Row], first_index: int = 0) -> "pyarrow.Table":
        """Returns a table with the answers to rows, and with the kept columns.

        Args:
          rows: The rows.
          first_index: The index of the first one among all rows.
        """
        chunks = self.predictor.iterate_answers(rows, first_row=first_index + 1)
        answers = (answer for chunk in chunks for answer in chunk)
        return self._table(
            (index, self._kept(row, index), answer)
            for index, (row, answer) in enumerate(zip(rows, answers, strict=True), first_index)
        )

    def _table(self, answers: Iterable[tuple[int, Row, Row]]) -> "pyarrow.Table":
        """Returns the table of rows, each with its index, its kept columns, and its answer."""
        return table_of_rows(
            [
                kept | json_value(without_clashes(answer, kept), "the answer", f"row {index + 1}")
                for index, kept, answer in answers
            ]
        )

    def _kept(self, row: Row, index: int) -> Row:
        names = row if self.keep is None else self.keep
        origin = getattr(row, "origin", f"row {index + 1}")
        return {name: json_value(row.get(name), name, origin) for name in names}


class RayEmbedder(RayPredictor):
    """Computes the vectors of batches of texts in an actor of Ray; see `RayPredictor`.

    The result has a row for each vector, as the Parquet files of `embed_files` have.
    """

    def _load(self, model: str | Path, task: str | None, options: dict[str, Any]) -> Predictor:
        del task
        return load_embedder(model, **options).predictor

    def _table(self, answers: Iterable[tuple[int, Row, Row]]) -> "pyarrow.Table":
        rows: list[Row] = []
        parts: list[np.ndarray] = [np.zeros((0, self.predictor.task.dimension), np.float32)]  # type: ignore[attr-defined]
        name = "vector"
        for index, kept, answer in answers:
            vectors, places = vectors_and_places(answer, index)
            rows += [without_clashes(place, kept) | kept for place in places]
            parts.append(vectors)
            (name,) = without_clashes({"vector": None}, kept)
        return with_vectors(table_of_rows(rows), np.concatenate(parts), name)


def _prepare_process(compilation_cache: str | None) -> None:
    """Limits the threads of an actor to its CPUs, and sets where JAX keeps programs.

    XLA reads the number of threads when the first array is made, which is after this.
    """
    if ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None:
        resources = ray.get_runtime_context().get_assigned_resources()
        if not resources.get("GPU") and resources.get("CPU"):
            os.environ["NPROC"] = str(math.ceil(resources["CPU"]))
    if compilation_cache is not None:
        import jax

        jax.config.update("jax_compilation_cache_dir", compilation_cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _rows_of_batch(batch: Any, predictor: Predictor) -> list[Row]:
    """Returns the rows of a batch in any format of Ray Data."""
    text_column = getattr(predictor.options, "text_column", "text")
    if isinstance(batch, dict):  # the format "numpy"
        columns = [np.asarray(values, dtype=object) for values in batch.values()]
        batch = [dict(zip(batch, row, strict=True)) for row in zip(*columns, strict=True)]
    return list(iterate_rows(batch, text_column))
