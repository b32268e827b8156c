"""The tokens of texts, with their characters, in the form of text-embeddings-inference."""

from typing import Any

from flax_bigbird.data.tokenization import tokenize_with_offsets


def list_tokens(
    tokenizer: Any, texts: list[str], add_special_tokens: bool
) -> list[list[dict[str, Any]]]:
    """Returns the tokens of each text.

    Args:
      tokenizer: The tokenizer.
      texts: The texts.
      add_special_tokens: Whether to add `[CLS]` and `[SEP]`, which have no characters.
    """
    special = set(tokenizer.all_special_ids)
    ends = [
        {"id": id, "text": token, "special": True, "start": None, "stop": None}
        for id, token in (
            (tokenizer.cls_token_id, tokenizer.cls_token),
            (tokenizer.sep_token_id, tokenizer.sep_token),
        )
    ]
    results = []
    for text in texts:
        ids, offsets = tokenize_with_offsets(tokenizer, text)
        tokens = [
            {"id": id, "text": text[start:stop], "special": id in special}
            | {"start": start, "stop": stop}
            for id, (start, stop) in zip(ids, offsets, strict=True)
        ]
        results.append([ends[0], *tokens, ends[1]] if add_special_tokens else tokens)
    return results
