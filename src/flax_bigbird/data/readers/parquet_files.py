"""Reads Parquet files, if possible only the columns that are needed."""

from collections.abc import Collection, Iterator
from pathlib import Path

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.readers.rows import FileRow

BATCH_SIZE = 256  # rows


def read_parquet(file: Path, columns: Collection[str] | None = None) -> Iterator[FileRow]:
    """Yields the rows of a Parquet file.

    Args:
      file: The file.
      columns: The columns to read, of those that the file has; None reads all of them.

    Raises:
      DataError: if the file cannot be read. The message names the rows.
    """
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        source = pyarrow.parquet.ParquetFile(file)
        names = None
        if columns is not None:
            names = [name for name in source.schema_arrow.names if name in columns]
        if names == []:  # rows without any of the columns
            for number in range(1, source.metadata.num_rows + 1):
                yield FileRow({}, f"{file}, row {number}")
            return
        for batch in source.iter_batches(BATCH_SIZE, columns=names):
            for row in batch.to_pylist():
                number += 1
                yield FileRow(row, f"{file}, row {number}")
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise _unreadable(file, f" after row {number}", error) from error


def parquet_columns(file: Path) -> list[str]:
    """Returns the names of the columns of a Parquet file.

    Raises:
      DataError: if the file cannot be read.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_schema(file).names
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(file, "", error) from error


def _unreadable(file: Path, where: str, error: BaseException) -> DataError:
    return DataError(
        f"data files must be readable as parquet; {file} is not{where} "
        f"({' '.join(str(error).split())[:200]}): write it again"
    )
