"""`FileRow`, a row that readers yield, with the file and line that it comes from."""

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
