"""Files that are named by URLs, on any file system that pyarrow or fsspec knows."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flax_bigbird._messages import first_line
from flax_bigbird.data import files
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.readers.lines import COMPRESSIONS
from flax_bigbird.data.unreachable import explain_unreachable, unreachable

if TYPE_CHECKING:
    import pyarrow.fs
    import pyarrow.parquet

T = TypeVar("T")

GCS_RETRY_LIMIT = "?retry_limit_seconds=30"
"""How long pyarrow tries to reach Google Cloud Storage; by default, it does for 15 minutes."""


MAX_REQUESTS = 16
"""How many remote files are asked for at the same time."""


def is_url(path: str | Path) -> bool:
    """Returns whether a path is a URL, such as `s3://bucket/file`, rather than a local path."""
    return isinstance(path, str) and "://" in path


@dataclasses.dataclass(frozen=True)
class RemotePath:
    """A place on a file system.

    Attributes:
      filesystem: The file system.
      path: The path on it.
      scheme: The part of the URL before the path.
    """

    filesystem: "pyarrow.fs.FileSystem"
    path: str
    scheme: str

    @classmethod
    def of(cls, url: str) -> "RemotePath":
        """Returns what a URL stands for: by pyarrow's own file systems, or else those of fsspec.

        Raises:
          DataError: if no installed package knows the file system, or if it cannot be reached.
        """
        import pyarrow
        from pyarrow import fs

        scheme = url.partition("://")[0] + "://"
        limit = GCS_RETRY_LIMIT if scheme in ("gs://", "gcs://") and "?" not in url else ""
        try:
            filesystem, path = fs.FileSystem.from_uri(url + limit)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, ValueError):
            with explain_unreachable(
                url, "a URL must be that of a file system of an installed package"
            ):
                import fsspec

                found, path = fsspec.core.url_to_fs(url)
            filesystem = fs.PyFileSystem(fs.FSSpecHandler(found))
        except (OSError, pyarrow.ArrowException) as error:
            raise unreachable(
                url, error, "a URL must be that of files that can be reached"
            ) from error
        return cls(filesystem, path.rstrip("/"), scheme)

    def url(self, path: str) -> str:
        """Returns the URL of another path on the same file system."""
        return self.scheme + path

    def files(self) -> list["pyarrow.fs.FileInfo"]:
        """Returns the file, or all files below a directory, sorted by their paths."""
        from pyarrow import fs

        info = self.filesystem.get_file_info(self.path)
        if info.type == fs.FileType.File:
            return [info]
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=True)
        found = self.filesystem.get_file_info(selector)
        return sorted((f for f in found if f.type == fs.FileType.File), key=lambda f: f.path)


def expand_sources(
    sources: Sequence[str | Path], file_format: str | None = None
) -> tuple[str, list[str]]:
    """Expands local paths and URLs to files, as `flax_bigbird.data.files.expand_paths` does.

    A URL of a directory stands for the data files below it.

    Args:
      sources: The paths and URLs.
      file_format: The format of the files; by default, it follows from their names.

    Returns:
      The format of the files, and their absolute paths and URLs.

    Raises:
      DataError: if a file is missing, or if the formats differ or are unknown.
    """
    expanded: list[str] = []
    formats: set[str | None] = set()
    urls = [str(source) for source in sources if is_url(source)]
    files_of_urls = iter(in_parallel(_expand_url, [(url, file_format) for url in urls]))
    for source in sources:
        if is_url(source):
            found = next(files_of_urls)
            expanded += found
            formats |= {file_format or files.format_of_name(Path(url)) for url in found}
        else:
            kind, paths = files.expand_paths([source], file_format)
            expanded += [str(path.absolute()) for path in paths]
            formats.add(kind)
    if None in formats or len(formats) != 1:
        raise DataError(
            f"data files must be of one kind among {', '.join(files.FORMATS)}, or of one of the "
            f"text formats compressed as {', '.join(COMPRESSIONS)}; got "
            f"{', '.join(expanded[:3]) or 'none'}: convert them, or name their format with "
            "file_format"
        )
    return str(formats.pop()), expanded


def _expand_url(url: str, file_format: str | None) -> list[str]:
    root = RemotePath.of(url)
    with explain_unreachable(url):
        found = root.files()
    if len(found) == 1 and found[0].path == root.path:
        if found[0].size == 0:
            raise DataError(f"data files must hold data; {url} is empty: leave it out")
        return [url]
    # A directory may hold other files, such as _SUCCESS.
    named = [f for f in found if file_format or files.format_of_name(Path(f.path))]
    if not named:
        raise DataError(f"data files must exist; {url} has none: check the URL")
    return [root.url(f.path) for f in named]


def in_parallel(function: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
    """Returns what a function returns for each of some arguments, up to `MAX_REQUESTS` at a time.

    The first exception in the order of the arguments is raised.
    """
    if len(arguments) < 2:
        return [function(*own) for own in arguments]
    with ThreadPoolExecutor(MAX_REQUESTS) as pool:
        futures = [pool.submit(function, *own) for own in arguments]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


@contextlib.contextmanager
def local_copy(source: str) -> Iterator[Path]:
    """Yields the path of a local file, or of a temporary copy of a remote one.

    Errors in the data name the URL instead of the copy.

    Args:
      source: A path or a URL.

    Raises:
      DataError: if the file cannot be copied.
    """
    if not is_url(source):
        yield Path(source)
        return
    from pyarrow import fs

    remote = RemotePath.of(source)
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, Path(remote.path).name)
        with explain_unreachable(source):
            fs.copy_files(
                remote.path,
                str(copy),
                source_filesystem=remote.filesystem,
                destination_filesystem=fs.LocalFileSystem(),
            )
        with _named_as(source, copy):
            yield copy


@contextlib.contextmanager
def copy_of_head(source: str, max_bytes: int) -> Iterator[tuple[Path, bool]]:
    """Yields the path of a temporary copy of the start of a remote file, and if that is all of it.

    Errors in the data name the URL instead of the copy.

    Args:
      source: A URL.
      max_bytes: The maximum size of the copy.

    Raises:
      DataError: if the file cannot be read.
    """
    remote = RemotePath.of(source)
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, Path(remote.path).name)
        with (
            explain_unreachable(source),
            # Decompression is left to those who read the copy.
            remote.filesystem.open_input_stream(remote.path, compression=None) as stream,
        ):
            content = stream.read(max_bytes + 1)
        copy.write_bytes(content[:max_bytes])
        with _named_as(source, copy):
            yield copy, len(content) <= max_bytes


@contextlib.contextmanager
def _named_as(source: str, copy: Path) -> Iterator[None]:
    """Raises a `DataError` of the block again, with the URL in place of the copy's path."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace(str(copy), source)) from error


