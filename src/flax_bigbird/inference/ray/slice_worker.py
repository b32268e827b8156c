"""Answers the rows of slices in the actors of Ray, each of which writes parts of the output."""

import pickle
from typing import TYPE_CHECKING, Any

from flax_bigbird.data.readers.rows import FileRow
from flax_bigbird.inference.partial_output import PredictionError
from flax_bigbird.inference.ray import cluster
from flax_bigbird.inference.ray.parts import Parts
from flax_bigbird.inference.ray.workers import RayPredictor

if TYPE_CHECKING:
    import pyarrow

MAX_ATTEMPTS = 4
"""How many workers may die with the same rows. Ray itself would try them forever."""


class SliceWorker:
    """Answers slices of rows in an actor of Ray, and writes each as a part of the output."""

    def __init__(self, worker: type[RayPredictor], parts: Parts, *args: Any, **options: Any):
        self.parts = parts
        self.worker: RayPredictor | Exception
        try:
            self.worker = worker(*args, **options)
        except cluster.OWN_ERRORS as error:
            self.worker = error

    def __call__(self, batch: "pyarrow.Table") -> dict[str, list[Any]]:
        """Returns the numbers of rows, of unknown tokens and of tokens of a slice, or its error."""
        (item,) = batch.to_pylist()
        try:
            rows, unknown, tokens = self._answer(item["first"], pickle.loads(item["rows"]))
        except cluster.OWN_ERRORS as error:
            return {"rows": [0], "unknown": [0], "tokens": [0], "error": [pickle.dumps(error)]}
        return {"rows": [rows], "unknown": [unknown], "tokens": [tokens], "error": [b""]}

    def _answer(self, first: int, rows: list[FileRow] | Exception) -> tuple[int, int, int]:
        """Writes a part, and returns the numbers of its rows, of unknown tokens, and of tokens."""
        for value in (self.worker, rows):
            if isinstance(value, Exception):
                raise value
        assert isinstance(self.worker, RayPredictor)
        assert isinstance(rows, list)
        if self.parts.count_attempt(first) > MAX_ATTEMPTS:
            raise PredictionError(
                f"a worker must survive its rows; {MAX_ATTEMPTS} died with the rows from "
                f"{rows[0].origin} to {rows[-1].origin}: give workers more memory with a lower "
                "concurrency or tokens_per_batch, or leave these rows out"
            )
        unknown_before, tokens_before = self.worker.predictor.token_counts
        self.parts.write(self.worker.answer(rows, first), first, first + len(rows))
        unknown, tokens = self.worker.predictor.token_counts
        return len(rows), unknown - unknown_before, tokens - tokens_before
