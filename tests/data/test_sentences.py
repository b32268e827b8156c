"""Texts are split into sentences at punctuation, and every character but white space is in one."""

import itertools

import pytest

from flax_bigbird.data.sentences import sentence_spans, trim_span
from flax_bigbird.data.windows import counted_windows


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (" \n\t", []),
        ("The cow", ["The cow"]),
        ("  The cow.  It grazes! ", ["The cow.", "It grazes!"]),
        ("Mr. Smith met J. F. Kennedy. He spoke.", ["Mr. Smith met J. F. Kennedy.", "He spoke."]),
        ('"It is so!" he said. "Is it?" Yes.', ['"It is so!" he said.', '"Is it?"', "Yes."]),
        ("It grew by 3.5 percent. No end", ["It grew by 3.5 percent.", "No end"]),
        ("A title\n\nand the text... goes on", ["A title", "and the text... goes on"]),
        ("牛が草を食べる。船が出る。", ["牛が草を食べる。", "船が出る。"]),
    ],
)
def test_sentences(text, sentences):
    assert [text[start:end] for start, end in sentence_spans(text)] == sentences


@pytest.mark.parametrize(
    ("start", "end", "expected"), [(0, 2, (2, 2)), (0, 7, (2, 5)), (2, 5, (2, 5)), (1, 4, (2, 4))]
)
def test_white_space_around_a_span_is_no_part_of_it(start, end, expected):
    """The end of a span of white space alone was before its start."""
    assert trim_span("  cow \n", start, end) == expected


@pytest.mark.parametrize("num_tokens", [0, 1, 13, 14, 15, 27, 28, 29, 100, 1000])
@pytest.mark.parametrize("length", [8, 16, 66])
def test_every_token_counts_in_one_window(num_tokens, length):
    windows = counted_windows(num_tokens, length)
    counted = [n for window in windows for n in range(window.first, window.last)]
    assert counted == list(range(num_tokens))
    assert all(w.start <= w.first <= w.last <= w.stop <= w.start + length - 2 for w in windows)
    if num_tokens <= length - 2:
        assert len(windows) == 1
    overlap = int((length - 2) / 16)
    assert all(a.stop - b.start >= overlap for a, b in itertools.pairwise(windows))
