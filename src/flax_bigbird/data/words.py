"""Splits a text into words and punctuation marks, and returns their character spans."""

import re
import unicodedata

_INSIDE_WORDS = frozenset(
    "-'\N{RIGHT SINGLE QUOTATION MARK}._"
)  # between two letters or digits: well-known, don't, 3.14
_INSIDE_NUMBERS = frozenset(",:")  # between two digits: 1,000 and 10:30


def split_words(text: str) -> list[tuple[int, int]]:
    """Returns the character spans `[start, end)` of the words and punctuation marks of a text.

    Words end at white space and at punctuation, and each punctuation mark or symbol is a word of
    its own: `"Mr. Adams (Boston)"` has the words `Mr`, `.`, `Adams`, `(`, `Boston`, `)`. Hyphens,
    apostrophes, and periods inside a word, and commas and colons inside a number, do not split it.
    """
    spans = []
    for match in re.finditer(r"\S+", text):
        start, end = match.span()
        for index in range(start, end):
            if _is_punctuation(text[index]) and not _is_part_of_word(text, index):
                if start < index:
                    spans.append((start, index))
                spans.append((index, index + 1))
                start = index + 1
        if start < end:
            spans.append((start, end))
    return spans


def _is_punctuation(character: str) -> bool:
    return not character.isalnum() and unicodedata.category(character)[0] in "PS"


def _is_part_of_word(text: str, index: int) -> bool:
    """Returns whether a punctuation mark belongs to the word around it."""
    before, after = text[max(0, index - 1) : index], text[index + 1 : index + 2]
    if text[index] in _INSIDE_WORDS:
        return _ends_letter(before) and after.isalnum()
    return text[index] in _INSIDE_NUMBERS and before.isdigit() and after.isdigit()


def _ends_letter(character: str) -> bool:
    """Returns whether a character, or "", is a letter or a digit, or the accent of one."""
    return character.isalnum() or (character != "" and unicodedata.category(character)[0] == "M")
