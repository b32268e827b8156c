"""Words and punctuation marks of texts, with their characters."""

import pytest

from flax_bigbird.data.words import split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the cow  grazes\n", ["the", "cow", "grazes"]),
        ("Mr. Adams (Boston), said:", ["Mr", ".", "Adams", "(", "Boston", ")", ",", "said", ":"]),
        ("don't well-known 3.14 1,000 10:30", ["don't", "well-known", "3.14", "1,000", "10:30"]),
        ("the U.S. paid $5, twice", ["the", "U.S", ".", "paid", "$", "5", ",", "twice"]),
        ("'quoted' -- ...", ["'", "quoted", "'", "-", "-", ".", ".", "."]),
        ("na\u0308ive \u0928\u092e\u0938\u094d\u0924\u0947!", None),
        ("the cafe\u0301's menu", ["the", "cafe\u0301's", "menu"]),
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940-\u0909\u0930\u094d\u0926\u0942",
            ["\u0939\u093f\u0928\u094d\u0926\u0940-\u0909\u0930\u094d\u0926\u0942"],
        ),
        ("", []),
        (" \t", []),
    ],
)
def test_words_and_marks(text, words):
    spans = split_words(text)
    if words is None:  # combining characters do not end a word
        words = [*text[:-1].split(), "!"]
    assert [text[start:end] for start, end in spans] == words
