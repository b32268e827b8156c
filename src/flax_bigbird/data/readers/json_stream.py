"""`JsonStream`, a parser that reads a JSON text in parts, without holding all of it in memory."""

import contextlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.readers.lines import iterate_lines, open_binary

CHUNK_SIZE = 2**20  # characters that are read at once

_SPACE = re.compile(r"\s*")
_LOOKAHEAD = 16  # characters; an error so close to the end of a chunk may be due to that end


class JsonStreamError(ValueError):
    """Raised if a text is not valid JSON. The message names the line."""


class JsonStream:
    """Parses a JSON text from its start to its end, one value at a time.

    Call `iterate_array` or `iterate_object` where an array or object begins, and one of the three
    methods for each of its values before the next value is taken.

    Attributes:
      last: The last value that was used, in words, for messages; "" if there is none.
    """

    def __init__(self, stream: io.TextIOWrapper):
        self._stream = stream
        self._decoder = json.JSONDecoder()
        self._buffer, self._position = stream.read(CHUNK_SIZE), 0
        self._lines_before = 0  # those that are no longer in the buffer
        self.last = ""

    def next_character(self) -> str:
        """Returns the next character that is not white space, without taking it; "" at the end."""
        while True:
            match = _SPACE.match(self._buffer, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._buffer) or not self._read_more():
                return self._buffer[self._position : self._position + 1]

    def value(self) -> Any:
        """Takes the next value, which is held in memory as a whole."""
        self.next_character()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                is_cut = error.pos >= len(self._buffer) - _LOOKAHEAD or "Unterminated" in error.msg
                start = self._position
                if not is_cut:
                    raise self._error(error.msg, error.pos) from error
                if not self._read_more():
                    raise self._error(error.msg, error.pos - start) from error
                continue
            except ValueError as error:  # an integer of more digits than Python converts
                raise self._error(str(error), self._position) from error
            start = self._position
            if end < len(self._buffer):
                break
            if not self._read_more():  # a number may go on after the end of the buffer
                end -= start
                break
        self._position = end
        return value

    def iterate_array(self) -> Iterator[int]:
        """Takes an array; yields the index of each element, which the caller takes."""
        self._take("[")
        if self.next_character() == "]":
            self._take("]")
            return
        index = 0
        while True:
            yield index
            index += 1
            if self._take(",", "]", message="an element must be followed by a comma or ]") == "]":
                return

    def iterate_object(self) -> Iterator[str]:
        """Takes an object; yields the key of each entry, whose value the caller takes."""
        self._take("{")
        if self.next_character() == "}":
            self._take("}")
            return
        while True:
            if self.next_character() != '"':
                raise self._error("a key must be a text in quotes", self._position)
            key = self.value()
            self._take(":", message="a key must be followed by a colon")
            yield key
            if self._take(",", "}", message="an entry must be followed by a comma or }") == "}":
                return

    def check_end(self) -> None:
        """Checks that nothing follows."""
        if self.next_character():
            raise self._error("nothing may follow the last value", self._position)

    def _take(self, *expected: str, message: str = "") -> str:
        character = self.next_character()
        if character not in expected:
            raise self._error(message or f"{expected[0]} must come first", self._position)
        self._position += 1
        return character

    def _read_more(self) -> bool:
        """Reads at least as much as is not parsed yet; returns whether there was more."""
        self._lines_before += self._buffer.count("\n", 0, self._position)
        self._buffer, self._position = self._buffer[self._position :], 0
        added = self._stream.read(max(CHUNK_SIZE, len(self._buffer)))
        self._buffer += added
        return bool(added)

    def _error(self, message: str, position: int) -> JsonStreamError:
        line = self._lines_before + self._buffer.count("\n", 0, position) + 1
        return JsonStreamError(f"{message}, line {line}")


@contextlib.contextmanager
def open_json(file: Path) -> Iterator[JsonStream]:
    """Opens a JSON file that is parsed as it is read.

    Raises:
      DataError: if the file is not UTF-8 or not JSON. The message names the line.
    """
    with open_binary(file) as binary:
        stream = None
        try:
            stream = JsonStream(io.TextIOWrapper(binary, encoding="utf-8-sig", newline=""))
            yield stream
        except UnicodeDecodeError:
            for _ in iterate_lines(file):  # raises an error that names the line
                pass
            raise
        except (JsonStreamError, RecursionError) as error:
            after = f" after {stream.last}" if stream and stream.last else ""
            raise DataError(
                f"{file} must be JSON; it is not{after}: {error}: correct it"
            ) from error
