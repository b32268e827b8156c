"""Texts as pieces, framed as models read them."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flax_bigbird._transformers import quiet
from flax_bigbird.pretrained import local_path
from flax_bigbird.tasks.errors import OptionError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FRAME = 2  # [CLS] and [SEP]


def load_tokenizer(name: str | Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder or Hub id.

    Raises:
      OptionError: there is none, or it lacks one of the [CLS], [SEP], [MASK] and padding pieces.
    """
    with quiet():
        from transformers import AutoTokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(local_path(str(name)))
    except (OSError, ValueError, KeyError) as error:
        raise OptionError(
            f"tokenizer must be a folder or Hub id that holds one; {name} does not "
            f"({str(error).splitlines()[0]}): name one, or train a vocabulary with a new model"
        ) from error
    for kind in ("pad", "cls", "sep", "mask"):
        if getattr(tokenizer, f"{kind}_token_id") is None:
            raise OptionError(
                f"the tokenizer must have a {kind} token; that of {name} has none: use BigBird's"
            )
    return tokenizer


def encode(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    """The pieces of whole texts, without [CLS] and [SEP], however long.

    White space is single spaces to SentencePiece's own normalisation; the tokenizers of
    `transformers` leave line ends in, which BigBird's vocabularies do not know.
    """
    spaced = [" ".join(text.split()) for text in texts]
    return tokenizer(spaced, add_special_tokens=False, verbose=False)["input_ids"]


def framed(
    parts: list[list[int]], tokenizer: "PreTrainedTokenizerBase", length: int
) -> tuple[list[int], bool]:
    """(`[CLS] a [SEP] b [SEP]` within `length` tokens, whether something was cut).

    The longest part is cut first.
    """
    room = length - 1 - len(parts)
    sizes = [len(part) for part in parts]
    while sum(sizes) > room:
        longest = int(np.argmax(sizes))
        others = [size for index, size in enumerate(sizes) if index != longest]
        # Down to the next longest at once, then in equal parts.
        spare = sum(sizes) - room
        step = sizes[longest] - max(others, default=0)
        sizes[longest] -= min(spare, step) if step else -(-spare // len(sizes))
    ids: list[Any] = [tokenizer.cls_token_id]
    for part, size in zip(parts, sizes, strict=True):
        ids += [*part[:size], tokenizer.sep_token_id]
    return ids, sizes != [len(part) for part in parts]


def covering_windows(
    pieces: list[int], tokenizer: "PreTrainedTokenizerBase", length: int
) -> list[list[int]]:
    """`[CLS] pieces [SEP]` of at most `length` tokens, in windows that together cover a text.

    They are spread evenly: neighbours overlap a little rather than the last being nearly empty.
    """
    room = length - FRAME
    count = max(1, -(-len(pieces) // room))
    starts = np.linspace(0, max(0, len(pieces) - room), count).round().astype(int)
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    return [[first, *pieces[start : start + room], last] for start in starts]  # type: ignore[list-item]


def pieces_with_places(
    tokenizer: "PreTrainedTokenizerBase", text: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """(ids, characters [first, one past the last) of each), whatever white space is in the text."""
    plain = re.sub(r"\s", " ", text)
    made = tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return made["input_ids"], [(int(a), int(b)) for a, b in made["offset_mapping"]]


def word_windows(pieces: list[list[int]], room: int) -> list[list[tuple[int, list[int]]]]:
    """Words' pieces in windows of at most `room`, as (number of the word, its pieces).

    No word is in two windows; one that is longer than a window is cut.
    """
    found: list[list[tuple[int, list[int]]]] = [[]]
    filled = 0
    for number, word in enumerate(pieces):
        kept = word[:room]
        if filled + len(kept) > room:
            found.append([])
            filled = 0
        found[-1].append((number, kept))
        filled += len(kept)
    return found
