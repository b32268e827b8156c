"""The rows that readers yield, which know their place in a file."""

from typing import Any


class FileRow(dict[str, Any]):
    """A row of a file, from the names of columns to values.

    Attributes:
      origin: The file, and the line or the row in it, for messages.
    """

    __slots__ = ("origin",)

    def __init__(self, values: dict[str, Any], origin: str):
        super().__init__(values)
        self.origin = origin
