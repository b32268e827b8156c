"""Splits texts into sentences by their punctuation, without a model and for many languages."""

import re

# The end of a sentence: a mark with quotes or brackets that it closes, and white space unless the
# script needs none (Chinese, Japanese, Hindi, Arabic); or an empty line.
_END = re.compile(
    r"""
    [.!?\u2026]+ [\"'\u201d\u2019\xbb)\]]* (?=\s)
    | [\u3002\uff01\uff1f\u0964\u061f]+ [\u300d\u300f\u201d\u2019\uff09]*
    | (?=\n[^\S\n]*\n)
    """,
    re.VERBOSE,
)
_MARKS_BEFORE_SPACES = frozenset(".!?\u2026")
# A period after these does not end a sentence: one letter, as in initials, and titles.
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'\u201c\u2018])(?:[^\W\d_]|Mr|Mrs|Ms|Dr|Prof|St|Gen|Sen|Rep|No|vs|cf|e\.g|i\.e|etc|al|Fig)\.$"
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Returns the characters `[start, end)` of each sentence, without surrounding white space.

    A sentence ends after `.`, `!`, `?` or the like if white space follows, unless the next word
    starts with a lowercase letter or the mark belongs to an initial or a common abbreviation; and
    at an empty line.
    """
    spans = []
    start = 0
    for match in _END.finditer(text):
        end = match.end()
        if match[0][:1] in _MARKS_BEFORE_SPACES and _continues(text, start, match.start() + 1, end):
            continue
        _append(spans, text, start, end)
        start = end
    _append(spans, text, start, len(text))
    return spans


def trim_span(text: str, start: int, end: int) -> tuple[int, int]:
    """Returns the characters `[start, end)` without white space around them."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return start, start + len(part.strip())


def _continues(text: str, start: int, after_mark: int, end: int) -> bool:
    """Returns whether a sentence goes on after a mark."""
    rest = text[end : end + 64]
    following = rest.lstrip()[:1]
    is_paragraph_end = "\n\n" in rest[: len(rest) - len(rest.lstrip())]
    if following.islower() and not is_paragraph_end:
        return True
    return bool(_ABBREVIATION.search(text[max(start, after_mark - 16) : after_mark]))


def _append(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    start, end = trim_span(text, start, end)
    if end > start:
        spans.append((start, end))
