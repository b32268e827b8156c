"""Windows of documents, words, and contexts, and the offsets of tokens."""

import numpy as np
import pytest

from flax_bigbird.data.tokenization import add_special_tokens, tokenize_with_offsets
from flax_bigbird.data.windows import (
    context_windows,
    covering_windows,
    split_windows,
    word_windows,
)

CLS, SEP = 1, 2


class SpecialTokens:
    """All that the windows of token ids need of a tokenizer."""

    cls_token_id, sep_token_id = CLS, SEP


@pytest.mark.parametrize("count", [0, 1, 6, 7, 13, 100])
def test_covering_windows_cover_the_text_to_its_end(count):
    text = list(range(10, 10 + count))
    windows = covering_windows(text, SpecialTokens(), 8)  # type: ignore[arg-type]
    assert all(ids[0] == CLS and ids[-1] == SEP and len(ids) <= 8 for ids in windows)
    assert len(windows) == max(1, -(-count // 6))
    assert sorted({id for ids in windows for id in ids[1:-1]}) == text
    assert all(len(ids) == 8 for ids in windows) or len(windows) == 1
    starts = [ids[1] for ids in windows if len(ids) > 2]
    assert starts == sorted(set(starts))


def test_split_windows_drop_a_short_end():
    split = list(split_windows(range(10, 25), SpecialTokens(), 8, min_tokens=4))  # type: ignore[arg-type]
    assert split == [
        ([CLS, *range(10, 16), SEP], 0),
        ([CLS, *range(16, 22), SEP], 0),
        ([], 3),
    ]
    (short,) = split_windows([10], SpecialTokens(), 8, min_tokens=4)  # type: ignore[arg-type]
    assert short == ([CLS, 10, SEP], 0)
    (empty,) = split_windows([], SpecialTokens(), 8, min_tokens=4)  # type: ignore[arg-type]
    assert empty == ([], 0)
    (window,) = split_windows([], SpecialTokens(), 8, min_tokens=0)  # type: ignore[arg-type]
    assert window == ([CLS, SEP], 0)


def test_no_word_is_in_two_windows():
    words = [[10, 11], [12], [], [13, 14, 15], [16] * 9]
    assert word_windows(words, 4) == [
        [(0, [10, 11]), (1, [12]), (2, [])],
        [(3, [13, 14, 15])],
        [(4, [16] * 4)],
    ]


@pytest.mark.parametrize(
    ("sizes", "length", "expected"),
    [
        ((3, 2), 20, (3, 2)),
        ((30, 2), 10, (5, 2)),
        ((2, 30), 10, (2, 5)),
        ((30, 20), 11, (4, 4)),
        ((9,), 6, (4,)),
    ],
)
def test_the_longest_part_is_truncated_first(sizes, length, expected):
    parts = [[10 + index] * size for index, size in enumerate(sizes)]
    ids, truncated = add_special_tokens(parts, SpecialTokens(), length)  # type: ignore[arg-type]
    joined = [CLS]
    for index, size in enumerate(expected):
        joined += [10 + index] * size + [SEP]
    assert ids == joined
    assert truncated == (sizes != expected)


@pytest.mark.parametrize("space", [" ", "\n", "  ", "\t\n"])
def test_offsets_are_the_characters_of_the_tokens(tokenizer, text, space):
    text = text.replace(" by ", f"{space}by{space}")
    ids, offsets = tokenize_with_offsets(tokenizer, text)
    assert len(ids) == len(offsets)
    for token, (start, end) in zip(tokenizer.convert_ids_to_tokens(ids), offsets, strict=True):
        assert token.replace("▁", "") in text[start:end] or token == "<unk>"


def test_context_windows_overlap_and_cover_the_context(tokenizer, text):
    _, offsets = tokenize_with_offsets(tokenizer, text)
    windows = list(context_windows(tokenizer, "what", text, 40, 12))
    joined = windows[0].offsets
    for window in windows[1:]:
        assert window.offsets[:12] == joined[-12:]
        joined = joined + window.offsets[12:]
    assert joined == offsets
    assert not any(window.question_truncated for window in windows)


def test_a_long_question_takes_a_quarter_of_the_window(tokenizer, text):
    window = next(context_windows(tokenizer, text, text, 40, 12))
    assert window.question_truncated
    assert window.context_start == 10 + 2
    np.testing.assert_equal(len(window.input_ids), 40)


def test_an_empty_text_has_no_tokens_and_no_offsets(tokenizer):
    assert tokenize_with_offsets(tokenizer, "") == ([], [])
