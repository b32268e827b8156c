"""The texts of an index in Parquet files, of which a search reads the few rows that it returns."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pyarrow

CHUNK_FILE = "chunks.parquet"
KEY_FILE = "keys.npy"
FILE_TABLE = "files.parquet"
ROWS_PER_GROUP = 128  # A search reads a row group for each result.
_GROUPS_PER_WRITE = 32


class IndexedFile(NamedTuple):
    """A file in an index.

    Attributes:
      path: Its path in the folder.
      size: Its size in bytes.
      mtime_ns: When it was last modified, in nanoseconds since the epoch.
      content: A hash of its content, and its format.
      content_id: The id of the content in the table of chunks.
    """

    path: str
    size: int
    mtime_ns: int
    content: str
    content_id: int


class Chunk(NamedTuple):
    """A chunk of a document.

    Attributes:
      key: The key of its vector.
      content_id: The id of the content that the document is in.
      row: The number of the document's row in the file, from 1; 0 for a text file.
      start: Its first character in the document.
      end: The character after its last one.
      line: The line of its first character in the document, from 1.
      text: Its text.
    """

    key: int
    content_id: int
    row: int
    start: int
    end: int
    line: int
    text: str


def _chunk_schema() -> "pyarrow.Schema":
    import pyarrow

    integers = [(name, pyarrow.int64()) for name in Chunk._fields[:-1]]
    return pyarrow.schema([*integers, ("text", pyarrow.large_string())])


class ChunkWriter:
    """Writes the chunks of an index in groups of rows of one size, and their keys.

    Attributes:
      num_chunks: The number of chunks so far.
    """

    def __init__(self, directory: Path):
        import pyarrow.parquet

        self._directory = directory
        self._writer = pyarrow.parquet.ParquetWriter(
            directory / CHUNK_FILE,
            _chunk_schema(),
            compression="lz4",
            use_dictionary=False,
            write_statistics=False,
        )
        self._tables: list[Any] = []
        self._num_waiting = 0
        self.num_chunks = 0
        self._keys: list[np.ndarray] = []
        self._rows: list[Chunk] = []

    def __enter__(self) -> "ChunkWriter":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if error is None:
            self._take_rows()
            self._write(self._num_waiting)
            keys = np.concatenate(self._keys or [np.zeros(0, np.int64)])
            np.save(self._directory / KEY_FILE, keys)
        self._writer.close()

    def append(self, chunk: Chunk) -> None:
        """Appends a chunk."""
        self._rows.append(chunk)
        if len(self._rows) >= ROWS_PER_GROUP:
            self._take_rows()

    def append_table(self, table: "pyarrow.Table") -> None:
        """Appends a table of chunks."""
        self._take_rows()
        self._add(table)

    def _take_rows(self) -> None:
        import pyarrow

        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            self._rows = []
            self._add(pyarrow.table(columns, schema=_chunk_schema()))

    def _add(self, table: "pyarrow.Table") -> None:
        self._tables.append(table)
        self._num_waiting += len(table)
        self.num_chunks += len(table)
        self._keys.append(table["key"].to_numpy())
        num_rows = ROWS_PER_GROUP * _GROUPS_PER_WRITE
        if self._num_waiting >= num_rows:
            self._write(self._num_waiting // num_rows * num_rows)

    def _write(self, num_rows: int) -> None:
        """Writes the first of the rows that wait to be written."""
        import pyarrow

        if not num_rows:
            return
        table = pyarrow.concat_tables(self._tables)
        self._writer.write_table(table.slice(0, num_rows), row_group_size=ROWS_PER_GROUP)
        self._tables = [table.slice(num_rows)]
        self._num_waiting -= num_rows


class ChunkStore:
    """Reads single chunks of an index.

    Attributes:
      keys: The keys of all chunks in ascending order, mapped to memory.
      is_closed: Whether `close` was called.
    """

    def __init__(self, directory: Path):
        import pyarrow.parquet

        self._file = pyarrow.parquet.ParquetFile(directory / CHUNK_FILE, memory_map=True)
        self.is_closed = False
        self.keys: np.ndarray = np.load(directory / KEY_FILE, mmap_mode="r")

    def close(self) -> None:
        """Closes the files."""
        self.is_closed = True
        self._file.close()

    def chunks(self, keys: Sequence[int]) -> list[Chunk]:
        """Returns the chunks with the given keys, in their order."""
        positions = np.searchsorted(self.keys, np.asarray(keys, np.int64))
        groups = [divmod(int(position), ROWS_PER_GROUP) for position in positions]
        tables = {
            group: self._file.read_row_group(group, use_threads=False)
            for group in {group for group, _ in groups}
        }
        return [Chunk(**tables[group].slice(row, 1).to_pylist()[0]) for group, row in groups]

    def tables(self) -> Iterator["pyarrow.Table"]:
        """Yields all chunks in tables, which are not in memory at once."""
        for group in range(self._file.num_row_groups):
            yield self._file.read_row_group(group)

    def texts(self) -> Iterator[str]:
        """Yields the texts of all chunks."""
        for group in range(self._file.num_row_groups):
            yield from self._file.read_row_group(group, columns=["text"])["text"].to_pylist()


def write_file_table(directory: Path, files: Sequence[IndexedFile]) -> None:
    """Writes the table of the files of an index."""
    import pyarrow
    import pyarrow.parquet

    kinds = {"path": pyarrow.string(), "content": pyarrow.string()}
    schema = pyarrow.schema(
        [(name, kinds.get(name, pyarrow.int64())) for name in IndexedFile._fields]
    )
    columns = [list(column) for column in zip(*files, strict=True)] or [[] for _ in schema]
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), directory / FILE_TABLE)


def read_file_table(directory: Path) -> list[IndexedFile]:
    """Returns the files of an index, sorted by path."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(directory / FILE_TABLE)
    columns = [table[name].to_pylist() for name in IndexedFile._fields]
    return [IndexedFile(*values) for values in zip(*columns, strict=True)]


def used_contents(directory: Path) -> set[int]:
    """Returns the ids of the contents that have chunks."""
    import pyarrow.parquet

    file = directory / CHUNK_FILE
    ids = pyarrow.parquet.read_table(file, columns=["content_id"])["content_id"]
    return set(ids.unique().to_pylist())
