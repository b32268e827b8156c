"""Tests the phrases that messages share."""

import pytest

from flax_bigbird._messages import first_line, on_one_line, pluralize


@pytest.mark.parametrize(
    ("error", "first", "whole"),
    [
        (ValueError("one\ntwo"), "one", "one two"),
        (ValueError("\n  one"), "one", "one"),
        (ValueError("x" * 1000), "x" * 300, "x" * 300),
        (KeyError(), "KeyError", "KeyError"),
        (OSError(" \n"), "OSError", "OSError"),
    ],
)
def test_exceptions_are_quoted_on_one_line(error, first, whole):
    assert first_line(error) == first
    assert on_one_line(error) == whole


def test_nouns_agree_with_their_numbers():
    assert [pluralize(n, "row") for n in (0, 1, 2, 2000)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "2,000 rows",
    ]
    assert pluralize(1, "text is empty", "texts are empty") == "1 text is empty"
    assert pluralize(3, "text is empty", "texts are empty") == "3 texts are empty"
