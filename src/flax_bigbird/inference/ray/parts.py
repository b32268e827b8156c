"""The part files of an output on Ray: written by the workers, and published together."""

import abc
import contextlib
import io
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flax_bigbird._messages import first_line, pluralize
from flax_bigbird.checkpoint.atomic import atomic_write_bytes, publish_directory
from flax_bigbird.data import files as data_files
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.remote_files import RemotePath, is_url
from flax_bigbird.data.unreachable import explain_unreachable
from flax_bigbird.inference.jobs import check_output
from flax_bigbird.inference.parquet import unify_schemas, with_schema
from flax_bigbird.inference.partial_output import PartialOutput, PredictionError
from flax_bigbird.inference.ray.slices import Range

if TYPE_CHECKING:
    import pyarrow

_NAME = re.compile(r"part-(\d+)-(\d+)\.parquet")
SUCCESS = "_SUCCESS"
"""The empty file that says that an output on a remote file system is complete, as Spark writes."""


def check_only_parts(place: str | Path, names: Iterable[str]) -> None:
    """Raises `OptionError` if a directory that would be replaced holds anything but an output.

    Args:
      place: The directory or URL.
      names: The paths of what it holds, relative to it.
    """
    others = (name for name in names if name != SUCCESS and not _NAME.fullmatch(name))
    other = next(others, None)
    if other is not None:
        raise OptionError(
            "must be new or hold part files alone, because overwrite removes all that it holds; "
            f"{place} holds {other}: choose another name, or remove it yourself",
            option="output",
        )


def part_name(first: int, stop: int) -> str:
    """Returns the name of the part with the rows `[first, stop)`; names sort as the rows do."""
    return f"part-{first:012}-{stop:012}.parquet"


