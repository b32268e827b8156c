"""Prints texts of the user's files without letting them control the terminal."""

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def printable(text: str) -> str:
    """Returns a text with its control characters, except line breaks, as escape sequences.

    A file may hold sequences that move the cursor, change colors or set the title of a terminal.
    """
    return "".join(c if c == "\n" or unicodedata.category(c) != "Cc" else _escape(c) for c in text)


def print_plainly(console: "Console", text: str, style: str = "") -> None:
    """Prints a text as it is, without rich's markup, and with control characters escaped."""
    from rich.text import Text  # which rich prints without markup, highlights and emoji codes

    console.print(Text(printable(text), style))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
