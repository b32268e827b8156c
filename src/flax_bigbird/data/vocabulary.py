"""A SentencePiece vocabulary of the training speeches, in BigBird's layout."""

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from flax_bigbird._transformers import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIECES = 8000
_SENTENCE_END = re.compile(r"(?<=[.;:?!])\s+|\n+")


def train_vocabulary(texts: Iterable[str], size: int = PIECES, *, or_fewer: bool = False) -> bytes:
    """A `spiece.model` of `size` Unigram pieces: pad 0, eos 1, bos 2, unk 3, CLS 4, SEP 5, MASK 6.

    Args:
      or_fewer: where the texts do not hold enough for so many pieces, as many as they do.

    Raises:
      ValueError: the texts hold too few different words for `size` pieces.
    """
    import sentencepiece

    model = io.BytesIO()
    sentences = (part for text in texts for part in _SENTENCE_END.split(text) if part)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences,
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            hard_vocab_limit=not or_fewer,
            max_sentence_length=20_000,
            character_coverage=1.0,
            normalization_rule_name="identity",  # transformers' tokenizer does not normalise
            num_threads=2,
            pad_id=0,
            eos_id=1,
            bos_id=2,
            unk_id=3,
            pad_piece="<pad>",
            control_symbols=["[CLS]", "[SEP]", "[MASK]"],
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"the texts do not support a vocabulary of {size} pieces: ask for fewer ({error})"
        ) from error
    return model.getvalue()


def save_vocabulary(model: bytes, folder: Path, max_length: int) -> "PreTrainedTokenizerBase":
    """Writes the tokenizer's files to `folder` and returns the tokenizer loaded from there.

    What is trained with is what a user will load, so the ids cannot differ.
    """
    (folder / "spiece.model").write_bytes(model)
    with quiet():
        from transformers import BigBirdTokenizer
    tokenizer = BigBirdTokenizer.from_pretrained(folder, model_max_length=max_length)
    tokenizer.save_pretrained(folder)
    return load_tokenizer(folder)


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer saved in `folder`."""
    with quiet():
        from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """The pieces of a whole text, without [CLS] and [SEP]: windows add their own."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
