"""The tokens of texts, with their characters, in the form of text-embeddings-inference."""

from collections.abc import Callable
from typing import Any

from flax_bigbird.data.tokenization import tokenize_with_offsets
from flax_bigbird.data.windows import MAX_QUESTION_FRACTION, covering_starts

Token = dict[str, Any]


def list_tokens(
    tokenizer: Any,
    texts: list[str],
    add_special_tokens: bool,
    check_count: Callable[[int], None] = lambda num_tokens: None,
) -> list[list[Token]]:
    """Returns the tokens of each text.

    Args:
      tokenizer: The tokenizer.
      texts: The texts.
      add_special_tokens: Whether to add `[CLS]` and `[SEP]`, which have no characters.
      check_count: Called with the number of tokens of each text before they are listed, which takes
        a hundred times as much memory as the text. It may raise an exception.
    """
    special = set(tokenizer.all_special_ids)
    ends = _ends(tokenizer)
    results = []
    for text in texts:
        ids, offsets = tokenize_with_offsets(tokenizer, text)
        check_count(len(ids))
        tokens = [
            {"id": id, "text": text[start:stop], "special": id in special}
            | {"start": start, "stop": stop}
            for id, (start, stop) in zip(ids, offsets, strict=True)
        ]
        results.append([ends[0], *tokens, ends[1]] if add_special_tokens else tokens)
    return results


def token_windows(
    tokenizer: Any,
    text: str,
    query: str | None,
    length: int,
    check_count: Callable[[int], None] = lambda num_tokens: None,
) -> tuple[list[list[Token]], int]:
    """Splits a text into windows `[CLS] query [SEP] tokens [SEP]` that cover it evenly.

    Args:
      tokenizer: The tokenizer.
      text: The text.
      query: The question or query before it, if there is one. It is truncated to a quarter of a
        window, and its tokens have no characters.
      length: The maximum number of tokens of a window.
      check_count: Called with the number of tokens of the text, see `list_tokens`.

    Returns:
      The tokens of each window, and the number of tokens of the text.
    """
    first, last = _ends(tokenizer)
    before = [first]
    (tokens,) = list_tokens(tokenizer, [text], False, check_count)
    if query is not None:
        (of_query,) = list_tokens(tokenizer, [query], False)
        of_query = of_query[: int(length * MAX_QUESTION_FRACTION)]
        before += [*(token | {"start": None, "stop": None} for token in of_query), last]
    size = length - len(before) - 1
    starts = covering_starts(len(tokens), size)
    return [[*before, *tokens[start : start + size], last] for start in starts], len(tokens)


def _ends(tokenizer: Any) -> list[Token]:
    """Returns the tokens before and after a text."""
    return [
        {"id": id, "text": token, "special": True, "start": None, "stop": None}
        for id, token in (
            (tokenizer.cls_token_id, tokenizer.cls_token),
            (tokenizer.sep_token_id, tokenizer.sep_token),
        )
    ]
