"""The documents that are new in an index: read from files, embedded, and kept until it is complete.

They are kept in the directory of the partial output. A killed build is resumed with every document
whose file still has the same content.
"""

import collections
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from flax_bigbird.data import files as data_files
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.types import Row
from flax_bigbird.inference.bulk_embedding import VECTORS, ParquetVectors, map_vectors
from flax_bigbird.inference.embedder import Embedder
from flax_bigbird.inference.jobs import JobEvents, PredictionInterrupted
from flax_bigbird.inference.partial_output import PartialOutput
from flax_bigbird.inference.search.scan import FoundFile, Skipped, reason_of
from flax_bigbird.tasks.base import get_text

SIZES = ParquetVectors.sizes


class ContentFile(NamedTuple):
    """A file with the hash of its content, which names the format, too."""

    file: FoundFile
    content: str


class _Document(NamedTuple):
    content: str
    row: int
    text: str


class _End(NamedTuple):
    """Follows the last document of a content."""

    content: str


def content_of(path: Path, format: str) -> str:
    """Returns what identifies the content of a file, and how it is read."""
    return f"{data_files.content_hash(path)}:{format}"


class NewDocuments:
    """Embeds the documents of files, and keeps them until the index is complete.

    Attributes:
      partial: The directory that they are kept in.
      skipped: The files that could not be read.
      complete: The contents all of whose documents are embedded.
    """

    def __init__(self, partial: PartialOutput, folder: Path):
        self.partial, self._folder = partial, folder
        self.skipped: list[Skipped] = []
        self.complete: set[str] = set()
        self._num_rows: collections.Counter[str] = collections.Counter()
        self._queue: collections.deque[_Document | _End] = collections.deque()

    def embed(
        self,
        embedder: Embedder,
        files: Sequence[ContentFile],
        job: dict[str, Any],
        overwrite: bool,
        events: JobEvents,
    ) -> None:
        """Embeds the documents of files, one chunk of documents at a time.

        Args:
          embedder: The model, loaded with the options of chunks, prompts and so on.
          files: The files, no two of which have the same content.
          job: Everything that the vectors depend on besides the documents.
          overwrite: Whether to discard earlier documents.
          events: The functions to call; what is counted are the files.

        Raises:
          OptionError: if the directory holds documents of another job.
          DataError: if a vector is not finite.
          PredictionInterrupted: if `should_stop` returned True.
        """
        done = self.partial.start_or_resume(job, overwrite, SIZES)
        with self.partial.open_at({name: done[size] for name, size in SIZES.items()}) as streams:
            self._load_progress()
            wanted = {file.content for file in files}
            events.on_start(len(wanted & self.complete), len(wanted))
            remaining = [file for file in files if file.content not in self.complete]
            column = embedder.predictor.options.text_column
            rows = self._rows(remaining, column)
            for answers in embedder.predictor.iterate_answers(rows):
                for answer in answers:
                    self._write(streams, answer)
                self._save(streams, wanted, events)
                if events.should_stop() and not wanted <= self.complete:
                    raise PredictionInterrupted(len(wanted & self.complete))
            self._save(streams, wanted, events)

    def documents(self) -> Iterator[tuple[Row, int]]:
        """Yields each document that is kept, and the index of its first vector.

        A document is a dictionary of `content`, `row`, `spans` (the characters `[start, end)` and
        the line of each chunk) and `texts`.
        """
        first_vector = 0
        for document in self._lines():
            if "spans" in document:
                yield document, first_vector
                first_vector += len(document["spans"])

    def vectors(self, dimension: int) -> np.ndarray:
        """Returns the vectors of all documents that are kept, `[N, D]`, mapped to memory."""
        path = self.partial.directory / VECTORS
        if not path.exists():
            return np.zeros((0, dimension), np.float32)
        return map_vectors(path, dimension)

    def _lines(self) -> Iterator[Row]:
        if self.partial.lines.exists():
            with self.partial.lines.open(encoding="utf-8") as stream:
                yield from map(json.loads, stream)

    def _load_progress(self) -> None:
        for line in self._lines():
            if "spans" in line:
                self._num_rows[line["content"]] += 1
            else:
                self.complete.add(line["content"])

    def _rows(self, files: Sequence[ContentFile], column: str) -> Iterator[Row]:
        """Yields the documents of files as rows, and queues them.

        A row is yielded when it is known whether another one follows, so that a file is complete
        as soon as its last document is embedded.
        """
        for file, content in files:
            path = self._folder / file.path
            last: _Document | None = None
            try:
                self._check_unchanged(path, file, content)
                for index, text in enumerate(_read_texts(path, file.format, column)):
                    if index < self._num_rows[content]:
                        continue
                    if last is not None:
                        self._queue.append(last)
                        yield {column: last.text}
                    last = _Document(content, 0 if file.format == "text" else index + 1, text)
                self._check_unchanged(path, file, content)
            except (DataError, OSError) as error:
                self.skipped.append(Skipped(file.path, reason_of(error)))
                continue
            if last is not None:
                self._queue.append(last)
            self._queue.append(_End(content))
            if last is not None:
                yield {column: last.text}

    def _check_unchanged(self, path: Path, file: FoundFile, content: str) -> None:
        """Raises `DataError` if a file is no longer as it was when it was scanned."""
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns):
            return
        if content_of(path, file.format) != content:
            raise DataError("it changed while it was read: give the same command again")

    def _write(self, streams: Mapping[str, BinaryIO], answer: Row) -> None:
        """Appends the next document of the queue with its vectors."""
        self._write_ends(streams)
        document = self._queue.popleft()
        assert isinstance(document, _Document)
        spans = answer["chunks"]
        starts = [start for start, _ in spans]
        line = {
            "content": document.content,
            "row": document.row,
            "spans": [
                [*span, line]
                for span, line in zip(spans, _lines_at(document.text, starts), strict=True)
            ],
            "texts": [document.text[start:end] for start, end in spans],
        }
        streams["rows.jsonl"].write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        streams[VECTORS].write(answer["vectors"].astype("<f4").tobytes())
        self._num_rows[document.content] += 1

    def _write_ends(self, streams: Mapping[str, BinaryIO]) -> None:
        while self._queue and isinstance(self._queue[0], _End):
            content = self._queue.popleft().content
            streams["rows.jsonl"].write(json.dumps({"content": content}).encode() + b"\n")
            self.complete.add(content)

    def _save(self, streams: Mapping[str, BinaryIO], wanted: set[str], events: JobEvents) -> None:
        self._write_ends(streams)
        self.partial.save_progress(streams, sum(self._num_rows.values()), SIZES)
        events.on_progress(len(wanted & self.complete))


def _read_texts(path: Path, format: str, column: str) -> Iterator[str]:
    """Yields the texts of a file.

    Raises:
      DataError: if it is damaged or binary, or a row has no text.
    """
    for row in data_files.iterate_rows([path], format, columns={column}, missing=""):
        try:
            text = get_text(row, "text" if format == "text" else column)
        except DataError as error:
            raise DataError(f"{row.origin}: {error}") from error
        if "\0" in text:
            raise DataError(
                f"a text must not hold NUL characters; {row.origin} does, as binary files do: "
                "remove it, or rename it"
            )
        yield text


def _lines_at(text: str, starts: Sequence[int]) -> list[int]:
    """Returns the line of each of some characters, from 1; `starts` are in ascending order."""
    lines, line, previous = [], 1, 0
    for start in starts:
        line += text.count("\n", previous, start)
        previous = max(previous, start)
        lines.append(line)
    return lines
