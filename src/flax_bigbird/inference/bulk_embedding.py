"""Embedding of files of any size: vectors in order, stored compactly, resumed if interrupted."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from flax_bigbird.checkpoint.embedding_layers import Dense
from flax_bigbird.checkpoint.sentence_transformers import EmbeddingModules
from flax_bigbird.data.errors import OptionError
from flax_bigbird.data.readers.rows import FileRow
from flax_bigbird.data.types import Row
from flax_bigbird.inference.bulk_prediction import AnswerFile, answer_files
from flax_bigbird.inference.embedder import Embedder
from flax_bigbird.inference.jobs import JobEvents
from flax_bigbird.inference.kept_values import kept_values, without_clashes
from flax_bigbird.inference.parquet import jsonl_to_parquet
from flax_bigbird.inference.predictor import Predictor
from flax_bigbird.tasks.embedding import Embedding

VECTORS = "vectors.f32"


def embed_files(
    embedder: Embedder,
    files: Sequence[str | Path],
    output: str | Path,
    *,
    keep: Sequence[str] = (),
    overwrite: bool = False,
    on_start: Callable[[int, int], None] = lambda rows_done, num_rows: None,
    on_progress: Callable[[int], None] = lambda rows_done: None,
    on_message: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Writes the vectors of the rows of `files`, in their order, to a Parquet or NumPy file.

    A Parquet file has a row for each vector: `document`, the index of the document; with chunks,
    also `chunk`, its index in the document, and its characters `start` and `end`; the kept columns;
    and `vector`, a list of fixed size in float32. A `.npy` file has the vectors alone, `[N, D]`.

    The vectors are collected in the directory `OUTPUT.part` until they are complete. If embedding
    is interrupted, the same call resumes it after the last chunk of rows that was saved.

    Args:
      embedder: The model, loaded with the options of chunks, prompts and so on.
      files: The files, see `predict_files`.
      output: The file to write; its name must end in `.parquet` or `.npy`.
      keep: The columns of the input that the output repeats.
      overwrite: Whether to replace an existing output and discard an unfinished one.
      on_start, on_progress, on_message, should_stop: See `predict_files`.

    Returns:
      The number of rows of the files.

    Raises:
      OptionError, DataError, PredictionInterrupted, PredictionError: as `predict_files` does.
    """
    events = JobEvents(on_start, on_progress, on_message, should_stop)
    is_parquet = Path(output).suffix == ".parquet"
    return answer_files(
        embedder.predictor,
        files,
        output,
        ParquetVectors if is_parquet else NumpyVectors,
        keep,
        overwrite,
        events,
        modules=task_fingerprint(embedder.task),
    )


class VectorFile(AnswerFile):
    """Keeps the vectors as raw numbers, and writes them to a file."""

    suffixes = (".parquet", ".npy")

    @property
    def dimension(self) -> int:
        """The number of dimensions of a vector."""
        task = self.predictor.task
        assert isinstance(task, Embedding)
        return task.dimension


class NumpyVectors(VectorFile):
    """Keeps the vectors as a `.npy` file that grows; its header says how many there will be."""

    sizes: Mapping[str, str] = {VECTORS: "vector_bytes"}

    @classmethod
    def check(cls, target: Path, keep: Sequence[str], predictor: Predictor) -> None:
        super().check(target, keep, predictor)
        if predictor.options.is_chunked:
            raise OptionError(
                f"the vectors of chunks need a .parquet file, which says where each chunk is; got "
                f"{target.name!r}: rename it"
            )
        if keep:
            raise OptionError(
                f"kept columns need a .parquet file; got keep={', '.join(keep)} for "
                f"{target.name!r}: rename the file, or leave keep out"
            )

    def start(self, streams: Mapping[str, BinaryIO], num_rows: int) -> None:
        header = {
            "descr": "<f4",
            "fortran_order": False,
            "shape": (num_rows, self.dimension),
        }
        np.lib.format.write_array_header_1_0(streams[VECTORS], header)

    def write(self, streams: Mapping[str, BinaryIO], row: FileRow, answer: Row, index: int) -> None:
        streams[VECTORS].write(answer["vector"].astype("<f4").tobytes())

    def finish(self) -> Path:
        return self.partial.directory / VECTORS


class ParquetVectors(VectorFile):
    """Keeps the vectors without a header, and what else their rows hold as lines of JSON."""

    sizes: Mapping[str, str] = {
        "rows.jsonl": "bytes",
        VECTORS: "vector_bytes",
    }

    def write(self, streams: Mapping[str, BinaryIO], row: FileRow, answer: Row, index: int) -> None:
        kept = kept_values(row, self.keep)
        vectors, places = vectors_and_places(answer, index)
        for place in places:
            self.write_line(streams, without_clashes(place, kept) | kept)
        streams[VECTORS].write(vectors.astype("<f4").tobytes())

    def convert(self, finished: Path) -> None:
        vectors = map_vectors(self.partial.directory / VECTORS, self.dimension)
        (name,) = without_clashes({"vector": None}, self.keep)
        jsonl_to_parquet(self.partial.lines, finished, vectors, name)


def vectors_and_places(answer: Row, index: int) -> tuple[np.ndarray, list[Row]]:
    """Returns the vectors of a document, `[C, D]`, and what the output says about each of them.

    Args:
      answer: The answer of the task.
      index: The index of the document.
    """
    if "vector" in answer:
        return answer["vector"][None], [{"document": index}]
    return answer["vectors"], [
        {"document": index, "chunk": chunk, "start": start, "end": end}
        for chunk, (start, end) in enumerate(answer["chunks"])
    ]


def map_vectors(path: Path, dimension: int) -> np.ndarray:
    """Returns the vectors in a file of raw numbers, `[N, D]`, mapped to memory."""
    if not path.stat().st_size:  # which cannot be mapped
        return np.zeros((0, dimension), "<f4")
    return np.memmap(path, "<f4", "r").reshape(-1, dimension)


def task_fingerprint(task: Embedding) -> str:
    """Returns a hash of what the model's folder says about pooling, layers and prompts."""
    digest = hashlib.sha256(f"{task.pooling_mode} {task.prompt!r} {task.truncate_dim}".encode())
    digest.update(modules_fingerprint(task.modules).encode())
    return digest.hexdigest()


def modules_fingerprint(modules: EmbeddingModules) -> str:
    """Returns a hash of the layers behind the model, and of whether they count the prompt."""
    digest = hashlib.sha256(str(modules.include_prompt).encode())
    for layer in modules.layers:
        digest.update(type(layer).__name__.encode())
        if isinstance(layer, Dense):
            for array in (layer.weight, layer.bias, layer.residual):
                digest.update(
                    repr(array).encode() if array is None else np.asarray(array).tobytes()
                )
            digest.update(layer.activation.encode())
    return digest.hexdigest()