class Parts(abc.ABC):
    """The part files of one output. Workers have copies of this object, and write to the same."""

    @classmethod
    def of(cls, output: str | Path) -> "Parts":
        """Returns the parts of an output, a local directory or a URL."""
        if is_url(output):
            return RemoteParts(str(output).rstrip("/"))
        return LocalParts(Path(output).expanduser().absolute())

    @abc.abstractmethod
    def check_new(self, overwrite: bool) -> None:
        """Raises `OptionError` if the output exists, unless it is overwritten, or is unusable."""

    @abc.abstractmethod
    def check_is_no_input(self, files: Sequence[str]) -> None:
        """Raises `OptionError` if the output is one of the local files that are read."""

    @abc.abstractmethod
    def publishing(
        self, fingerprint: Callable[[], dict[str, Any]], overwrite: bool
    ) -> contextlib.AbstractContextManager[None]:
        """Prepares the output for the block of a `with` statement, and publishes it at its end.

        Args:
          fingerprint: Returns everything that the answers depend on.
          overwrite: Whether to replace an existing output and discard an unfinished one.
        """

    @abc.abstractmethod
    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes a file atomically."""

    @abc.abstractmethod
    def read(self, name: str) -> Any:
        """Returns a file that pyarrow reads."""

    def count_attempt(self, first: int) -> int:
        """Returns how often workers have tried to answer the rows from `first` on, this time too.

        At a URL, attempts are not counted.
        """
        del first
        return 1

    @abc.abstractmethod
    def names(self) -> list[str]:
        """Returns the names of all files, sorted."""

    def ranges(self) -> list[Range]:
        """Returns the ranges of rows of the parts that are written, sorted."""
        matches = filter(None, map(_NAME.fullmatch, self.names()))
        return [(int(match[1]), int(match[2])) for match in matches]

    def write(self, table: "pyarrow.Table", first: int, stop: int) -> None:
        """Writes the part with the answers to the rows `[first, stop)`."""
        self._write_table(part_name(first, stop), table)

    def finish(self, num_rows: int) -> None:
        """Checks that every row is answered once, and gives all parts the same columns.

        Raises:
          PredictionError: if a row is answered not at all or twice.
          DataError: if the values of a column do not have one type.
        """
        import pyarrow
        import pyarrow.parquet

        ranges = self.ranges()
        if not ranges and not num_rows:
            self.write(pyarrow.table({}), 0, 0)
            return
        stops = [0, *(stop for _, stop in ranges)]
        if [first for first, _ in ranges] != stops[:-1] or stops[-1] != num_rows:
            raise PredictionError(
                f"every one of the {num_rows:,} rows must be answered once; the parts that this "
                f"machine sees are not those ({pluralize(len(ranges), 'part')}): make "
                "sure that all nodes of the cluster share the file system of the output, and set "
                "overwrite to start over"
            )
        names = [part_name(*range) for range in ranges]
        schemas = [pyarrow.parquet.read_schema(self.read(name)) for name in names]
        different = {schema.remove_metadata().to_string(): schema for schema in schemas}
        if len(different) == 1:
            return
        try:
            schema = unify_schemas(*different.values())
        except pyarrow.ArrowException as error:
            raise DataError(
                "the values of a column must have one type in all rows, because the output is "
                f"Parquet; they do not ({first_line(error)}): leave the column out of "
                "keep"
            ) from error
        for name, before in zip(names, schemas, strict=True):
            if not before.equals(schema):
                table = pyarrow.parquet.read_table(self.read(name))
                self._write_table(name, with_schema(table, schema))

    def _write_table(self, name: str, table: "pyarrow.Table") -> None:
        import pyarrow.parquet

        stream = io.BytesIO()
        pyarrow.parquet.write_table(table, stream)
        self.write_bytes(name, stream.getvalue())


class LocalParts(Parts):
    """Parts in `OUTPUT.part/parts`, a directory that becomes the output when it is complete."""

    def __init__(self, target: Path):
        self.target = target
        self.partial = PartialOutput.of(target)
        self.directory = self.partial.directory / "parts"
        self._attempts = self.partial.directory / "attempts"

    def check_new(self, overwrite: bool) -> None:
        if self.target.suffix in (".jsonl", ".npy"):
            raise OptionError(
                "the output of the engine ray is a directory of Parquet files; got "
                f"{self.target.name!r}: give the name of a directory"
            )
        check_output(self.target, overwrite)
        if self.target.is_dir():
            check_only_parts(self.target, sorted(path.name for path in self.target.iterdir()))

    def check_is_no_input(self, files: Sequence[str]) -> None:
        data_files.check_output_is_no_input(self.target, files)

    @contextlib.contextmanager
    def publishing(
        self, fingerprint: Callable[[], dict[str, Any]], overwrite: bool
    ) -> Iterator[None]:
        with self.partial.lock(self.target):
            self.check_new(overwrite)  # another process may have written it since
            self.partial.start_or_resume(fingerprint(), overwrite, {})
            self.start()
            yield
            self.publish(overwrite)

    def write_bytes(self, name: str, data: bytes) -> None:
        atomic_write_bytes(self.directory / name, data)

    def read(self, name: str) -> Any:
        return self.directory / name

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def start(self) -> None:
        """Prepares the directories, and forgets the attempts of an earlier process."""
        self.directory.mkdir(exist_ok=True)
        shutil.rmtree(self._attempts, ignore_errors=True)
        self._attempts.mkdir()

    def count_attempt(self, first: int) -> int:
        try:
            with (self._attempts / str(first)).open("ab") as stream:
                stream.write(b".")
        except FileNotFoundError as error:
            raise OptionError(
                "must be on a file system that all nodes of the cluster share; a worker "
                f"does not find {self.directory}: mount it there, or give a URL such as s3://...",
                option="output",
            ) from error
        return (self._attempts / str(first)).stat().st_size

    def publish(self, overwrite: bool) -> None:
        """Makes the parts visible as the output, all at once."""
        for name in self.names():
            if not _NAME.fullmatch(name):  # what a killed worker left behind
                (self.directory / name).unlink()
        if self.target.is_file():
            self.target.unlink()
        previous = self.partial.directory / "previous"
        publish_directory(self.directory, self.target, replace=overwrite, previous=previous)
        shutil.rmtree(self.partial.directory)


class RemoteParts(Parts):
    """Parts at a URL, complete as soon as the file `_SUCCESS` is beside them."""

    def __init__(self, url: str):
        self.url = url

    def check_new(self, overwrite: bool) -> None:
        found = self._files()
        if found and not overwrite:
            raise OptionError(
                f"must be new; {self.url} has {pluralize(len(found), 'file')}: choose "
                "another URL, or set overwrite",
                option="output",
            )
        root = RemotePath.of(self.url).path if found else ""
        check_only_parts(self.url, (info.path.removeprefix(f"{root}/") for info in found))

    def check_is_no_input(self, files: Sequence[str]) -> None:
        del files  # the output is remote

    @contextlib.contextmanager
    def publishing(
        self, fingerprint: Callable[[], dict[str, Any]], overwrite: bool
    ) -> Iterator[None]:
        del fingerprint  # an interrupted job is not resumed
        self.check_new(overwrite)
        remote = RemotePath.of(self.url)
        with self._explain():
            for info in remote.files():
                remote.filesystem.delete_file(info.path)
            remote.filesystem.create_dir(remote.path, recursive=True)
        yield
        self.write_bytes(SUCCESS, b"")

    def write_bytes(self, name: str, data: bytes) -> None:
        remote = RemotePath.of(self.url)
        with (
            self._explain(),
            remote.filesystem.open_output_stream(f"{remote.path}/{name}") as stream,
        ):
            stream.write(data)

    def read(self, name: str) -> Any:
        remote = RemotePath.of(self.url)
        with self._explain():
            return remote.filesystem.open_input_file(f"{remote.path}/{name}")

    def names(self) -> list[str]:
        return [Path(info.path).name for info in self._files()]

    def _files(self) -> list[Any]:
        with self._explain():
            return RemotePath.of(self.url).files()

    def _explain(self) -> contextlib.AbstractContextManager[None]:
        return explain_unreachable(self.url, "the output must be writable", OptionError)