def parquet_column_names(source: str) -> list[str]:
    """Returns the names of the columns of a Parquet file, of which only the end is read.

    Args:
      source: A path or a URL.

    Raises:
      DataError: if the file cannot be read.
    """
    return _parquet_metadata(source).schema.to_arrow_schema().names


def parquet_num_rows(source: str) -> int:
    """Returns the number of rows of a Parquet file, of which only the end is read.

    Args:
      source: A path or a URL.

    Raises:
      DataError: if the file cannot be read.
    """
    return _parquet_metadata(source).num_rows


def _parquet_metadata(source: str) -> "pyarrow.parquet.FileMetaData":
    import pyarrow
    import pyarrow.parquet

    filesystem, path = None, source
    if is_url(source):
        remote = RemotePath.of(source)
        filesystem, path = remote.filesystem, remote.path
    with explain_unreachable(source):
        try:
            return pyarrow.parquet.read_metadata(path, filesystem=filesystem)
        except pyarrow.ArrowException as error:
            raise DataError(
                f"data files must be readable as parquet; {source} is not ({first_line(error)}): "
                "write it again"
            ) from error


def source_fingerprint(source: str) -> list[object]:
    """Returns what shows that a remote file has changed: its URL, size and time."""
    remote = RemotePath.of(source)
    with explain_unreachable(source):
        info = remote.filesystem.get_file_info(remote.path)
    return [source, info.size, str(info.mtime)]
