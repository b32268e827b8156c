"""Creates vocabularies with the special tokens of BigBird: SentencePiece models or characters."""

import functools
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from flax_bigbird._transformers import quiet
from flax_bigbird.data.character_vocabulary import find_characters, save_character_vocabulary
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.normalization import normalize_as_trained
from flax_bigbird.data.types import Tokenizer

DEFAULT_VOCAB_SIZE = 8000
_SENTENCE_END = re.compile(r"(?<=[.;:?!])\s+|\n+")


def train_vocabulary(
    texts: Iterable[str], size: int = DEFAULT_VOCAB_SIZE, *, allow_fewer: bool = False
) -> bytes:
    """Trains a Unigram vocabulary and returns the content of its `spiece.model`.

    The ids of the special tokens are padding 0, EOS 1, BOS 2, UNK 3, CLS 4, SEP 5, and MASK 6.

    Args:
      texts: The texts to train on.
      size: The number of tokens of the vocabulary.
      allow_fewer: Whether the vocabulary may be smaller if the texts do not support `size` tokens.

    Raises:
      DataError: if all texts are empty.
      ValueError: if the texts have too few different words for `size` tokens.
      Exception: what the iterator of the texts raises.
    """
    import sentencepiece

    model = io.BytesIO()
    num_sentences = 0
    failure: Exception | None = None
    # The composed form, which `flax_bigbird.data.normalization` gives to all texts afterwards.
    composed = (unicodedata.normalize("NFC", text) for text in texts)

    def sentences() -> Iterator[str]:
        nonlocal num_sentences, failure
        try:
            for text in composed:
                for sentence in filter(None, _SENTENCE_END.split(text)):
                    num_sentences += not sentence.isspace()
                    yield sentence
        except Exception as error:
            failure = error  # SentencePiece replaces it by a RuntimeError
            raise

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences(),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            hard_vocab_limit=not allow_fewer,
            max_sentence_length=20_000,
            character_coverage=1.0,
            normalization_rule_name="identity",  # as the tokenizer of `transformers`
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
        if failure is not None:
            raise failure from None
        if not num_sentences:
            raise DataError(
                "the texts to train a vocabulary on must hold words; all are empty: name the "
                "column that holds them with text_column"
            ) from error
        raise ValueError(
            f"the texts must support a vocabulary of {size} tokens; they do not ({error}): ask for "
            "fewer"
        ) from error
    return model.getvalue()


def prepare_vocabulary(
    kind: str, texts: Iterable[str], size: int
) -> Callable[[Path, int], Tokenizer]:
    """Creates the vocabulary of a new tokenizer, and returns a function that saves it.

    Args:
      kind: "subwords" for `train_vocabulary`, or "characters" for the characters of the texts.
      texts: The texts to train on.
      size: The maximum number of tokens of the vocabulary.

    Returns:
      A function of an existing directory and the maximum number of tokens that the model reads. It
      writes the files of the tokenizer, and returns the tokenizer loaded from there.

    Raises:
      ValueError: if the texts have too few different words for `size` tokens, or no characters.
    """
    if kind == "characters":
        return functools.partial(save_character_vocabulary, find_characters(texts, size))
    return functools.partial(save_vocabulary, train_vocabulary(texts, size, allow_fewer=True))


def save_vocabulary(model: bytes, directory: Path, max_length: int) -> Tokenizer:
    """Writes the files of a tokenizer to a directory, and returns the tokenizer loaded from there.

    Training with the loaded tokenizer makes sure that users get the same token ids.

    Args:
      model: The content of `spiece.model`, from `train_vocabulary`.
      directory: An existing directory.
      max_length: The maximum number of tokens that the model reads.
    """
    (directory / "spiece.model").write_bytes(model)
    with quiet():
        from transformers import AutoTokenizer, BigBirdTokenizer
    tokenizer = BigBirdTokenizer.from_pretrained(directory, model_max_length=max_length)
    normalize_as_trained(tokenizer, directory / "spiece.model")
    tokenizer.save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)
