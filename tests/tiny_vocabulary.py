"""A text, and a tokenizer whose vocabulary was trained on it."""

from pathlib import Path

from flax_bigbird.data.types import Tokenizer
from flax_bigbird.data.vocabulary import save_vocabulary, train_vocabulary

TEXT = "The quick brown fox jumps over the lazy dog. It sleeps by the old mill at noon. " * 4


def tiny_tokenizer(folder: Path) -> Tokenizer:
    """Returns a tokenizer with 38 tokens, saved in a folder."""
    return save_vocabulary(train_vocabulary([TEXT], 38), folder, 512)
