"""Phrases of messages: the text of an exception on one line, and counts with their nouns."""

_MAX_LENGTH = 300  # characters of the text of an exception


def first_line(error: BaseException) -> str:
    """Returns the first line of a message, or the name of an exception without one."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_MAX_LENGTH]


def on_one_line(error: BaseException) -> str:
    """Returns a whole message on one line, for exceptions whose first line does not say enough."""
    return (" ".join(str(error).split()) or type(error).__name__)[:_MAX_LENGTH]


def pluralize(number: int, one: str, many: str | None = None) -> str:
    """Returns a number and what it counts, such as "1 row" and "2,000 rows".

    Args:
      number: The number.
      one: What follows the number 1. It may be more than a noun, such as "text is empty".
      many: What follows all other numbers. By default, it is `one` with an s.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
