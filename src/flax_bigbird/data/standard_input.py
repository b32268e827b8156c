"""Copies standard input to a file, so that it can be read more than once."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from flax_bigbird.data.errors import DataError, OptionError

STANDARD_INPUT = "-"
"""The path that stands for standard input."""


@contextlib.contextmanager
def standard_input_as_file(paths: Sequence[str | Path]) -> Iterator[Sequence[str | Path]]:
    """Copies standard input to a temporary file if it is among paths.

    The suffix of the file is its format: JSON if the input starts with a brace or bracket, FASTA if
    it starts with `>`, and otherwise CSV. Errors in the data name "standard input" instead of the
    file.

    Yields:
      The paths, or that of the file instead of `-`.

    Raises:
      OptionError: if there are other paths as well.
    """
    if STANDARD_INPUT not in map(str, paths):
        yield paths
        return
    if len(paths) > 1:
        raise OptionError(
            f"standard input must be the only input; got {len(paths)} inputs: give - alone"
        )
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, "input")
        with copy.open("wb") as stream:
            shutil.copyfileobj(sys.stdin.buffer, stream)
        with copy.open("rb") as stream:
            start = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        suffix = ".csv"
        if start.startswith((b"{", b"[")):
            suffix = ".jsonl"
        elif start.startswith(b">"):
            suffix = ".fasta"
        file = copy.rename(copy.with_suffix(suffix))
        try:
            yield [file]
        except DataError as error:
            raise DataError(str(error).replace(str(file), "standard input")) from error
